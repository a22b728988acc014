package plan_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

var web = runtime.Name{Namespace: "default", Name: "web"}

// crashing is a world with one container that ends at once at each start, and what the settled world waits for.
func crashing(t *testing.T, spec manifest.Spec) *world {
	t.Helper()
	w := newWorld(t)
	spec.Image, spec.Command = "example.com/app:1", []string{"exit", "1"}
	w.want("c1", workload(named("web"), spec))
	return w
}

// delays returns how long a crashing container waits for each of its first n starts.
func delays(w *world, n int) []time.Duration {
	var out []time.Duration
	last := w.clock
	for len(out) < n {
		p := w.compute()
		if len(p.Steps) == 0 {
			w.clock = p.Wake
			continue
		}
		out = append(out, w.clock.Sub(last))
		last = w.clock
		w.apply(p)
	}
	return out
}

func TestRestartsBackOff(t *testing.T) {
	s := time.Second
	got := delays(crashing(t, manifest.Spec{}), 10)
	if want := []time.Duration{0, 0, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s, 300 * s}; !slices.Equal(got, want) {
		t.Errorf("waited %v, want %v", got, want)
	}
	initial, longest := manifest.Duration(0), manifest.Duration(3*s)
	got = delays(crashing(t, manifest.Spec{RestartBackoff: &manifest.RestartBackoff{Initial: &initial, Max: &longest}}), 6)
	if want := []time.Duration{0, 0, s, 2 * s, 3 * s, 3 * s}; !slices.Equal(got, want) {
		t.Errorf("with 0s to 3s waited %v, want %v", got, want)
	}
}

// An init container that fails is the container's failure: it goes by its own backoff and restart policy.
func TestFailedInitContainersBackOff(t *testing.T) {
	s := time.Second
	initial := manifest.Duration(2 * s)
	spec := manifest.Spec{
		Image: "example.com/app:1", RestartBackoff: &manifest.RestartBackoff{Initial: &initial},
		InitContainers: []manifest.InitContainer{{Name: "migrate", Command: []string{"exit", "3"}}},
	}
	w := newWorld(t)
	w.want("c1", workload(named("web"), spec))
	if got, want := delays(w, 5), []time.Duration{0, 0, 2 * s, 4 * s, 8 * s}; !slices.Equal(got, want) {
		t.Errorf("waited %v, want %v", got, want)
	}
	if p := w.compute(); len(p.Held) != 1 || p.Held[0].Reason != plan.ReasonCrashLoop || !strings.Contains(p.Held[0].Message, "init container migrate exited with code 3") {
		t.Errorf("plan is %s", render(p))
	}
	spec.RestartPolicy = manifest.RestartNever
	w = newWorld(t)
	w.want("c1", workload(named("web"), spec))
	delays(w, 1)
	if p := w.compute(); len(p.Steps) != 0 || len(p.Held) != 1 || p.Held[0].Reason != runtime.ReasonInitFailed || !p.Wake.IsZero() {
		t.Errorf("plan is %s", render(p))
	}
}

func TestNobodyWaitsForACrashingContainer(t *testing.T) {
	w := crashing(t, manifest.Spec{})
	delays(w, 6)
	w.want("c2", append(w.in.Desired.Workloads, workload(named("db"), manifest.Spec{Image: "example.com/db:1"}))...)
	if p := w.compute(); len(p.Steps) != 1 || p.Steps[0].Name != named("db") {
		t.Errorf("plan is %s", render(p))
	}
}

func TestANewVersionCountsCrashesAnew(t *testing.T) {
	w := crashing(t, manifest.Spec{})
	delays(w, 6)
	w.want("c2", workload(named("web"), manifest.Spec{Image: "example.com/app:2", Command: []string{"exit", "1"}}))
	w.apply(w.compute())
	if p := w.compute(); len(p.Steps) != 1 || p.Steps[0].Op != plan.OpRestart {
		t.Errorf("after the first crash of a new version: %s", render(p))
	}
}

func TestALabelDoesNotCountCrashesAnew(t *testing.T) {
	w := crashing(t, manifest.Spec{})
	delays(w, 6)
	next := manifest.Workload{Kind: manifest.KindContainer, Name: named("web"), Labels: map[string]string{"a": "b"}, Spec: w.in.Desired.Workloads[0].Spec, Digest: "sha256:labelled"}
	w.want("c2", next)
	p := w.compute()
	if len(p.Steps) != 1 || p.Steps[0].Op != plan.OpUpdate {
		t.Fatalf("plan is %s", render(p))
	}
	w.apply(p)
	if p := w.compute(); len(p.Steps) != 0 || p.Wake.Sub(w.clock) < time.Minute {
		t.Errorf("after a label changed: %s", render(p))
	}
}

