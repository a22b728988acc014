package reconcile

import (
	"context"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/runtime"
)

// repairState is when the runtime was asked to repair what others changed, and when it is next.
type repairState struct {
	busy   bool
	wanted bool      // somebody was heard changing something
	rested time.Time // not before, however much is heard
	next   time.Time // whatever is heard
}

// After a repair the next one rests for repairShare times as long as it took, so that hints by the dozen cost next to
// nothing, but no longer than maxRepairRest: it may just have waited for a supervisor. repairAgain is when one that failed is
// tried again.
const (
	repairShare   = 50
	minRepairRest = time.Second
	maxRepairRest = 5 * time.Second
	repairAgain   = 30 * time.Second
)

// due is when to repair next.
func (r repairState) due() time.Time {
	if r.wanted && r.rested.Before(r.next) {
		return r.rested
	}
	return r.next
}

// hear passes on a hint of the runtime.
func (l *loop) hear(e runtime.Event) {
	if e.Type == runtime.EventDrifted || e.Type == runtime.EventLost {
		l.a.post(func(l *loop) { l.repair.wanted = true })
		return
	}
	if (e.Type == runtime.EventStarted || e.Type == runtime.EventRemoved) && l.a.works(manifest.Name(e.Name)) {
		return // by a step of ours, whose end is a reason to look
	}
	l.a.poke()
}

// startRepair has the runtime look whether running containers still have what they were given, if it is time, in a goroutine
// of its own. What was taken down is left to who takes it down.
func (l *loop) startRepair(ctx context.Context) {
	if l.repair.busy || l.state.Down || time.Now().Before(l.repair.due()) {
		return
	}
	l.repair.busy, l.repair.wanted = true, false
	l.wg.Go(func() {
		begun := time.Now()
		done, err := l.cfg.Runtime.Repair(ctx)
		if err != nil && ctx.Err() != nil {
			err = nil // it did not fail: the agent stops
		}
		l.a.post(func(l *loop) { l.repairEnded(done, err, time.Since(begun)) })
	})
}

func (l *loop) repairEnded(done []runtime.Repaired, err error, took time.Duration) {
	now := time.Now()
	l.repair.busy = false
	l.repair.rested, l.repair.next = now.Add(min(max(repairShare*took, minRepairRest), maxRepairRest)), now.Add(longestRest)
	if err != nil {
		l.repair.next = now.Add(repairAgain)
	}
	l.note("repair what was changed behind our back", err)
	for _, d := range done {
		r := journal.Record{Type: journal.TypeNote, Reason: "DriftRepaired", Message: "found otherwise than it was left: " + d.What}
		if d.ID != "" {
			name := manifest.Name(d.Name)
			r.Name = &name
		}
		l.log.Warn("drift repaired", "container", string(d.ID), "what", d.What)
		l.a.counters.add(func(c *Counters) { c.Drift++ })
		l.record(r)
	}
}
