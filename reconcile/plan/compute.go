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
		c.want(c.set.Workloads)
	}
	if p.Blocked != nil {
		c.renames = renames{}
	}
	if c.set != nil { // else nothing was ever accepted, and there is nothing to keep alive
		c.gather()
		c.lowerAhead()
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
	works  []*work       // those of byName; sorted by name once they are gathered
	byName map[manifest.Name]*work
	// observed holds our containers by name, oldest first.
	observed map[manifest.Name][]*runtime.Status
	// runs are the containers of CronJobs, by the run's name; crons the CronJobs of set.
	runs    map[manifest.Name][]*runtime.Status
	crons   map[manifest.Name]*manifest.Workload
	gone    []manifest.Name                      // of observed, that are not desired
	before  map[manifest.Name]*manifest.Workload // see accepted
	renames renames
	cancel  []manifest.Name
	wake    time.Time
	proven  []Proof
	failed  []Failure
	unready []manifest.Name
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
	placed, ordered   visit
}

func newComputation(in Input) *computation {
	c := &computation{in: in, observed: make(map[manifest.Name][]*runtime.Status, len(in.Observed)), runs: map[manifest.Name][]*runtime.Status{}}
	single := make([]*runtime.Status, 0, len(in.Observed)) // for names that have one, as nearly all
	for i := range in.Observed {
		s := &in.Observed[i]
		if len(s.Spec.Origin) == 0 {
			continue
		}
		n := manifest.Name{Namespace: s.Spec.Name.Namespace, Name: s.Spec.Name.Name}
		if _, _, isRun := RunOf(n); isRun {
			c.runs[n] = append(c.runs[n], s)
		} else if list := c.observed[n]; len(list) > 0 {
			c.observed[n] = append(list, s)
		} else {
			single = append(single, s)
			c.observed[n] = single[len(single)-1 : len(single) : len(single)]
		}
	}
	for _, list := range c.runs {
		slices.SortFunc(list, compareAge)
	}
	for _, list := range c.observed {
		slices.SortFunc(list, compareAge)
	}
	c.want(in.Desired.Workloads)
	return c
}

// want makes one work for each name of list, and no others.
func (c *computation) want(list []manifest.Workload) {
	c.works, c.byName = make([]*work, 0, len(list)), make(map[manifest.Name]*work, len(list))
	for i := range list {
		c.work(list[i].Name).want = &list[i]
	}
}

// work returns the work of a name, making it where there is none.
func (c *computation) work(name manifest.Name) *work {
	w := c.byName[name]
	if w == nil {
		w = &work{name: name}
		c.byName[name], c.works = w, append(c.works, w)
	}
	return w
}

// wanted returns what is wanted by a name; nil: nothing is.
func (c *computation) wanted(name manifest.Name) *manifest.Workload {
	if w := c.byName[name]; w != nil {
		return w.want
	}
	return nil
}

// accepted returns what was wanted by a name so far; nil: nothing was.
func (c *computation) accepted(name manifest.Name) *manifest.Workload {
	if c.before == nil && c.in.Accepted != nil {
		list := c.in.Accepted.Workloads
		c.before = make(map[manifest.Name]*manifest.Workload, len(list))
		for i := range list {
			c.before[list[i].Name] = &list[i]
		}
	}
	return c.before[name]
}

// gather adds a work for each name that is here and not wanted, and says what is here of each.
func (c *computation) gather() {
	for name := range c.observed {
		c.work(name)
	}
	c.gatherRuns()
	for _, w := range c.works {
		w.past = c.in.History[w.name]
		if w.ends() {
			w.keep, w.extra = pick(c.containers(w.name), w.digest())
		} else {
			c.sortInstances(w)
		}
	}
	slices.SortFunc(c.works, func(a, b *work) int { return a.name.Compare(b.name) })
}

// lowerAhead lowers what is certain to be made anew, as far as one name can tell.
func (c *computation) lowerAhead() {
	var list []*manifest.Workload
	for _, w := range c.works {
		if w.want == nil || w.keep != nil || w.ends() || w.past != (History{}) || c.set.Node.Unschedulable || !c.in.Lowered.lacks(w.want) {
			continue
		}
		if refusal, _ := Refuse(*w.want, c.in.Facts, c.in.Policy); refusal == "" {
			list = append(list, w.want)
		}
	}
	if len(list) > 1 {
		c.in.Lowered.ahead(list)
	}
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
