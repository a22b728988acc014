package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// probed is a world whose containers are probed: how each does is in its image's name, as behaviours tell.
type probed struct{ *world }

// behaviours are what a container can do, by the name of its image.
var behaviours = map[string]struct {
	ready time.Duration // after that it is ready; negative: never
	ends  time.Duration // after that it exits with 1; 0: never
	hung  time.Duration // after that its liveness probe fails; 0: never
}{
	"good":  {},
	"slow":  {ready: 5 * time.Second},
	"never": {ready: -1},
	"crash": {ready: -1, ends: time.Nanosecond},
	"late":  {ready: 2 * time.Second, ends: 4 * time.Second},
	"hangs": {ready: -1, hung: 3 * time.Second},
	"stuck": {ready: time.Minute},
}

// server returns a workload that does as it is called; version tells otherwise equal ones apart.
func server(behaviour string, version int, change func(*manifest.Spec)) manifest.Workload {
	spec := manifest.Spec{
		Image: fmt.Sprintf("example.com/%s:%d", behaviour, version), ReadinessProbe: &manifest.Probe{},
		Strategy: &manifest.Strategy{ProgressDeadlineSeconds: new(int64(30))},
	}
	if change != nil {
		change(&spec)
	}
	return workload(named("web"), spec)
}

func behaviourOf(s runtime.Spec) string {
	return strings.TrimPrefix(s.Image.Ref[:strings.LastIndexByte(s.Image.Ref, ':')], "example.com/")
}

// look computes the plan for what is now, after everything happened that happens by itself.
func (w probed) look() plan.Plan {
	w.t.Helper()
	w.in.Health = map[runtime.ID]plan.Health{}
	for _, s := range w.list() {
		b := behaviours[behaviourOf(s.Spec)]
		if s.State != runtime.StateRunning {
			continue
		}
		if b.ends > 0 && s.Ran >= b.ends {
			w.rt.Exit(s.ID, 1)
			continue
		}
		h := plan.Health{Starts: s.Starts, Started: true, Ready: b.ready >= 0 && s.Ran >= b.ready}
		if h.Ready {
			h.ReadyFor = s.Ran - b.ready
		} else {
			h.Message = "readinessProbe failed: 503"
		}
		if b.hung > 0 && s.Ran >= b.hung {
			h.Failed = "livenessProbe failed: timeout"
		}
		w.in.Health[s.ID] = h
	}
	return w.compute()
}

// passes lets time pass, half a second at a time, until nothing moves any more or d is over. check sees every plan.
func (w probed) passes(d time.Duration, check func(plan.Plan)) plan.Plan {
	w.t.Helper()
	var p plan.Plan
	quiet := 0
	for end := w.clock.Add(d); w.clock.Before(end) && quiet < 4; w.clock = w.clock.Add(500 * time.Millisecond) {
		p = w.look()
		check(p)
		w.apply(p)
		moves := slices.ContainsFunc(p.Held, func(h plan.Hold) bool { return h.Reason == plan.ReasonProgressing })
		if quiet++; len(p.Steps) > 0 || moves || !p.Wake.IsZero() {
			quiet = 0
		}
		if len(p.Steps) == 0 && !moves && p.Wake.After(w.clock) {
			w.clock = p.Wake.Add(-500 * time.Millisecond)
		}
	}
	return p
}

func (w probed) serving() (s runtime.Status) {
	w.t.Helper()
	for _, o := range w.list() {
		if o.Serving {
			if s.ID != "" {
				w.t.Fatalf("%s and %s serve", s.ID, o.ID)
			}
			s = o
		}
	}
	return s
}

func newProbed(t testing.TB) probed {
	w := newWorld(t)
	w.in.Health = map[runtime.ID]plan.Health{}
	return probed{w}
}

func recreate(s *manifest.Spec) { s.Strategy.Type = manifest.StrategyRecreate }

func never(s *manifest.Spec) { s.Strategy.Rollback = new(false) }

func ops(calls []fake.Call, from int) string {
	var out []string
	for _, c := range calls[from:] {
		out = append(out, string(c.Op)+" "+strings.TrimLeft(string(c.ID), "fake-0"))
	}
	return strings.Join(out, ", ")
}

