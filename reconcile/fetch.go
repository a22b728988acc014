package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
)

// fetchState is when the source was looked at, and when it is next.
type fetchState struct {
	busy    bool
	wanted  bool   // at once, or as soon as the present look has ended
	started uint64 // looks begun
	ended   uint64 // the last one that ended
	fails   int    // in a row
	next    time.Time
	last    report.Fetch
}

// fetched is how a look at the source ended.
type fetched struct {
	rev      manifest.Revision
	set      *manifest.Set // nil where the commit was known before
	ancestry plan.Ancestry // of rev to since
	since    string        // the commit that was in force when the look began
	rejected error         // the commit cannot be used
	err      error         // the source cannot be read
}

// startFetch looks at the source if it is time, in a goroutine of its own.
func (l *loop) startFetch(ctx context.Context) {
	f := &l.fetch
	if f.busy || !f.wanted && time.Now().Before(f.next) {
		return
	}
	f.busy, f.wanted = true, false
	f.started++
	known := f.last.Revision.Commit // what was loaded or rejected needs no second reading
	accepted := l.state.AcceptedRevision.Commit
	l.wg.Go(func() {
		got := l.a.look(ctx, known, accepted)
		if got.err != nil && ctx.Err() != nil {
			return // it did not fail: the agent stops
		}
		got.since = accepted
		l.a.postNow(func(l *loop) { l.fetchEnded(got) }) // whoever pushed waits, or asked for a sync
	})
}

// lookAtSource begins a look that somebody asked for.
func (l *loop) lookAtSource(ctx context.Context) {
	for _, fn := range l.a.drainLooks() {
		fn(l)
	}
	l.startFetch(ctx)
	if l.dirty { // what had failed may be tried again at once, whether the source can be read or not
		l.a.poke()
	}
}

// look fetches, and loads the commit unless it is known.
func (a *Agent) look(ctx context.Context, known, accepted string) fetched {
	rev, err := a.cfg.Source.Fetch(ctx)
	if err != nil {
		return fetched{err: err}
	}
	got := fetched{rev: rev}
	if rev.Commit == known {
		return got
	}
	if a.cfg.Expect != nil {
		a.cfg.Expect(ctx)
	}
	tree, err := a.cfg.Source.Tree(ctx, rev.Commit)
	if err != nil {
		got.err = err
		return got
	}
	set, err := a.cfg.Load(tree, rev)
	var problem manifest.Problem
	switch {
	case err == nil:
		got.set = &set
	case errors.As(err, &problem):
		got.rejected = err
		return got
	default:
		got.err = fmt.Errorf("read commit %s: %w", rev.Short(), err)
		return got
	}
	if accepted != "" && accepted != rev.Commit {
		follows, err := a.cfg.Source.Descends(ctx, accepted, rev.Commit)
		switch {
		case err != nil && a.cfg.UnknownCommit != nil && a.cfg.UnknownCommit(err):
			got.ancestry = plan.AncestryUnknown
		case err != nil:
			return fetched{err: err} // whether the branch was moved is not known: the next look asks again
		case !follows:
			got.ancestry = plan.AncestryMoved
		}
	}
	return got
}

func (l *loop) fetchEnded(got fetched) {
	f := &l.fetch
	now := time.Now()
	f.busy = false
	if got.set != nil && got.since != l.state.AcceptedRevision.Commit {
		f.wanted = true // an approval came in between: whether the branch was moved is to be asked anew
		return
	}
	f.ended = f.started
	f.last.Time = now
	if got.err != nil {
		f.fails++
		f.next = now.Add(max(delay(f.fails), min(l.cfg.Interval, backoffInitial)))
		l.fetchFailed(got.err)
		l.log.Error("cannot read the source", "error", got.err, "next", f.next.UTC().Format(time.RFC3339))
		return
	}
	f.fails = 0
	f.next = l.nextPoll(now)
	f.last = report.Fetch{Revision: got.rev, Time: now, Next: f.next}
	switch {
	case got.rejected != nil:
		l.count("rejected")
		l.reject(got.rev, got.rejected)
	case got.set == nil:
		l.count("unchanged")
	default:
		l.count("changed")
		l.loaded(got.set, got.ancestry)
	}
}

// fetchFailed notes why the source could not be read. What is in force stays.
func (l *loop) fetchFailed(err error) {
	last, before := &l.fetch.last, l.fetch.last.Gone
	last.Error, last.Next, last.Hint, last.Gone = err.Error(), l.fetch.next, "", ""
	if l.cfg.HintOf != nil {
		last.Hint = l.cfg.HintOf(err)
	}
	if l.cfg.Gone != nil {
		last.Gone = l.cfg.Gone(err)
	}
	l.count("failed")
	if last.Gone != "" && last.Gone != before && l.state.Accepted != nil {
		l.a.counters.add(func(c *Counters) { c.GuardBlocked++ })
		l.record(journal.Record{Type: journal.TypeNote, Reason: last.Gone, Message: last.Error})
	}
}

func (l *loop) count(result string) {
	l.a.counters.add(func(c *Counters) { c.Fetches[result]++ })
}

func (l *loop) nextPoll(now time.Time) time.Time {
	if l.cfg.NextPoll != nil {
		return l.cfg.NextPoll(now)
	}
	return now.Add(pollInterval(l.cfg.Interval, l.cfg.Node))
}

// reject keeps what is in force: nothing of a commit that has any mistake is used.
func (l *loop) reject(rev manifest.Revision, why error) {
	l.candidate = l.state.Accepted
	message := why.Error()
	if l.state.Rejected.Revision.Commit == rev.Commit && l.state.Rejected.Message == message {
		return
	}
	l.log.Error("commit rejected", "commit", rev.Short(), "error", why)
	l.state.Rejected = journal.Rejection{Revision: rev, Message: message}
	l.dirty = true
	l.record(journal.Record{Type: journal.TypeRejected, Commit: rev.Commit, Revision: &rev, Message: message})
}

// loaded takes a set that can be used. It is the set in force already where a restarted agent read the same commit
// again and it still says the same.
func (l *loop) loaded(set *manifest.Set, ancestry plan.Ancestry) {
	if l.state.Rejected.Revision.Commit != "" {
		l.state.Rejected = journal.Rejection{}
		l.dirty = true
	}
	if sameSet(l.state.Accepted, set) {
		l.candidate = l.state.Accepted
		return
	}
	l.candidate, l.ancestry = set, ancestry
}

func sameSet(a, b *manifest.Set) bool {
	if a == nil || a.Revision.Commit != b.Revision.Commit || a.Node.Name != b.Node.Name || a.NodeKnown != b.NodeKnown ||
		a.Node.Unschedulable != b.Node.Unschedulable || len(a.Workloads) != len(b.Workloads) {
		return false
	}
	for i := range a.Workloads {
		if a.Workloads[i].Name != b.Workloads[i].Name || a.Workloads[i].Digest != b.Workloads[i].Digest {
			return false
		}
	}
	return true
}
