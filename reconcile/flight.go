package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/probe"
	"reconciler/reconcile/report"
	"reconciler/runtime"
)

// Why a step in flight was told to end.
var (
	errSuperseded = errors.New("the spec changed meanwhile")
	errDependency = errors.New("what it waited for failed")
)

// flight is a step that is being carried out.
type flight struct {
	step    plan.Step
	known   plan.InFlight // what a plan has to know of it
	commit  string
	crashed bool // the step restarts a container that ended by itself, or that its probes gave up
	started time.Time
	cancel  context.CancelCauseFunc
	gate    chan struct{} // closed when everything in step.After is done
	open    bool
	run     func()
}

// begin makes a flight of every step whose name has none, and records the intents. The flights are not started yet.
func (l *loop) begin(ctx context.Context, p plan.Plan, set *manifest.Set) []*flight {
	if set == nil {
		return nil
	}
	var begun []*flight
	for _, step := range p.Steps {
		if l.flights[step.Name] != nil {
			continue // it was told to end if it brings about something else
		}
		fctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		f := &flight{
			step: step, commit: set.Revision.Commit, crashed: l.isCrash(step), started: time.Now(),
			cancel: cancel, gate: make(chan struct{}),
			known: plan.InFlight{Op: step.Op, Digest: step.Workload.Digest, Requests: plan.RequestedBy(step.Workload), Beside: step.Beside},
		}
		todo := &job{step: step, commit: f.commit, gate: f.gate, tether: &tether{}}
		f.run = func() {
			defer todo.tether.tie(ctx, fctx, cancel)()
			digest, err := l.exec.run(fctx, todo)
			if err != nil && fctx.Err() != nil {
				err = &cancelledError{cause: context.Cause(fctx), err: err}
			}
			cancel(nil)
			if !l.a.post(func(l *loop) { l.takePlace(step.Name, todo.place); l.stepEnded(f, digest, err) }) && todo.place {
				l.exec.switches.release()
			}
			if l.inAir.Add(-1) == 0 {
				l.a.hurry() // there is no other result to gather
			}
		}
		l.inAir.Add(1)
		l.flights[step.Name] = f
		l.a.setActivity(step.Name, func(a *report.Activity) {
			*a = report.Activity{Op: step.Op, Phase: report.PhaseWaiting, Since: f.started}
		})
		l.beginHistory(f)
		owner := plan.Owner(step.Name)
		l.record(journal.Record{Type: journal.TypeIntent, Commit: f.commit, Name: &owner, Op: step.Op, Reason: step.Reason})
		l.log.Info("step begins", "op", string(step.Op), "name", step.Name.Short(), "reason", step.Reason)
		begun = append(begun, f)
	}
	return begun
}

// inFlight returns the steps in flight as a plan wants them.
func (l *loop) inFlight() map[manifest.Name]plan.InFlight {
	out := make(map[manifest.Name]plan.InFlight, len(l.flights))
	for name, f := range l.flights {
		out[name] = f.known
	}
	return out
}

// cancelledError is how a step ended that was told to.
type cancelledError struct{ cause, err error }

func (e *cancelledError) Error() string { return e.cause.Error() }
func (e *cancelledError) Unwrap() error { return e.err }

func (l *loop) statusOf(id runtime.ID) *runtime.Status {
	for i := range l.observed {
		if id != "" && l.observed[i].ID == id {
			return &l.observed[i]
		}
	}
	return nil
}

func (l *loop) isCrash(step plan.Step) bool {
	o := l.statusOf(step.ID)
	return step.Crash || step.Op == plan.OpRestart && step.Workload.Kind == manifest.KindContainer && o != nil &&
		o.State == runtime.StateExited && !o.Stopped
}

// openGates lets those steps go on whose dependencies have no step in the plan or in flight any more.
func (l *loop) openGates() {
	busy := map[manifest.Name]bool{}
	for _, s := range l.current.Steps {
		busy[s.Name] = true
	}
	for name := range l.flights {
		busy[name] = true
	}
	for _, f := range l.flights {
		waits := false
		for _, name := range f.step.After {
			waits = waits || busy[name] && name != f.step.Name
		}
		if !waits && !f.open {
			f.open = true
			close(f.gate)
		}
	}
}