// TestUpdateStepByStep shows what is done to containers, in what order, in each way that an update can go.
func TestUpdateStepByStep(t *testing.T) {
	for _, c := range []struct {
		name, to string
		change   func(*manifest.Spec)
		calls    string
		held     string
	}{
		{"start first", "slow", nil, "prepare , create , start 3, serve 3, stop 1, remove 1", ""},
		{"recreate", "slow", recreate, "prepare , stop 1, create , start 3, remove 1", ""},
		{"start first, never ready", "never", nil, "prepare , create , start 3, serve 1, stop 3", "RolledBack: the update failed: not ready within 30s: readinessProbe failed: 503; not tried again until it changes or by `reconciler retry web`"},
		{"recreate, never ready", "never", recreate, "prepare , stop 1, create , start 3, stop 3, serve 1, start 1", "RolledBack: the update failed: not ready within 30s: readinessProbe failed: 503; not tried again until it changes or by `reconciler retry web`"},
		{"start first, crash", "crash", nil, "prepare , create , start 3", "RolledBack: the update failed: exited with code 1 after 500ms; not tried again until it changes or by `reconciler retry web`"},
		{"recreate, crash", "crash", recreate, "prepare , stop 1, create , start 3, serve 1, start 1", "RolledBack: the update failed: exited with code 1 after 500ms; not tried again until it changes or by `reconciler retry web`"},
		{"its liveness probe fails", "hangs", nil, "prepare , create , start 3, serve 1, stop 3", "RolledBack: the update failed: livenessProbe failed: timeout; not tried again until it changes or by `reconciler retry web`"},
		{
			"ends while it has to stay ready", "late", func(s *manifest.Spec) { s.Strategy.MinReadySeconds = new(int64(10)) },
			"prepare , create , start 3, serve 3, serve 1", "RolledBack: the update failed: exited with code 1 after 4s; not tried again until it changes or by `reconciler retry web`",
		},
		{"beside without going back", "never", never, "prepare , create , start 3", "ProgressDeadlineExceeded: not ready within 30s: readinessProbe failed: 503"},
		{
			"in place without going back", "never", func(s *manifest.Spec) { never(s); recreate(s) },
			"prepare , stop 1, remove 1, create , start 3", "NotReady: not ready: readinessProbe failed: 503",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newProbed(t)
			w.want("c1", server("good", 1, c.change))
			w.passes(time.Minute, func(plan.Plan) {})
			before := len(w.rt.Calls())
			w.want("c2", server(c.to, 2, c.change))
			p := w.passes(5*time.Minute, func(plan.Plan) {})
			if got := ops(w.rt.Calls(), before); got != c.calls {
				t.Errorf("did %s\nwant %s", got, c.calls)
			}
			held := ""
			for _, h := range p.Held {
				held += h.Reason + ": " + h.Message
			}
			if held != c.held {
				t.Errorf("held: %s\nwant: %s", held, c.held)
			}
			if s := w.serving(); s.State != runtime.StateRunning {
				t.Errorf("%s serves and is %s", s.ID, s.State)
			}
		})
	}
}

// A failed update is tried again when its spec changes or somebody asks, and not before: also not after an agent's restart, a
// reboot, another update that went well and a revert of it.
func TestRolledBackIsRemembered(t *testing.T) {
	w := newProbed(t)
	none := func(plan.Plan) {}
	w.want("c1", server("good", 1, nil))
	w.passes(time.Minute, none)
	w.want("c2", server("crash", 1, nil))
	w.passes(time.Minute, none)
	calls := len(w.rt.Calls())
	w.passes(time.Hour, none)
	if got := ops(w.rt.Calls(), calls); got != "" {
		t.Fatalf("at rest: %s", got)
	}
	w.want("c3", server("good", 1, nil)) // reverted: what failed goes
	w.passes(time.Minute, none)
	if got := ops(w.rt.Calls(), calls); got != "remove 3" {
		t.Fatalf("reverted: %s", got)
	}
	w.want("c4", server("crash", 1, nil))
	w.rt.Reboot()
	w.passes(time.Minute, none)
	if got := ops(w.rt.Calls(), calls); got != "remove 3, start 1" {
		t.Fatalf("again, and rebooted: %s", got)
	}
	w.in.History[named("web")] = plan.Retried(w.in.History[named("web")])
	p := w.passes(time.Minute, none)
	if got := ops(w.rt.Calls(), calls); got != "remove 3, start 1, prepare , create , start 6" || len(p.Held) != 1 || p.Held[0].Reason != plan.ReasonRolledBack {
		t.Fatalf("on retry: %s, %s", got, render(p))
	}
	w.in.History[named("web")] = plan.Retried(w.in.History[named("web")])
	w.passes(time.Minute, none)
	if got := ops(w.rt.Calls(), calls); got != "remove 3, start 1, prepare , create , start 6, remove 6, prepare , create , start 8" {
		t.Fatalf("on another: %s", got)
	}
	w.want("c5", server("good", 2, nil))
	w.passes(time.Minute, none)
	if s := w.serving(); len(w.list()) != 1 || s.Spec.Image.Ref != "example.com/good:2" {
		t.Errorf("%d containers, %s serves", len(w.list()), s.Spec.Image.Ref)
	}
}

