package plan_test

import (
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// dependant returns a workload that waits for web, in the way that condition says.
func dependant(condition manifest.Condition, version string) manifest.Workload {
	return workload(named("api"), manifest.Spec{
		Image: "example.com/good:" + version, DependsOn: []manifest.Dependency{{Name: "web", Condition: condition}},
	})
}

// stepOf returns what p does for api, or why it does nothing.
func stepOf(p plan.Plan) string {
	for _, s := range p.Steps {
		if s.Name == named("api") {
			return string(s.Op)
		}
	}
	for _, h := range p.Held {
		if h.Name == named("api") {
			return h.Message
		}
	}
	return ""
}

// A dependant starts once the condition is met: by default when what can tell so is healthy.
func TestDependencyConditions(t *testing.T) {
	ended := func(s *manifest.Spec) { s.ReadinessProbe, s.RestartPolicy = nil, manifest.RestartNever }
	for _, c := range []struct {
		name, behaviour string
		change          func(*manifest.Spec)
		condition       manifest.Condition
		exit            int // of web, after a second; negative: none
		first, then     string
	}{
		{"healthy by default", "slow", nil, "", -1, "waits for web to be healthy", "create"},
		{"healthy", "slow", nil, manifest.ConditionHealthy, -1, "waits for web to be healthy", "create"},
		{"started", "slow", nil, manifest.ConditionStarted, -1, "create", "create"},
		{"started by default", "slow", func(s *manifest.Spec) { s.ReadinessProbe = nil }, "", -1, "create", "create"},
		{"never healthy", "never", nil, "", -1, "waits for web to be healthy", "waits for web to be healthy"},
		{"completed", "good", ended, manifest.ConditionCompleted, 0, "waits for web to complete", "create"},
		{"failed", "good", ended, manifest.ConditionCompleted, 1, "waits for web to complete", "waits for web to complete: it exited with code 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newProbed(t)
			w.want("c1", server(c.behaviour, 1, c.change))
			w.apply(w.look())
			w.want("c2", server(c.behaviour, 1, c.change), dependant(c.condition, "1"))
			if got := stepOf(w.look()); got != c.first {
				t.Errorf("at first: %s", got)
			}
			w.clock = w.clock.Add(10 * time.Second)
			if c.exit >= 0 {
				w.rt.Exit(w.list()[0].ID, c.exit)
			}
			if got := stepOf(w.look()); got != c.then {
				t.Errorf("then: %s", got)
			}
		})
	}
}

// While a dependency is being updated only what crashed is started again; a new version waits for the update.
func TestDependantsOfAnUpdate(t *testing.T) {
	w := newProbed(t)
	w.want("c1", server("good", 1, nil), dependant("", "1"))
	w.passes(time.Minute, func(plan.Plan) {})
	w.want("c2", server("slow", 2, nil), dependant("", "2"))
	w.apply(w.look())
	w.clock = w.clock.Add(time.Second)
	if got := stepOf(w.look()); got != "waits for web, which is being updated" {
		t.Fatalf("during the update: %s", got)
	}
	w.want("c3", server("slow", 2, nil), dependant("", "1"))
	for _, s := range w.list() {
		if s.Spec.Name.Name == "api" {
			w.rt.Kill(s.ID)
		}
	}
	if got := stepOf(w.look()); got != string(plan.OpRestart) {
		t.Fatalf("after a crash: %s", got)
	}
	w.want("c4", server("slow", 2, nil), dependant("", "2"))
	w.passes(time.Minute, func(plan.Plan) {})
	for _, s := range w.list() {
		if s.State != runtime.StateRunning || s.Spec.Image.Ref != "example.com/slow:2" && s.Spec.Image.Ref != "example.com/good:2" {
			t.Errorf("%s is %s", s.Spec.Image.Ref, s.State)
		}
	}
}
