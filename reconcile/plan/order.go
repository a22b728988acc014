package plan

import (
	"fmt"
	"slices"
	"time"

	"reconciler/manifest"
)

// order puts the steps in the order of what depends on what: what is started after its dependencies, in the order of
// names where that leaves a choice; then removals, dependants first. A start whose dependency does not run and is not
// about to becomes a Hold.
func (c *computation) order() []Step {
	o := ordering{c: c}
	var gone, renamed []*work
	for _, w := range c.works {
		switch {
		case c.isRenamed(w):
			renamed = append(renamed, w)
		case w.step == nil:
		case w.want == nil:
			gone = append(gone, w)
		default:
			o.add(w)
		}
	}
	for _, w := range renamed { // now that it is known what becomes of their successors
		if c.renamed(w); w.step != nil {
			o.sorted = append(o.sorted, w)
		}
	}
	sorted := append(o.sorted, c.orderRemovals(gone)...)
	steps := make([]Step, 0, len(sorted))
	seen := make(map[*work]bool, len(sorted))
	var show func(w *work)
	show = func(w *work) { // after all that it waits for, ports included
		if seen[w] || w.step == nil {
			return
		}
		seen[w] = true
		for _, name := range w.step.After {
			if before := c.byName[name]; before != nil {
				show(before)
			}
		}
		w.step.Name = w.name
		steps = append(steps, *w.step)
	}
	for _, w := range sorted {
		show(w)
	}
	return steps
}

type ordering struct {
	c      *computation
	sorted []*work
}

// visit is how far a walk along dependencies is with one name.
type visit int

const (
	visiting visit = iota + 1
	visited
	stalled // its step waits for something that does not come, and takes nothing
	bound   // its step waits for one that is being visited
)

// add adds w's step after those of its dependencies. A circle, which no valid manifest has, is cut where it is
// entered.
func (o *ordering) add(w *work) {
	if w.ordered != 0 {
		return
	}
	w.ordered = visiting
	defer func() { w.ordered = visited }()
	if w.want == nil {
		return
	}
	names := dependencies(w.bringsAbout())
	for _, name := range names {
		if dep := o.c.byName[name]; dep != nil {
			o.add(dep)
		}
	}
	if w.step == nil {
		return
	}
	if w.step.starts() {
		o.await(w, names)
	}
	if w.step != nil {
		o.sorted = append(o.sorted, w)
	}
}

// bringsAbout returns what w's step starts, which is what ran before where that is kept alive; else what is wanted.
func (w *work) bringsAbout() *manifest.Workload {
	if w.step != nil && w.step.starts() {
		return &w.step.Workload
	}
	return w.want
}

// starts reports whether a step ends with a container being started.
func (s Step) starts() bool {
	return s.Op == OpCreate || s.Op == OpReplace || s.Op == OpRestart || s.Op == OpRollback && s.Start
}

// await makes w's step wait for the steps of its dependencies, or holds w where one is neither there nor coming. That
// goes for restarts too: after a reboot everything starts in order.
func (o *ordering) await(w *work, names []manifest.Name) {
	c := o.c
	for _, name := range names {
		if dep := c.byName[name]; dep != nil && dep.ordered == visiting {
			continue // a circle
		}
		switch why, until, coming := c.missing(w, name); {
		case coming:
			if !slices.Contains(w.step.After, name) {
				w.step.After = append(w.step.After, name)
			}
		case why != "":
			w.step = nil
			if w.hold == nil {
				w.hold = &Hold{Name: w.name, Reason: ReasonDependency, Message: why, Until: until}
			}
			return
		}
	}
}

// missing says why a dependency of w is not there; coming means that a step of this plan or in flight brings it.
func (c *computation) missing(w *work, name manifest.Name) (why string, until time.Time, coming bool) {
	dep := c.byName[name]
	if dep == nil || dep.want == nil {
		return fmt.Sprintf("waits for %s, which is not meant to run here", name.Short()), time.Time{}, false
	}
	switch c.conditionOf(w.bringsAbout(), dep) {
	case manifest.ConditionCompleted:
		return c.notCompleted(dep), time.Time{}, false
	case manifest.ConditionHealthy:
		return c.notHealthy(w, dep), time.Time{}, false
	case manifest.ConditionStarted:
	}
	if dep.step != nil && dep.step.starts() {
		return "", time.Time{}, true
	}
	if f, ok := c.in.InFlight[name]; ok && f.Op != OpRemove && f.Op != OpUpdate && f.Op != OpSwitch && f.Op != OpEnd {
		return "", time.Time{}, true
	}
	if dep.runs() {
		return "", time.Time{}, false
	}
	if dep.done {
		if other, shares := w.bringsAbout().Spec.Network.SharedWith(); shares && other == name.Name && w.name.Namespace == name.Namespace {
			return fmt.Sprintf("shares the network of %s, which has ended", name.Short()), time.Time{}, false
		}
		return "", time.Time{}, false
	}
	if dep.hold != nil {
		return fmt.Sprintf("waits for %s: %s", name.Short(), dep.hold.Reason), dep.hold.Until, false
	}
	return fmt.Sprintf("waits for %s, which does not run", name.Short()), time.Time{}, false
}

// dependencies returns the names that w depends on, sorted, each once.
func dependencies(w *manifest.Workload) []manifest.Name {
	other, shares := w.Spec.Network.SharedWith()
	if len(w.Spec.DependsOn) == 0 && !shares {
		return nil
	}
	var out []manifest.Name
	if shares {
		out = append(out, manifest.Name{Namespace: w.Name.Namespace, Name: other})
	}
	for _, d := range w.Spec.DependsOn {
		if name, err := manifest.ParseName(d.Name, w.Name.Namespace); err == nil {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, manifest.Name.Compare)
	return slices.Compact(out)
}

// orderRemovals puts dependants before what they depend on, as far as the containers still say what that was.
func (c *computation) orderRemovals(gone []*work) []*work {
	dependants := map[manifest.Name][]manifest.Name{}
	if len(gone) > 1 {
		for _, w := range gone {
			for _, name := range c.formerDependencies(w) {
				dependants[name] = append(dependants[name], w.name)
			}
		}
	}
	sorted := make([]*work, 0, len(gone))
	state := map[manifest.Name]visit{}
	var remove func(w *work)
	remove = func(w *work) {
		state[w.name] = visiting
		for _, name := range dependants[w.name] { // sorted, since gone is
			if state[name] == 0 {
				remove(c.byName[name])
			}
			if state[name] == visited {
				w.step.After = append(w.step.After, name)
			}
		}
		state[w.name] = visited
		sorted = append(sorted, w)
	}
	for _, w := range gone {
		if state[w.name] == 0 {
			remove(w)
		}
	}
	return sorted
}

func (c *computation) formerDependencies(w *work) []manifest.Name {
	if w.keep == nil {
		return nil
	}
	old, err := manifest.DecodeWorkload(w.keep.Spec.Origin)
	if err != nil {
		return nil
	}
	return dependencies(&old)
}