// A fix that is pushed in the middle of an update ends it at once: what ran before serves while the next one is prepared.
func TestFixEndsTheAttemptAtOnce(t *testing.T) {
	for _, strategy := range []func(*manifest.Spec){nil, recreate} {
		w := newProbed(t)
		none := func(plan.Plan) {}
		w.want("c1", server("good", 1, strategy))
		w.passes(time.Minute, none)
		w.want("c2", server("never", 2, strategy))
		w.passes(3*time.Second, none)
		if len(w.list()) != 2 {
			t.Fatal("no attempt")
		}
		w.rt.Fail(fake.OpPrepare, web, 1, &runtime.Error{Op: "pull", Reason: runtime.ReasonErrImagePull})
		w.want("c3", server("good", 3, strategy))
		w.apply(w.look())
		w.apply(w.look())
		if s := w.serving(); s.State != runtime.StateRunning || s.Spec.Image.Ref != "example.com/good:1" {
			t.Fatalf("while the fix cannot be pulled %s serves and is %s", s.Spec.Image.Ref, s.State)
		}
		w.clock = w.clock.Add(time.Minute)
		w.passes(time.Minute, none)
		if s := w.serving(); len(w.list()) != 1 || s.Spec.Image.Ref != "example.com/good:3" {
			t.Errorf("%d containers, %s serves", len(w.list()), s.Spec.Image.Ref)
		}
	}
}

// TestUpdatesEndWell drives random commits, crashes, reboots, restarts of the agent and jumps of the clock. At no time does
// anything stop what serves of a StartFirst, do two serve, or is a plan unlawful; and in the end what is wanted runs, or what
// proved itself before does, and says why.
func TestUpdatesEndWell(t *testing.T) {
	kinds := []string{"good", "slow", "never", "crash", "hangs", "stuck"}
	rapid.Check(t, func(rt *rapid.T) {
		w := newProbed(t)
		starts := func(s *manifest.Spec) bool {
			return manifest.Defaulted(*s).Strategy.Type == manifest.StrategyStartFirst
		}
		check := func(p plan.Plan) {
			lawful(rt, w.world, p)
			here := map[runtime.ID]runtime.Status{}
			for _, s := range w.in.Observed {
				here[s.ID] = s
			}
			for _, s := range p.Steps {
				if !starts(&w.in.Desired.Workloads[0].Spec) || s.Op == plan.OpRestart {
					continue
				}
				for _, r := range append(slices.Clone(s.Stop), s.Remove...) {
					stops := here[r.ID]
					back := s.Op == plan.OpRollback && here[s.ID].State != runtime.StateRunning
					if s.Op == plan.OpRollback && s.ID != r.ID && here[s.ID].State == runtime.StateRunning {
						continue // it serves before the other is stopped
					}
					if stops.State == runtime.StateRunning && stops.Serving && !back && w.in.Health[r.ID].Ready && w.in.History[s.Name].Good == r.ID {
						rt.Fatalf("stops what serves:\n%s", render(p))
					}
				}
			}
			w.serving()
		}
		good := ""
		w.want("c0", server("good", 0, nil))
		w.passes(time.Minute, check)
		for i := range rapid.IntRange(1, 4).Draw(rt, "commits") {
			var change func(*manifest.Spec)
			if rapid.Bool().Draw(rt, "recreate") {
				change = recreate
			}
			kind := rapid.SampledFrom(kinds).Draw(rt, "kind")
			w.want(fmt.Sprint("c", i+1), server(kind, i+1, change))
			for range rapid.IntRange(0, 4).Draw(rt, "disturbances") {
				w.passes(time.Duration(rapid.IntRange(0, 12).Draw(rt, "halves"))*500*time.Millisecond, check)
				switch rapid.IntRange(0, 5).Draw(rt, "disturbance") {
				case 0:
					for _, s := range w.list() {
						if rapid.Bool().Draw(rt, "crashes") {
							w.rt.Exit(s.ID, 1)
						}
					}
				case 1:
					w.rt.Reboot()
				case 2:
					w.in.Now = w.clock.Add(time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(rt, "jump")))
					p := plan.Compute(w.in) // as an agent would for a moment
					check(p)
				case 3: // the agent dies between planning and doing, having kept what it found out
					w.note(w.look())
				case 4: // or between any two steps
					if p := w.look(); len(p.Steps) > 0 {
						w.note(p)
						half(w, p.Steps[0], rapid.IntRange(0, 4).Draw(rt, "calls"))
					}
				}
			}
			p := w.passes(20*time.Minute, check)
			s := w.serving()
			if s.State != runtime.StateRunning {
				rt.Fatalf("%s serves and is %s:\n%s", s.ID, s.State, render(p))
			}
			want := w.in.Desired.Workloads[0].Digest
			reason := ""
			for _, h := range p.Held {
				reason = h.Reason
			}
			switch {
			case s.Spec.OriginDigest == want && reason == "":
				good = want
			case reason == plan.ReasonRolledBack && s.ID == w.in.History[named("web")].Good:
			case s.Spec.OriginDigest == want && good == "":
			default:
				rt.Fatalf("%s serves, of %s; good was %s, %s is wanted:\n%s", s.ID, s.Spec.OriginDigest, good, want, render(p))
			}
			if n := len(w.list()); n > 2 || n == 2 && reason != plan.ReasonRolledBack {
				rt.Fatalf("%d containers are left:\n%s", n, render(p))
			}
		}
	})
}

