package reconcile

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// errCommand is how a probe's command ends that can never be run.
func errCommand() error {
	return &runtime.Error{Op: "run a command", Err: errors.New("no such program"), Permanent: true}
}

const alive = "  livenessProbe: {exec: {command: [check]}, periodSeconds: 1, failureThreshold: 2}\n"

// events returns what is told of name, as "Reason: message".
func (w *world) events(name string) []string {
	w.t.Helper()
	synctest.Wait()
	records, err := w.agent.Records()
	if err != nil {
		w.t.Fatal(err)
	}
	var list []string
	for _, e := range report.EventsOf(records, nil) {
		if e.Name != nil && e.Name.Name == name {
			list = append(list, e.Reason+": "+e.Message)
		}
	}
	return list
}

// TestLivenessRestarts fails where a container whose liveness probe fails is not started again, keeping its id: at once the
// first time, after its delay from then on, saying when it is tried next.
func TestLivenessRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.push(containers(alive, "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		id := w.idOf("web")
		w.rt.Fail(fake.OpExec, rtName("web"), 2, errCommand())
		after(5 * time.Second)
		row := w.row("web")
		if row.ID != string(id) || row.State != report.StateRunning || row.Restarts != 1 || row.Health != report.Healthy {
			t.Fatalf("after its probe failed twice: %+v", row)
		}

		w.rt.Fail(fake.OpExec, rtName("web"), -1, errCommand())
		after(5 * time.Second)
		row = w.row("web")
		if row.Ready || row.Reason != "CrashLoopBackOff" || row.Health != report.Degraded || row.NextRetryAt == nil {
			t.Fatalf("after it failed again: %+v", row)
		}
		if want := "livenessProbe failed 2 times: run a command: no such program"; !strings.Contains(row.Message, want) {
			t.Errorf("message %q, want %q in it", row.Message, want)
		}
		w.rt.Heal(rtName("web"))
		after(time.Until(*row.NextRetryAt) + 2*time.Second)
		if row = w.row("web"); row.State != report.StateRunning || row.Restarts != 2 || row.ID != string(id) || row.Health != report.Healthy {
			t.Errorf("after its delay: %+v", row)
		}
		events := strings.Join(w.events("web"), "\n")
		for _, want := range []string{"Unhealthy: livenessProbe failed 2 times", "Starting: restart; livenessProbe failed"} {
			if !strings.Contains(events, want) {
				t.Errorf("no event %q:\n%s", want, events)
			}
		}
	})
}

// TestNeverRestarted fails where a container that is not to be started again is, because its probe gave it up.
func TestNeverRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.push(containers(alive+"  restartPolicy: Never\n", "web"))
		w.start()
		defer w.stop()
		w.rt.Fail(fake.OpExec, rtName("web"), -1, errCommand())
		after(time.Minute)
		row := w.row("web")
		if row.Restarts != 0 || row.Ready || row.Health != report.Degraded || row.Reason != plan.ReasonUnhealthy || !strings.Contains(row.Message, "livenessProbe failed") {
			t.Errorf("%+v", row)
		}
	})
}

// TestPostStartFails fails where a start whose hook fails stands, or where the hook is not run at each start.
func TestPostStartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.rt.Fail(fake.OpExec, rtName("web"), 1, errCommand())
		w.push(containers("  lifecycle: {postStart: {exec: {command: [warm]}}}\n", "web"))
		w.start()
		defer w.stop()
		after(5 * time.Second)
		if row := w.row("web"); row.State != report.StateRunning || row.Restarts != 1 || !row.Ready {
			t.Errorf("after a hook that failed once: %+v", row)
		}
		if events := w.events("web"); !slices.Contains(events, "FailedPostStartHook: postStart failed: run a command: no such program") {
			t.Errorf("events: %q", events)
		}
		execs := 0
		for _, c := range w.rt.Calls() {
			if c.Op == fake.OpExec {
				execs++
			}
		}
		if execs != 2 {
			t.Errorf("the hook was run %d times, want once for each start", execs)
		}
	})
}