// stepEnded takes the result of a step.
func (l *loop) stepEnded(f *flight, digest string, err error) {
	name, step := f.step.Name, f.step
	delete(l.flights, name)
	l.a.setActivity(name, nil)
	owner := plan.Owner(name)
	r := journal.Record{
		Type: journal.TypeResult, Commit: f.commit, Name: &owner, Op: step.Op, Reason: step.Reason,
		Result: journal.StepDone, ImageDigest: digest, DurationMs: time.Since(f.started).Milliseconds(),
	}
	var cancelled *cancelledError
	switch {
	case err == nil:
		l.succeeded(f, digest)
		l.log.Info("step done", "op", string(step.Op), "name", name.Short(), "took", time.Since(f.started))
	case errors.As(err, &cancelled):
		r.Result, r.Error = journal.StepCancelled, err.Error()
		l.log.Info("step cancelled", "op", string(step.Op), "name", name.Short(), "why", err.Error())
	default:
		r.Result, r.Error = journal.StepFailed, err.Error()
		l.failed(f, err)
	}
	l.record(r)
	if err != nil {
		l.dropDependents(name)
	}
}

// dropDependents ends the steps that wait for one that failed: the next plan says what becomes of them.
func (l *loop) dropDependents(name manifest.Name) {
	for _, f := range l.flights {
		for _, after := range f.step.After {
			if after == name && !f.open {
				f.cancel(errDependency)
			}
		}
	}
}

// beginHistory counts a restart after a crash when it begins, so that an agent killed meanwhile does not forget it.
func (l *loop) beginHistory(f *flight) {
	if before := l.histories[f.step.Name]; plan.Began(before, f.step) != before {
		l.setHistory(f.step.Name, plan.Began(before, f.step))
	}
	if !f.crashed {
		return
	}
	reason := "Exited"
	o := l.statusOf(f.step.ID)
	switch {
	case f.step.Crash:
		reason = probe.ReasonUnhealthy
	case o.OOMKilled:
		reason = report.ReasonOOMKilled
	}
	l.a.counters.add(func(c *Counters) { c.Restarts[RestartKey{Name: f.step.Name, Reason: reason}]++ })
	if f.step.Crash {
		l.setHistory(f.step.Name, plan.Crashed(l.histories[f.step.Name], *o))
	} else {
		l.setHistory(f.step.Name, plan.Restarted(l.histories[f.step.Name], *o))
	}
}

// succeeded forgets what failed before.
func (l *loop) succeeded(f *flight, digest string) {
	before := l.histories[f.step.Name]
	if h := plan.Succeeded(before, f.step); h != before {
		l.setHistory(f.step.Name, h)
	}
	if alwaysPulled(f.step.Spec) && (f.step.Op == plan.OpCreate || f.step.Op == plan.OpReplace) {
		l.setImageDigest(f.step.Spec.Image.Ref, digest)
	}
}

// failed makes an error the backoff of its container, and of no other.
func (l *loop) failed(f *flight, err error) {
	h := plan.Failed(l.histories[f.step.Name], f.step, err, time.Now(), delay)
	l.setHistory(f.step.Name, h)
	if h.Reason == plan.ReasonRolledBack && h.Digest == f.step.Workload.Digest {
		l.rolledBack(f.commit, f.step.Name, h.Error)
	}
	l.log.Error("step failed", "op", string(f.step.Op), "name", f.step.Name.Short(), "error", err,
		"hint", runtime.HintOf(err), "next", h.NextTry.UTC().Format(time.RFC3339))
}

// ignoredStop tells of a container that was stopped and did not end before it was killed.
func (l *loop) ignoredStop(o runtime.Status, grace time.Duration) {
	name, signal := manifest.Name(o.Spec.Name), o.Spec.StopSignal
	if signal == "" {
		signal = "its stop signal"
	}
	message := fmt.Sprintf("did not end on %s and was killed after its whole grace period of %v", signal, grace)
	if !o.Spec.Init {
		message += "; a process 1 that installs no handler for a signal ignores it: `init: true` cures that"
	}
	l.log.Warn("stop signal ignored", "name", name.Short(), "signal", signal, "grace", grace)
	l.record(journal.Record{Type: journal.TypeNote, Commit: o.Spec.Revision, Name: &name, Reason: "StopSignalIgnored", Message: message})
}

// noticeExits records containers that ended by themselves since the last look.
func (l *loop) noticeExits(now []runtime.Status) {
	for _, o := range now {
		if o.State != runtime.StateExited || o.Stopped {
			continue
		}
		name := manifest.Name(o.Spec.Name)
		if _, isJob := l.ledger.Jobs[name]; isJob {
			continue // see advanceJobs
		}
		if before := l.statusOf(o.ID); before == nil || !o.FinishedAt.After(before.FinishedAt) {
			continue
		}
		if f := l.flights[name]; f != nil && f.step.Op != plan.OpUpdate {
			continue // a step is ending or starting it
		}
		r := journal.Record{Type: journal.TypeExited, Commit: o.Spec.Revision, Name: &name, Message: report.ExitMessage(o)}
		if o.OOMKilled {
			r.Reason = report.ReasonOOMKilled
		}
		l.a.counters.add(func(c *Counters) { c.Drift++ })
		l.record(r)
	}
}