// TestFailuresDoNotFeedEachOther shows that an old version that does not start again and a new one that cannot be
// pulled do not make each other's waits void.
func TestFailuresDoNotFeedEachOther(t *testing.T) {
	w := newWorld(t)
	w.want("c1", workload(named("web"), manifest.Spec{Image: "example.com/app:1"}))
	w.settle(func(plan.Plan) {})
	w.rt.Fail(fake.OpPrepare, web, -1, &runtime.Error{Op: "pull", Err: errors.New("503"), Reason: runtime.ReasonErrImagePull})
	w.rt.Fail(fake.OpStart, web, -1, errors.New("no cgroup"))
	w.want("c2", workload(named("web"), manifest.Spec{Image: "example.com/app:2"}))
	w.rt.Kill(w.list()[0].ID)
	begun, tries := w.clock, 0
	for w.clock.Sub(begun) < time.Hour {
		p := w.compute()
		if len(p.Steps) > 0 {
			tries++
			w.apply(p)
			continue
		}
		if !p.Wake.After(w.clock) {
			t.Fatalf("nothing to do and nothing to wait for: %s", render(p))
		}
		w.clock = p.Wake
	}
	if tries > 60 { // the test's pulls wait 10 s more each time: 26 in an hour, and as many starts
		t.Errorf("%d tries in an hour", tries)
	}
}

func TestFailed(t *testing.T) {
	delay := func(n int) time.Duration { return time.Duration(n) * time.Minute }
	step := func(op plan.Op, digest string) plan.Step {
		return plan.Step{Op: op, Name: named("web"), Workload: manifest.Workload{Digest: digest}}
	}
	pull := &runtime.Error{Op: "pull image x", Err: errors.New("503"), Reason: runtime.ReasonErrImagePull, Hint: "look at the registry"}
	h := plan.Failed(plan.History{}, step(plan.OpCreate, "one"), fmt.Errorf("web: %w", pull), now, delay)
	if h.Digest != "one" || h.Failures != 1 || h.Reason != "ErrImagePull" || h.Hint != "look at the registry" || !h.NextTry.Equal(now.Add(time.Minute)) {
		t.Errorf("first failure: %+v", h)
	}
	h = plan.Failed(h, step(plan.OpCreate, "one"), pull, now, delay)
	if h.Failures != 2 || !h.NextTry.Equal(now.Add(2*time.Minute)) {
		t.Errorf("second failure: %+v", h)
	}
	if h = plan.Failed(h, step(plan.OpCreate, "two"), &runtime.Error{Op: "x", Err: errors.New("y"), Permanent: true}, now, delay); h.Failures != 1 || !h.NextTry.IsZero() || !h.Permanent {
		t.Errorf("permanent failure of another digest: %+v", h)
	}
	if h = plan.Failed(h, step(plan.OpRestart, "old"), pull, now.Add(time.Second), delay); h.Digest != "two" || h.Failures != 1 {
		t.Errorf("failed restart of the old one: %+v", h)
	}
	lost := &runtime.Error{Op: "ask the supervisor to start", Err: errors.New("connection broke"), Reason: runtime.ReasonSupervisorLost}
	if soon := plan.Failed(plan.History{}, step(plan.OpCreate, "one"), lost, now, delay); !soon.NextTry.Equal(now.Add(3 * time.Second)) {
		t.Errorf("the supervisor died in it: %+v", soon)
	}
	if h = plan.Failed(h, step(plan.OpRemove, ""), pull, now, delay); h.Digest != "" || h.Failures != 1 {
		t.Errorf("failed removal: %+v", h)
	}
	h.Restart, h.Crashes = true, 3
	if h = plan.Succeeded(h, step(plan.OpUpdate, "two")); h.Failures != 0 || !h.Restart || h.Crashes != 3 {
		t.Errorf("update done: %+v", h)
	}
	if h = plan.Succeeded(h, step(plan.OpReplace, "three")); h != (plan.History{}) {
		t.Errorf("replacement done: %+v", h)
	}
}

func TestRestarted(t *testing.T) {
	exited := runtime.Status{State: runtime.StateExited, Ran: time.Second}
	long, stopped, running := exited, exited, exited
	long.Ran, stopped.Stopped, running.State = 10*time.Minute, true, runtime.StateRunning
	for _, c := range []struct {
		name string
		h    plan.History
		s    runtime.Status
		want int
	}{
		{"crash", plan.History{Crashes: 2}, exited, 3},
		{"after a long run", plan.History{Crashes: 2}, long, 1},
		{"stopped", plan.History{Crashes: 2}, stopped, 2},
		{"running", plan.History{Crashes: 2}, running, 2},
		{"asked for", plan.History{Crashes: 2, Restart: true}, exited, 2},
	} {
		if got := plan.Restarted(c.h, c.s).Crashes; got != c.want {
			t.Errorf("%s: %d crashes, want %d", c.name, got, c.want)
		}
	}
}
