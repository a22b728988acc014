package reconcile

import (
	"cmp"
	"context"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
)

// advanceJobs takes notice of what of the Jobs of set is over, and begins the runs of CronJobs that are due.
func (l *loop) advanceJobs(set *manifest.Set, newNode bool) {
	now := l.now()
	in := plan.Advance{
		Set: set, Observed: l.observed, InFlight: l.inFlight(), Clock: now, NotBefore: l.cfg.BuiltAt,
		Seen: l.seen, NewNode: newNode,
	}
	l.seen = now.Moment()
	notes, changed := l.ledger.Advance(in)
	l.dirty = l.dirty || changed
	for _, n := range notes {
		l.noteJob(n)
	}
	for name := range l.histories {
		if _, _, isRun := plan.RunOf(name); isRun {
			if _, known := l.ledger.Jobs[name]; !known && l.flights[name] == nil {
				l.setHistory(name, plan.History{})
			}
		}
	}
}

// noteJob records what happened to a Job or a run of a CronJob, by the name that users know.
func (l *loop) noteJob(n plan.Note) {
	name := plan.Owner(n.Name)
	r := journal.Record{Type: journal.TypeNote, Name: &name, Reason: n.Reason, Message: n.Message}
	if n.Record != nil {
		r.Type, r.Result, r.ExitCode = journal.TypeRan, string(n.Record.Result), n.Record.ExitCode
		r.Reason, r.Commit = n.Record.Reason, cmp.Or(n.Record.Commit, l.state.AcceptedRevision.Commit)
		r.DurationMs = n.Record.Took().Milliseconds()
		if !n.Record.Scheduled.IsZero() {
			r.Run = &n.Record.Scheduled
		}
	}
	l.record(r)
	l.log.Info("job", "name", n.Name.Short(), "reason", n.Reason, "message", n.Message)
}

// readOutputs reads the end of what ended Jobs wrote, in the background: until that is kept, their containers stay.
func (l *loop) readOutputs(ctx context.Context) {
	for name, id := range l.ledger.Unread(l.observed) {
		if l.reading[name] {
			continue
		}
		l.reading[name] = true
		l.wg.Go(func() {
			var output string
			if l.cfg.Output != nil {
				text, err := l.cfg.Output(ctx, id)
				if ctx.Err() != nil {
					return // the next agent reads it
				}
				if output = text; err != nil {
					output = "its output cannot be read: " + err.Error()
				}
			}
			l.a.post(func(l *loop) {
				delete(l.reading, name)
				l.dirty = l.ledger.Remember(name, id, output) || l.dirty
			})
		})
	}
}

// runAgain has a Job run once more; false where name is none.
func (l *loop) runAgain(name manifest.Name) bool {
	if l.state.Accepted == nil {
		return false
	}
	for _, w := range l.state.Accepted.Workloads {
		if w.Name == name && l.ledger.Again(w, l.now()) {
			l.setHistory(name, plan.History{})
			l.dirty = true
			return true
		}
	}
	return false
}
