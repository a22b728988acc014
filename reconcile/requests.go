package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
)

// NotFoundError says that nothing of a name is here or meant to be.
type NotFoundError struct{ What string }

// Error names what is not there.
func (e *NotFoundError) Error() string { return e.What + ": not found" }

// Hint says where to look.
func (e *NotFoundError) Hint() string { return "see what is there with: reconciler ps -A" }

// UsageError says that a request makes no sense.
type UsageError struct{ Message, Help string }

// Error says why.
func (e *UsageError) Error() string { return e.Message }

// Hint says what would make sense.
func (e *UsageError) Hint() string { return e.Help }

// minCommit is the shortest abbreviation of a commit that approve takes, as git's default.
const minCommit = 7

// Approve lets a commit through the guards on this node. A commit that was seen may be abbreviated to seven digits; one
// that was not is approved in advance and must be whole. It returns the whole commit.
func (a *Agent) Approve(ctx context.Context, commit string) (string, error) {
	var full string
	digits := strings.TrimPrefix(commit, "dir:")
	err := a.change(ctx, func(l *loop) error {
		for _, seen := range []string{l.fetch.last.Revision.Commit, l.state.Rejected.Revision.Commit, l.state.AcceptedRevision.Commit} {
			if len(digits) >= minCommit && strings.HasPrefix(strings.TrimPrefix(seen, "dir:"), digits) {
				full = seen
				break
			}
		}
		if full == "" && isWholeCommit(commit) {
			full = commit
		}
		if full == "" {
			return &UsageError{
				Message: fmt.Sprintf("approve %q: no commit that was seen begins so", commit),
				Help:    "name the commit that status shows, or a whole hash to approve one in advance",
			}
		}
		l.state.Approved = append([]string{}, l.state.Approved...)
		l.state.Approve(full)
		l.dirty = true
		l.record(journal.Record{Type: journal.TypeVerb, Commit: full, Reason: "Approved", Message: "commit approved on this node"})
		return nil
	})
	if notKept, ok := errors.AsType[*NotKeptError](err); ok {
		return full, notKept
	}
	if err != nil {
		return "", err // after ctx has ended the answer may still be being written
	}
	return full, nil
}

func isWholeCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == "" || strings.HasPrefix(s, "dir:") && len(s) > 64
}

// Retry ends the backoff of name: what failed is tried again at once.
func (a *Agent) Retry(ctx context.Context, name manifest.Name) error {
	return a.verb(ctx, name, "Retry", "its backoff was ended", func(h plan.History) plan.History {
		return plan.Retried(h)
	})
}

// Restart restarts name's container once, at the next chance.
func (a *Agent) Restart(ctx context.Context, name manifest.Name) error {
	return a.verb(ctx, name, "Restart", "a restart was asked for", func(h plan.History) plan.History {
		h.Restart = true
		return h
	})
}

func (a *Agent) verb(ctx context.Context, name manifest.Name, word, message string, change func(plan.History) plan.History) error {
	return a.ask(ctx, func(l *loop) error {
		if !l.knows(name) {
			return &NotFoundError{What: name.Short()}
		}
		if !l.runAgain(name) {
			l.setHistory(name, change(l.histories[name]))
		}
		l.record(journal.Record{Type: journal.TypeVerb, Name: &name, Reason: word, Message: message})
		return nil
	})
}

func (l *loop) knows(name manifest.Name) bool {
	for _, set := range []*manifest.Set{l.state.Accepted, l.candidate} {
		if set == nil {
			continue
		}
		for _, w := range set.Workloads {
			if w.Name == name {
				return true
			}
		}
	}
	for _, o := range l.observed {
		if manifest.Name(o.Spec.Name) == name {
			return true
		}
	}
	return false
}

// Suspend keeps the node at the commit in force until Resume, over restarts too. Containers that crash still restart.
func (a *Agent) Suspend(ctx context.Context) error { return a.suspend(ctx, true) }

// Resume ends Suspend.
func (a *Agent) Resume(ctx context.Context) error { return a.suspend(ctx, false) }

func (a *Agent) suspend(ctx context.Context, on bool) error {
	return a.change(ctx, func(l *loop) error {
		if l.state.Suspended == on {
			return nil
		}
		l.state.Suspended = on
		l.state.Down = l.state.Down && on
		l.dirty = true
		word, message := "Resumed", "syncing goes on"
		if on {
			word, message = "Suspended", "syncing is suspended; crashed containers still restart"
		}
		l.record(journal.Record{Type: journal.TypeVerb, Reason: word, Message: message})
		return nil
	})
}

// Plan returns what there is to do for the newest commit that can be used, without doing it. Where a guard blocks that
// commit, the steps are those that it would take if it were approved.
func (a *Agent) Plan(ctx context.Context) (report.Plan, error) {
	var p plan.Plan
	err := a.ask(ctx, func(l *loop) error {
		p = l.preview(ctx, time.Now())
		return nil
	})
	if err != nil {
		return report.Plan{}, err // as in Approve
	}
	return report.PlanOf(p), nil
}

// preview computes the plan for the newest set as if nothing were in flight.
func (l *loop) preview(ctx context.Context, now time.Time) plan.Plan {
	set := l.candidate
	if set == nil {
		set = l.state.Accepted
	}
	if set == nil {
		return plan.Plan{}
	}
	in := l.input(ctx, *set, now)
	in.InFlight = nil
	if set != l.state.Accepted {
		in.Ancestry = l.ancestry
	}
	p := plan.Compute(in)
	if p.Blocked == nil {
		return p
	}
	in.Approved = map[string]bool{set.Revision.Commit: true}
	approved := plan.Compute(in)
	approved.Blocked = p.Blocked
	return approved
}

// Preview looks at the source and returns what the agent would do if it ran, as Plan does of one that runs. It changes
// nothing but the local copy of the source, and may be called beside an agent that runs on the same state directory.
func (a *Agent) Preview(ctx context.Context) (report.Plan, error) {
	kept, err := journal.Read(a.cfg.StateDir)
	if err != nil {
		return report.Plan{}, err
	}
	key, err := readSecretKey(secretKeyPath(a.cfg.StateDir))
	if err != nil {
		return report.Plan{}, err
	}
	l := newLoop(a, kept.State, key)
	if l.observed, err = a.cfg.Runtime.List(ctx); err != nil {
		return report.Plan{}, err
	}
	l.recoverAccepted()
	got := a.look(ctx, "", l.state.AcceptedRevision.Commit)
	if err = cmp.Or(got.err, got.rejected); err != nil {
		return report.Plan{}, err
	}
	l.loaded(got.set, got.ancestry)
	return report.PlanOf(l.preview(ctx, time.Now())), nil
}

// publish makes what is known now what View returns.
func (l *loop) publish() {
	v := &report.View{
		Node: l.cfg.Node, Instance: l.cfg.Instance, Source: l.cfg.SourceInfo, State: l.whole(),
		Observed: l.observed, Health: l.health, ObservedError: l.listError, Plan: l.current, Fetch: l.fetch.last, Now: time.Now(),
	}
	for _, key := range slices.Sorted(maps.Keys(l.warnings)) {
		v.Warnings = append(v.Warnings, l.warnings[key])
	}
	l.a.view.Store(v)
}
