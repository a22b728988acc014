package reconcile

import (
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
)

// noteJudgements keeps which new containers proved themselves and which updates failed, before a step is begun.
func (l *loop) noteJudgements(p plan.Plan) {
	for _, proof := range p.Proven {
		l.setHistory(proof.Name, plan.Proved(l.histories[proof.Name], proof.ID))
	}
	for _, f := range p.Failed {
		h := plan.RolledBack(l.histories[f.Name], f, time.Now())
		l.setHistory(f.Name, h)
		l.rolledBack(p.Revision.Commit, f.Name, h.Error)
	}
}

// rolledBack tells of an update that failed and is gone back from.
func (l *loop) rolledBack(commit string, name manifest.Name, why string) {
	l.log.Error("update rolled back", "name", name.Short(), "commit", commit, "why", why)
	l.a.counters.add(func(c *Counters) { c.Rollbacks++ })
	l.record(journal.Record{Type: journal.TypeNote, Commit: commit, Name: &name, Reason: plan.ReasonRolledBack, Message: why})
}

// takePlace keeps the place among those that may be down for a replacement that the step of name had, until what it
// started is ready.
func (l *loop) takePlace(name manifest.Name, had bool) {
	if had {
		l.places[name]++
	}
}

// allowSwitches says how many containers may be down for a replacement at a time: those whose new one is not ready count, also
// those that an agent before this one stopped.
func (l *loop) allowSwitches(p plan.Plan, set *manifest.Set) {
	for name, n := range l.places {
		if slices.Contains(p.Unready, name) {
			continue
		}
		for range n {
			l.exec.switches.release()
		}
		delete(l.places, name)
	}
	limit := max(1, len(set.Workloads)*l.cfg.MaxUnavailable/100)
	for _, name := range p.Unready {
		if l.places[name] == 0 && l.flights[name] == nil {
			limit--
		}
	}
	l.exec.switches.setLimit(max(0, limit))
}
