package reconcile

import (
	"maps"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/probe"
	"reconciler/runtime"
)

// observeHealth has what runs probed, and takes what the probes found out so far.
func (l *loop) observeHealth() {
	l.prober.Observe(l.observed)
	l.health = l.prober.Snapshot()
	m, ok := l.prober.(*probe.Manager)
	if !ok {
		return
	}
	for _, n := range m.Notes() {
		l.recordHealth(n)
	}
	if kept := m.Kept(); !maps.Equal(kept, l.state.Health) {
		l.state.Health = kept
		l.dirty = true
	}
}

func (l *loop) recordHealth(n probe.Note) {
	r := journal.Record{Type: journal.TypeHealth, Commit: n.Commit, Name: &n.Name, Reason: n.Reason, Message: n.Message}
	if n.Warning {
		l.log.Warn("container unhealthy", "name", n.Name.Short(), "reason", n.Reason, "message", n.Message)
		r.Result = journal.HealthWarning
	}
	l.record(r)
}

// endHealth ends every probe and hook that is running.
func (l *loop) endHealth() {
	if m, ok := l.prober.(*probe.Manager); ok {
		m.Close()
	}
}

// latestHealth is what the probes say now, which may be newer than what the loop looked at last.
func (a *Agent) latestHealth() map[runtime.ID]plan.Health {
	if prober := a.prober.Load(); prober != nil {
		return (*prober).Snapshot()
	}
	return nil
}