// half carries out the first n calls of s and forgets about it, as an agent that is killed does.
func half(w probed, s plan.Step, n int) {
	ctx := w.t.Context()
	w.in.History[s.Name] = plan.Began(w.in.History[s.Name], s)
	var calls []func()
	if s.Op == plan.OpRollback && !s.Start || s.Op == plan.OpSwitch {
		calls = append(calls, func() { _ = w.rt.Serve(ctx, s.ID, true) })
	}
	for _, r := range s.Stop {
		calls = append(calls, func() { _ = w.rt.Stop(ctx, r.ID, 0) })
	}
	for _, r := range s.Remove {
		calls = append(calls, func() { _ = w.rt.Stop(ctx, r.ID, 0) }, func() { _ = w.rt.Remove(ctx, r.ID) })
	}
	if s.Op == plan.OpReplace || s.Op == plan.OpCreate {
		var id runtime.ID
		calls = append(calls, func() {
			_, _ = w.rt.Prepare(ctx, s.Spec, runtime.Inputs{})
			id, _ = w.rt.Create(ctx, s.Spec)
		}, func() { _ = w.rt.Start(ctx, id) })
	}
	if s.Op == plan.OpRollback && s.Start {
		calls = append(calls, func() { _ = w.rt.Serve(ctx, s.ID, true) })
	}
	for _, call := range calls[:min(n, len(calls))] {
		call()
	}
}

// What ran for less than it takes to prove itself is gone back to all the same: it did well as far as could be seen, and that
// is known before it is stopped.
func TestFastUpdateGoesBack(t *testing.T) {
	w := newProbed(t)
	w.want("c1", server("good", 1, recreate))
	w.apply(w.look())
	w.in.Health[w.list()[0].ID] = plan.Health{Starts: 1, Started: true, Ready: true}
	w.want("c2", server("crash", 2, recreate))
	w.apply(w.compute())
	if n := len(w.list()); n != 2 {
		t.Fatalf("%d containers", n)
	}
	p := w.passes(time.Minute, func(plan.Plan) {})
	if s := w.serving(); s.State != runtime.StateRunning || s.Spec.Image.Ref != "example.com/good:1" || len(p.Held) != 1 || p.Held[0].Reason != plan.ReasonRolledBack {
		t.Errorf("%s serves and is %s: %s", s.Spec.Image.Ref, s.State, render(p))
	}
}
