package plan

import (
	"fmt"
	"slices"
	"strings"

	"reconciler/manifest"
	"reconciler/runtime"
)

// place holds what cannot come beside what is here: it wants a port of this server that somebody has, or more resources
// than are left. What is here stays, whatever it has. Dependencies are looked at before those that depend on them, else
// the order is that of names.
func (c *computation) place() {
	if !slices.ContainsFunc(c.works, (*work).claims) {
		return
	}
	p := &placement{c: c, room: c.newRoom(), ports: c.newPorts()}
	for _, w := range c.works {
		if w.claims() && c.isUnderway(w) {
			p.ports.take(w) // as room has what they need already
		}
	}
	for _, w := range c.works {
		p.add(w)
		for _, b := range p.bound {
			b.placed = 0
		}
		p.bound = nil
	}
	p.last = true
	for _, w := range c.works {
		if w.placed == 0 && w.claims() && !c.isUnderway(w) {
			p.settle(w) // one of a circle of dependencies, which no valid manifest has
		}
	}
}

// claims reports whether w's step may take more than its name has.
func (w *work) claims() bool { return w.step != nil && (w.step.starts() || w.step.Op == OpUpdate) }

// placement is one run of place.
type placement struct {
	c     *computation
	bound []*work // waits for one that is being looked at, and is looked at again after that one
	last  bool    // nobody is waited for any more
	room  *room
	ports *ports
}

// add looks at w after everything that it depends on.
func (p *placement) add(w *work) {
	if w.placed != 0 {
		return
	}
	w.placed = visiting
	missing, circle := p.addDependencies(w)
	starts := w.step != nil && w.step.starts()
	switch {
	case starts && circle:
		w.placed = bound
		p.bound = append(p.bound, w)
		return
	case starts && missing:
		w.placed = stalled
		return
	case w.claims() && !p.c.isUnderway(w):
		p.settle(w)
	}
	w.placed = visited
}

// addDependencies reports whether one of w's dependencies is neither there nor coming, and whether one is being looked at:
// then w waits for it, and it must not wait for w.
func (p *placement) addDependencies(w *work) (missing, circle bool) {
	if w.want == nil {
		return false, false
	}
	for _, name := range dependencies(w.bringsAbout()) {
		if dep := p.c.byName[name]; dep != nil {
			p.add(dep)
			circle = circle || dep.placed == visiting || dep.placed == bound
			missing = missing || dep.placed == stalled && !dep.runs()
		}
		why, _, coming := p.c.missing(w, name)
		missing = missing || why != "" && !coming
	}
	return missing, circle
}

// settle gives w's step what it needs, or holds w. What ran before is then kept alive, if there is a place for that.
func (p *placement) settle(w *work) {
	before := w.step
	hold := p.tryTake(w)
	if hold != nil && before.Beside && hold.Reason == ReasonInsufficient {
		before.Reason += recreated(fmt.Sprintf("both do not fit on this server: the new one %s", strings.TrimSuffix(hold.Message, kept(w))))
		p.c.recreate(w)
		hold = p.tryTake(w)
	}
	if hold == nil {
		return
	}
	w.step, w.hold = nil, hold
	if before.Op == OpRestart || before.Op == OpRollback || w.keep == nil {
		return
	}
	if old, err := manifest.DecodeWorkload(w.keep.Spec.Origin); err == nil {
		p.c.keepAlive(w, old)
	}
	if w.step == nil {
		return
	}
	if missing, _ := p.addDependencies(w); missing || p.tryTake(w) != nil {
		w.step = nil
	}
}

// tryTake gives w's step what it needs, or says why it cannot be carried out now.
func (p *placement) tryTake(w *work) *Hold {
	if hold := p.refusal(w); hold != nil {
		return hold
	}
	p.room.take(w)
	p.ports.take(w)
	return nil
}

// refusal says why w's step cannot be carried out now; nil: it can.
func (p *placement) refusal(w *work) *Hold {
	if message := p.ports.conflict(p, w); message != "" {
		return &Hold{Name: w.name, Reason: ReasonPortConflict, Message: message + kept(w)}
	}
	if message := p.room.lacks(w); message != "" {
		return &Hold{Name: w.name, Reason: ReasonInsufficient, Message: message + kept(w)}
	}
	return nil
}

// kept says that the present container stays where the one to come is held.
func kept(w *work) string {
	if w.keep == nil || w.keep.State != runtime.StateRunning {
		return ""
	}
	return "; what ran before is kept"
}

// isUnderway reports whether w's step is being carried out already.
func (c *computation) isUnderway(w *work) bool {
	f, ok := c.in.InFlight[w.name]
	return ok && f.Digest == w.step.Workload.Digest
}
