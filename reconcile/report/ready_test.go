package report

import (
	"testing"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// TestReady fails where a container is said to be ready or healthy that its probes do not say so of, or where what they said of
// another start counts.
func TestReady(t *testing.T) {
	plain, probed, hooked := workload("web", "d"), workload("web", "d"), workload("web", "d")
	probed.Spec.ReadinessProbe = &manifest.Probe{}
	hooked.Spec.Lifecycle = &manifest.Lifecycle{PostStart: &manifest.Handler{}}
	for what, c := range map[string]struct {
		w       manifest.Workload
		state   runtime.State
		health  map[runtime.ID]plan.Health
		ready   bool
		healthy string
		message string
	}{
		"no probes":          {plain, runtime.StateRunning, nil, true, Healthy, ""},
		"exited":             {plain, runtime.StateExited, nil, false, Degraded, "exited, nobody saw with what code"},
		"given up":           {plain, runtime.StateRunning, map[runtime.ID]plan.Health{"web-1": {Starts: 1, Started: true, Failed: "no"}}, false, Progressing, ""},
		"not asked yet":      {probed, runtime.StateRunning, nil, false, Progressing, ""},
		"hook not run":       {hooked, runtime.StateRunning, nil, false, Progressing, ""},
		"not ready":          {probed, runtime.StateRunning, map[runtime.ID]plan.Health{"web-1": {Starts: 1, Started: true, Message: "503"}}, false, Progressing, "503"},
		"ready":              {probed, runtime.StateRunning, map[runtime.ID]plan.Health{"web-1": {Starts: 1, Started: true, Ready: true}}, true, Healthy, ""},
		"another start was":  {probed, runtime.StateRunning, map[runtime.ID]plan.Health{"web-1": {Starts: 2, Started: true, Ready: true}}, false, Progressing, ""},
		"it was, and exited": {probed, runtime.StateExited, map[runtime.ID]plan.Health{"web-1": {Starts: 1, Started: true, Ready: true}}, false, Degraded, "exited, nobody saw with what code"},
	} {
		v := view([]manifest.Workload{c.w}, status(c.w, c.state))
		v.Health = c.health
		r := Rows(v, false)[0]
		if r.Ready != c.ready || r.Health != c.healthy || r.Message != c.message {
			t.Errorf("%s: ready %v, %s, message %q; want %v, %s, %q", what, r.Ready, r.Health, r.Message, c.ready, c.healthy, c.message)
		}
	}
}
