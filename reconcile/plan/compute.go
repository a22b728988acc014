package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Compute decides what to do now. It is total and deterministic: any input gives a plan, and the order of workloads
// and containers in it makes no difference. Only containers that carry an Origin are looked at: others are not ours.
func Compute(in Input) Plan {
	in.Lowered.turn()
	c := newComputation(in)
	p := Plan{Revision: in.Desired.Revision, Blocked: c.guard(), Steps: []Step{}}
	switch {
	case p.Blocked == nil:
		c.set = &in.Desired
	case in.Accepted != nil:
		c.set = in.Accepted
	}
	if p.Blocked != nil {
		c.renames = renames{}
	}
	if c.set != nil { // else nothing was ever accepted, and there is nothing to keep alive
		c.gather()
		for _, w := range c.works {
			c.decide(w)
		}
		c.place()
		for _, w := range c.works {
			c.respectFlight(w)
		}
		c.cancelUnwanted()
		p.Steps = c.order()
	}
	p.Cancel = c.cancel
	p.Proven, p.Failed, p.Unready = c.proven, c.failed, c.unready
	for _, w := range c.works {
		if w.hold != nil {
			p.Held = append(p.Held, *w.hold)
			c.wakeAt(w.hold.Until)
		}
	}
	p.Wake = c.wake
	return p
}

// computation is one run of Compute.
type computation struct {
	in     Input
	set    *manifest.Set // what is brought about: the desired set or, while blocked, the accepted one; nil: nothing
	works  []*work       // sorted by name
	byName map[manifest.Name]*work
	// observed holds our containers by name, oldest first.
	observed map[manifest.Name][]*runtime.Status
	// runs are the containers of CronJobs, by the run's name; crons the CronJobs of set.
	runs     map[manifest.Name][]*runtime.Status
	crons    map[manifest.Name]*manifest.Workload
	desired  map[manifest.Name]*manifest.Workload
	accepted map[manifest.Name]*manifest.Workload
	renames  renames
	cancel   []manifest.Name
	wake     time.Time
	proven   []Proof
	failed   []Failure
	unready  []manifest.Name
}

// work is one name: what is wanted of it, what is here of it, and what was decided.
type work struct {
	name  manifest.Name
	want  *manifest.Workload // nil: it is to go
	past  History
	keep  *runtime.Status   // the container that counts; nil: none
	extra []*runtime.Status // the others, to be taken away
	// Where keep is known to be good: candidate is to take its place, failed tried to and is kept for its output.
	good              bool
	candidate, failed *runtime.Status
	step              *Step
	hold              *Hold
	done              bool // ran to its end, and is not to be started again
}

func newComputation(in Input) *computation {
	c := &computation{in: in, observed: make(map[manifest.Name][]*runtime.Status, len(in.Observed)), runs: map[manifest.Name][]*runtime.Status{}}
	for i := range in.Observed {
		s := &in.Observed[i]
		if len(s.Spec.Origin) == 0 {
			continue
		}
		n := manifest.Name{Namespace: s.Spec.Name.Namespace, Name: s.Spec.Name.Name}
		if _, _, isRun := RunOf(n); isRun {
			c.runs[n] = append(c.runs[n], s)
		} else {
			c.observed[n] = append(c.observed[n], s)
		}
	}
	for _, list := range c.runs {
		slices.SortFunc(list, compareAge)
	}
	for _, list := range c.observed {
		slices.SortFunc(list, compareAge)
	}
	c.desired = byName(in.Desired.Workloads)
	if in.Accepted != nil {
		c.accepted = byName(in.Accepted.Workloads)
	}
	return c
}

func byName(list []manifest.Workload) map[manifest.Name]*manifest.Workload {
	out := make(map[manifest.Name]*manifest.Workload, len(list))
	for i := range list {
		out[list[i].Name] = &list[i]
	}
	return out
}

// gather makes one work for each name that is wanted or here.
func (c *computation) gather() {
	c.byName = make(map[manifest.Name]*work, len(c.set.Workloads))
	for i := range c.set.Workloads {
		w := &c.set.Workloads[i]
		c.byName[w.Name] = &work{name: w.Name, want: w}
	}
	for name := range c.observed {
		if c.byName[name] == nil {
			c.byName[name] = &work{name: name}
		}
	}
	c.gatherRuns()
	c.works = make([]*work, 0, len(c.byName))
	for _, w := range c.byName {
		w.past = c.in.History[w.name]
		if w.ends() {
			w.keep, w.extra = pick(c.containers(w.name), w.digest())
		} else {
			c.sortInstances(w)
		}
		c.works = append(c.works, w)
	}
	slices.SortFunc(c.works, func(a, b *work) int { return a.name.Compare(b.name) })
}

// wakeIn makes the next plan be made after d at the latest.
func (c *computation) wakeIn(d time.Duration) { c.wakeAt(c.in.Now.Add(d)) }

func (c *computation) wakeAt(t time.Time) {
	if !t.IsZero() && (c.wake.IsZero() || t.Before(c.wake)) {
		c.wake = t
	}
}

// respectFlight drops what a step in flight is bringing about already, and cancels one that brings about something else.
func (c *computation) respectFlight(w *work) {
	f, ok := c.in.InFlight[w.name]
	if !ok || c.isRenamed(w) {
		return
	}
	wanted := ""
	switch {
	case f.Op == OpSwitch, f.Op == OpRollback, f.Op == OpRemove && f.Digest != "":
		w.step = nil // these end by themselves, and whatever comes next comes after them
		return
	case w.step != nil:
		wanted = w.step.Workload.Digest
	case w.hold != nil && w.keep != nil && w.keep.Spec.OriginDigest == f.Digest:
		return // keeps alive what runs while the new is held
	case w.want != nil:
		wanted = w.want.Digest
	}
	if f.Digest == wanted {
		w.step, w.hold = nil, nil
		return
	}
	c.cancel = append(c.cancel, w.name)
}

// cancelUnwanted cancels steps in flight of names that are neither wanted nor here.
func (c *computation) cancelUnwanted() {
	for name, f := range c.in.InFlight {
		if c.byName[name] == nil && f.Digest != "" {
			c.cancel = append(c.cancel, name)
		}
	}
	slices.SortFunc(c.cancel, manifest.Name.Compare)
}

// ID identifies the plan by its content: equal plans have equal IDs.
func (p Plan) ID() string {
	hash := sha256.New()
	enc := json.NewEncoder(hash)
	whole := p
	whole.Steps = nil
	err := enc.Encode(whole)
	for _, s := range p.Steps {
		image := ""
		if s.Spec.Image != nil {
			image = s.Spec.Image.Digest
		}
		err = errors.Join(err, enc.Encode(s),
			enc.Encode([]any{s.Workload.Digest, image, s.ID, s.Stop, s.Remove, s.Spec.SecretDigests}))
	}
	if err != nil { // only a time outside of the years 0 to 9999 does that
		return "unidentified"
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
