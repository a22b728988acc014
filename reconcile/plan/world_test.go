package plan_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// world is a server in memory: a fake runtime, a clock, and what the shell would remember. It carries plans out in the
// simplest way that keeps their promises.
type world struct {
	lowered plan.Lowered // of the plans before
	t       testing.TB
	rt      *fake.Runtime
	clock   time.Time
	in      plan.Input
	foreign []runtime.ID
	// did, if not nil, is told of every step that was carried out. mix, if not nil, changes the order of those that may begin.
	did func(plan.Step, error)
	mix func([]plan.Step)
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, clock: now}
	w.rt = fake.New(fake.Options{Now: func() time.Time { return w.clock }})
	w.in = plan.Input{
		History: map[manifest.Name]plan.History{}, Approved: map[string]bool{},
		Facts: plan.Facts{Architecture: "amd64", Kernel: "6.1.0"}, Policy: plan.Policy{MaxRemove: 50},
	}
	return w
}

// want makes the workloads the desired set of a commit.
func (w *world) want(commit string, list ...manifest.Workload) {
	w.in.Desired = manifest.Set{Revision: manifest.Revision{Commit: commit}, Node: manifest.Node{Name: "n1"}, NodeKnown: true, Workloads: list}
}

// workload returns a container's workload with its digest.
func workload(n manifest.Name, spec manifest.Spec) manifest.Workload {
	out := manifest.Workload{Kind: manifest.KindContainer, Name: n, Spec: spec}
	b, err := out.Encode()
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(b)
	out.Digest = "sha256:" + hex.EncodeToString(sum[:])
	return out
}

func (w *world) list() []runtime.Status {
	w.t.Helper()
	list, err := w.rt.List(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

func (w *world) compute() plan.Plan {
	w.t.Helper()
	w.in.Observed, w.in.Now = w.list(), w.clock
	return plan.Compute(w.in)
}

// apply carries out p and reports whether any step failed. Steps whose dependency failed are dropped.
func (w *world) apply(p plan.Plan) (failed bool) {
	w.t.Helper()
	done, gone := map[manifest.Name]bool{}, map[manifest.Name]bool{}
	w.note(p)
	rest := slices.Clone(p.Steps)
	for len(rest) > 0 {
		if w.mix != nil {
			w.mix(rest)
		}
		var later []plan.Step
		for _, s := range rest {
			switch {
			case slices.ContainsFunc(s.After, func(n manifest.Name) bool { return gone[n] }):
				gone[s.Name] = true
			case slices.ContainsFunc(s.After, func(n manifest.Name) bool { return !done[n] }):
				later = append(later, s)
			case w.do(s):
				done[s.Name] = true
			default:
				gone[s.Name], failed = true, true
			}
		}
		if len(later) == len(rest) {
			w.t.Fatalf("steps wait for each other or for nobody: %s", render(plan.Plan{Steps: later}))
		}
		rest = later
	}
	if p.Blocked == nil {
		accepted := w.in.Desired
		w.in.Accepted = &accepted
	}
	return failed
}

// note keeps what p found out.
func (w *world) note(p plan.Plan) {
	for _, proof := range p.Proven {
		w.in.History[proof.Name] = plan.Proved(w.in.History[proof.Name], proof.ID)
	}
	for _, f := range p.Failed {
		w.in.History[f.Name] = plan.RolledBack(w.in.History[f.Name], f, w.clock)
	}
}

// do carries out one step and keeps its History.
func (w *world) do(s plan.Step) bool {
	w.in.History[s.Name] = plan.Began(w.in.History[s.Name], s)
	if s.Op == plan.OpRestart {
		for _, o := range w.in.Observed {
			if o.ID == s.ID {
				w.in.History[s.Name] = plan.Restarted(w.in.History[s.Name], o)
			}
		}
	}
	err := w.try(s)
	if w.did != nil {
		w.did(s, err)
	}
	if err != nil {
		delay := func(n int) time.Duration { return time.Duration(n) * 10 * time.Second }
		w.in.History[s.Name] = plan.Failed(w.in.History[s.Name], s, err, w.clock, delay)
		return false
	}
	w.in.History[s.Name] = plan.Succeeded(w.in.History[s.Name], s)
	return true
}

func (w *world) try(s plan.Step) error {
	ctx := w.t.Context()
	if s.Op == plan.OpCreate || s.Op == plan.OpReplace {
		if _, err := w.rt.Prepare(ctx, s.Spec, runtime.Inputs{}); err != nil {
			return err
		}
	}
	if s.Op == plan.OpRollback && !s.Start {
		if err := w.rt.Serve(ctx, s.ID, true); err != nil {
			return err
		}
	}
	for _, r := range s.Stop {
		if err := w.rt.Stop(ctx, r.ID, 0); err != nil {
			return err
		}
	}
	for _, r := range s.Remove {
		if err := errors.Join(w.rt.Stop(ctx, r.ID, 0), w.rt.Remove(ctx, r.ID)); err != nil {
			return err
		}
	}
	switch s.Op {
	case plan.OpSwitch:
		return w.rt.Serve(ctx, s.ID, true)
	case plan.OpRollback:
		if !s.Start {
			return nil
		}
		return errors.Join(w.rt.Serve(ctx, s.ID, true), w.rt.Start(ctx, s.ID))
	case plan.OpCreate, plan.OpReplace:
		id, err := w.rt.Create(ctx, s.Spec)
		if err == nil {
			err = w.rt.Start(ctx, id)
		}
		if err != nil {
			return &plan.NotStartedError{Err: err}
		}
		return nil
	case plan.OpUpdate:
		return w.rt.Update(ctx, s.ID, s.Spec)
	case plan.OpRestart:
		return errors.Join(w.rt.Stop(ctx, s.ID, 0), w.rt.Start(ctx, s.ID))
	case plan.OpEnd:
		return w.rt.Stop(ctx, s.ID, 0)
	case plan.OpRemove:
		return nil
	default:
		return fmt.Errorf("no such operation: %s", s.Op)
	}
}

// settle plans and applies until there is nothing to do and nothing to wait for, moving the clock on to each Wake.
// check sees every plan.
func (w *world) settle(check func(plan.Plan)) plan.Plan {
	w.t.Helper()
	const enough = 200
	for range enough {
		p := w.compute()
		check(p)
		switch {
		case len(p.Steps) > 0:
			w.apply(p)
			w.clock = w.clock.Add(time.Millisecond)
		case len(p.Proven)+len(p.Failed) > 0:
			w.note(p)
		case p.Wake.IsZero():
			return p
		default:
			if !p.Wake.After(w.clock) {
				w.t.Fatalf("wakes in the past: %s", render(p))
			}
			w.clock = p.Wake
		}
	}
	w.t.Fatalf("no end after %d plans; the last is %s", enough, render(w.compute()))
	return plan.Plan{}
}

// computeOnly plans without looking at the runtime again.
func (w *world) computeOnly() plan.Plan { return plan.Compute(w.in) }