// TestReadinessIsShown fails where ps does not say that a container is not ready, or that it is ready again, also after
// the agent's restart.
func TestReadinessIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.push(containers("  readinessProbe: {exec: {command: [check]}, periodSeconds: 1}\n", "web"))
		w.rt.Fail(fake.OpExec, rtName("web"), -1, errCommand())
		w.start()
		after(10 * time.Second)
		row := w.row("web")
		if row.Ready || row.Health != report.Progressing || row.Reason != plan.ReasonProgressing || !strings.Contains(row.Message, "no such program") {
			t.Errorf("while it starts: %+v", row)
		}
		after(2 * time.Minute)
		if row = w.row("web"); row.Ready || row.Health != report.Degraded {
			t.Errorf("after its deadline: %+v", row)
		}
		w.rt.Heal(rtName("web"))
		after(2 * time.Second)
		if row = w.row("web"); !row.Ready || row.Health != report.Healthy || row.Reason != "" {
			t.Errorf("when it is ready: %+v", row)
		}
		w.stop()

		resume := w.rt.Pause(fake.OpExec, rtName("web"))
		w.start()
		defer w.stop()
		synctest.Wait()
		if row = w.row("web"); !row.Ready || row.Health != report.Healthy {
			t.Errorf("before the next agent's first probe: %+v", row)
		}
		resume()
	})
}

// TestPreStop fails where a stop of the agent leaves the hook out: for an update, a restart, a removal.
func TestPreStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		hook := "  lifecycle: {preStop: {exec: {command: [drain]}}}\n"
		w.push(containers(hook, "web", "db", "cache"))
		w.start()
		defer w.stop()
		after(time.Second)
		order := func(what string) {
			t.Helper()
			after(10 * time.Second)
			var ops []string
			for _, c := range w.rt.Calls() {
				if c.Name == rtName("web") && (c.Op == fake.OpExec || c.Op == fake.OpStop) {
					ops = append(ops, string(c.Op))
				}
			}
			if n := len(ops); n < 2 || n%2 != 0 || !slices.Equal(ops[n-2:], []string{"exec", "stop"}) {
				t.Errorf("%s: %q, want the hook, then the stop", what, ops)
			}
		}
		if err := w.agent.Restart(t.Context(), w.row("web").FullName()); err != nil {
			t.Fatal(err)
		}
		order("restart")
		w.push(containers(hook+"  env: {A: b}\n", "web", "db", "cache"))
		order("update")
		w.rt.Fail(fake.OpExec, rtName("web"), 1, errCommand())
		w.push(containers(hook+"  env: {A: b}\n", "db", "cache"))
		order("removal")
		w.wantRunning("cache", "db")
		if events := w.events("web"); !slices.Contains(events, "FailedPreStopHook: preStop failed: run a command: no such program") {
			t.Errorf("events: %q", events)
		}
	})
}

// TestStopAll fails where taking everything down leaves a hook out, or a hook's failure leaves a container running.
func TestStopAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.push(containers("  lifecycle: {preStop: {exec: {command: [drain]}}}\n", "web", "db"))
		w.start()
		w.wantRunning("db", "web")
		w.stop()
		w.rt.Fail(fake.OpExec, rtName("web"), 1, errCommand())
		var mu sync.Mutex
		var told []string
		err := StopAll(t.Context(), w.rt, func(name, what string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, name+": "+what)
		})
		if want := []string{"web: preStop failed: run a command: no such program"}; err != nil || !slices.Equal(told, want) {
			t.Errorf("%v, told %q, want %q", err, told, want)
		}
		w.wantRunning()
		hooks := 0
		for _, c := range w.rt.Calls() {
			if c.Op == fake.OpExec {
				hooks++
			}
		}
		if hooks != 2 {
			t.Errorf("%d hooks were run, want 2", hooks)
		}
	})
}

// TestStopAllStopsDependantsFirst fails where a container is stopped before those that depend on it have ended, or where others
// wait for anybody.
func TestStopAllStopsDependantsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, t.TempDir())
		w.push(merge(
			containers("", "db", "other"),
			containers("  dependsOn: [{name: db}]\n", "api", "cron"),
			containers("  dependsOn: [{name: api}]\n", "web"),
		))
		w.start()
		w.wantRunning("api", "cron", "db", "other", "web")
		w.stop()
		release := map[string]func(){}
		for _, name := range []string{"web", "api"} {
			release[name] = sync.OnceFunc(w.rt.Pause(fake.OpStop, rtName(name)))
			defer release[name]()
		}
		done := make(chan error, 1)
		go func() {
			done <- StopAll(context.Background(), w.rt, func(name, what string) { t.Errorf("%s: %s", name, what) })
		}()
		w.wantRunning("api", "db", "web")
		release["web"]()
		w.wantRunning("api", "db")
		release["api"]()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.wantRunning()
	})
}
