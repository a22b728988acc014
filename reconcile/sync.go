package reconcile

import (
	"context"
	"errors"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
)

// Outcome is how a sync ended, in one word.
type Outcome string

// The outcomes of a sync.
const (
	SyncConverged  Outcome = "Converged" // everything runs as the newest commit says, and is healthy
	SyncFailed     Outcome = "Failed"
	SyncBlocked    Outcome = "Blocked"    // a guard stopped the commit
	SyncRolledBack Outcome = "RolledBack" // an update failed, and what ran before runs again
	SyncSuspended  Outcome = "Suspended"  // syncing is suspended
	SyncTimeout    Outcome = "TimedOut"
)

// SyncResult is how a sync ended and why.
type SyncResult struct {
	Outcome  Outcome `json:"outcome"`
	Revision string  `json:"revision"` // the newest commit seen
	Reason   string  `json:"reason"`
	Message  string  `json:"message"`
	Hint     string  `json:"hint"`
}

// syncWaiter waits for a look at the source that began after it asked, and then for the node to converge.
type syncWaiter struct {
	need   uint64 // which look
	result chan SyncResult
}

// Sync looks at the source now and waits until the node has converged, cannot, or ctx ends. Failed steps that wait for
// their next try are tried at once. The outcome is not an error; an error means that nobody answered.
func (a *Agent) Sync(ctx context.Context) (SyncResult, error) {
	w := &syncWaiter{result: make(chan SyncResult, 1)}
	ok := a.postLook(func(l *loop) {
		l.fetch.wanted = true
		w.need = l.fetch.started + 1
		l.syncs = append(l.syncs, w)
		l.endBackoffs()
	})
	if !ok {
		return SyncResult{}, ErrNotRunning
	}
	select {
	case r := <-w.result:
		return r, nil
	case <-ctx.Done():
	}
	a.post(func(l *loop) { l.syncs = slices.DeleteFunc(l.syncs, func(o *syncWaiter) bool { return o == w }) })
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return SyncResult{}, context.Cause(ctx)
	}
	r := SyncResult{Outcome: SyncTimeout, Message: "not converged in time", Hint: "see what it waits for with: reconciler ps"}
	if v, err := a.View(context.WithoutCancel(ctx)); err == nil {
		s := report.StatusOf(v)
		r.Revision, r.Reason = v.Fetch.Revision.Commit, s.Reason
		if s.Message != "" {
			r.Message += ": " + s.Message
		}
	}
	return r, nil
}

// SyncOnce runs the agent until the node has converged or ctx ends, and stops it again. It is Sync for a server where no
// agent runs, and fails with *journal.LockedError where one does.
func (a *Agent) SyncOnce(ctx context.Context) (SyncResult, error) {
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(runCtx) }()
	select {
	case err := <-ended:
		stop()
		return SyncResult{}, err
	case <-a.Ready():
	}
	r, err := a.Sync(ctx)
	stop()
	return r, errors.Join(err, <-ended)
}

// endBackoffs lets failed steps be tried again at once: somebody is here and waits. What is of no use to try again
// without a change stays as it is.
func (l *loop) endBackoffs() {
	for name, h := range l.histories {
		if h.Failures > 0 && !h.Permanent && !h.NextTry.IsZero() {
			h.NextTry = time.Now()
			l.setHistory(name, h)
		}
		if h.Undo.Failures > 0 {
			h.Undo.Next = time.Now()
			l.setHistory(name, h)
		}
	}
}

// patience is how often in a row the containers may fail to be listed before a sync gives up: the supervisor may just
// be being started.
const patience = 3

// answerSyncs ends the syncs whose wait is over.
func (l *loop) answerSyncs() {
	if len(l.syncs) == 0 {
		return
	}
	waiting := l.syncs[:0:0]
	for _, w := range l.syncs {
		if w.need > l.fetch.ended {
			waiting = append(waiting, w)
			continue
		}
		if r, over := l.syncResult(); over {
			w.result <- r
		} else {
			waiting = append(waiting, w)
		}
	}
	l.syncs = waiting
}

func (l *loop) endSyncs(r SyncResult) {
	for _, w := range l.syncs {
		w.result <- r
	}
	l.syncs = nil
}

// syncResult says how the node is for somebody who waits; over means that waiting longer is no use.
func (l *loop) syncResult() (r SyncResult, over bool) {
	v := *l.a.view.Load()
	for name, f := range l.flights {
		if v.Working == nil {
			v.Working = map[manifest.Name]report.Activity{}
		}
		v.Working[name] = report.Activity{Op: f.step.Op}
	}
	r.Revision = l.fetch.last.Revision.Commit
	switch {
	case l.listError != "":
		r.Outcome, r.Reason, r.Message = SyncFailed, report.ReasonUnavailable, "cannot list the containers: "+l.listError
		return r, l.listFails >= patience
	case l.fetch.last.Error != "":
		r.Outcome, r.Reason, r.Message = SyncFailed, report.ReasonFetchFailed, l.fetch.last.Error
		r.Hint = l.fetch.last.Hint
		if l.fetch.last.Gone != "" && l.state.Accepted != nil {
			r.Outcome, r.Reason = SyncBlocked, l.fetch.last.Gone
		}
		return r, true
	case l.state.Rejected.Revision.Commit != "":
		s := report.StatusOf(v)
		r.Outcome, r.Reason, r.Message = SyncFailed, report.ReasonRejected, s.Message
		if l.state.Suspended {
			r.Message = "commit " + l.state.Rejected.Revision.Short() + " cannot be used: " + l.state.Rejected.Message
		}
		return r, true
	case l.state.Suspended:
		r.Outcome, r.Reason = SyncSuspended, report.Suspended
		r.Message, r.Hint = "syncing is suspended", "let it go on with: reconciler resume"
		return r, true
	case l.current.Blocked != nil:
		r.Outcome, r.Reason, r.Message = SyncBlocked, l.current.Blocked.Reason, l.current.Blocked.Message
		return r, true
	case l.state.Accepted == nil || l.candidate != l.state.Accepted:
		return r, false
	}
	done, healthy, why := report.Converged(v)
	if !done {
		return r, false
	}
	r.Outcome = SyncConverged
	if !healthy {
		r.Outcome, r.Message = SyncFailed, why
		if slices.ContainsFunc(l.current.Held, func(h plan.Hold) bool { return h.Reason == plan.ReasonRolledBack }) {
			r.Outcome, r.Reason = SyncRolledBack, plan.ReasonRolledBack
		}
		r.Hint = "see more with: reconciler describe NAME"
	}
	return r, true
}
