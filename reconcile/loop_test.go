package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// run runs fn in a bubble of virtual time around a world.
func run(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { fn(t, newWorld(t, dir)) })
}

func TestCommitBecomesContainers(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		commit := w.push(containers("", "db", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("db", "web")
		s := w.status()
		if s.Sync != report.Synced || s.Health != report.Healthy || s.Applied == nil || s.Applied.Commit != commit {
			t.Fatalf("status %+v", s)
		}
		h := w.history()
		if len(h) != 1 || h[0].Result != journal.ResultApplied || len(h[0].Steps) != 2 || h[0].Author == "" {
			t.Fatalf("history %+v", h)
		}
		// A pushed change is seen at once where the source can be watched, and touches only what it is about.
		db := w.row("db")
		w.push(merge(containers("", "db"), containers("  env: {A: b}\n", "web")))
		if now := w.row("db"); now.ID != db.ID || now.Pid != db.Pid {
			t.Errorf("db was touched: %+v", now)
		}
		if r := w.row("web"); r.State != report.StateRunning || r.Revision != w.src.head() {
			t.Errorf("web %+v", r)
		}
		w.push(containers("", "db"))
		w.wantRunning("db")
	})
}

func TestUnchangedCommitIsReadOnceAndWritesNothing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		after(2 * time.Second) // it proves itself
		w.wantRunning("web")
		written := w.agent.Counters().StateBytesWritten
		after(time.Hour)
		if n := w.loads.Load(); n != 1 {
			t.Errorf("loaded %d times", n)
		}
		if w.src.looks() < 100 {
			t.Errorf("only %d looks in an hour of 30 s", w.src.looks())
		}
		if now := w.agent.Counters().StateBytesWritten; now != written {
			t.Errorf("%d bytes written at rest", now-written)
		}
		if _, err := w.agent.Sync(t.Context()); err != nil || w.loads.Load() != 1 {
			t.Errorf("sync: %v, loads %d", err, w.loads.Load())
		}
	})
}

func TestTriggersCoalesce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		before := w.agent.Counters().ReconcileSeconds.Count
		resume := w.rt.Pause(fake.OpList, runtime.Name{})
		w.agent.poke()
		synctest.Wait() // the loop is inside List now
		for range 1000 {
			w.agent.poke()
		}
		resume()
		synctest.Wait()
		if n := w.agent.Counters().ReconcileSeconds.Count - before; n > 2 {
			t.Errorf("%d looks for a burst of 1000 triggers", n)
		}
	})
}

func TestOneBadImageHoldsBackNobody(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.rt.Fail(fake.OpPrepare, rtName("bad"), -1, &runtime.Error{
			Op: "pull image registry.example.com/bad:1", Err: errors.New("401 Unauthorized"),
			Reason: runtime.ReasonErrImagePull, Hint: "log in",
		})
		release := w.rt.Pause(fake.OpPrepare, rtName("hangs"))
		w.push(containers("", "a", "b", "bad", "c", "d", "e", "f", "hangs", "i"))
		w.start()
		defer w.stop()
		w.wantRunning("a", "b", "c", "d", "e", "f", "i")
		r := w.row("bad")
		if r.Reason != "ImagePullBackOff" || r.NextRetryAt == nil || r.Health != report.Degraded || !strings.Contains(r.Message, "401") {
			t.Errorf("bad %+v", r)
		}
		if h := w.row("hangs"); h.State != report.StatePulling || h.Health != report.Progressing {
			t.Errorf("hangs %+v", h)
		}
		release()
		w.rt.Heal(rtName("bad"))
		if err := w.agent.Retry(t.Context(), r.FullName()); err != nil {
			t.Fatal(err)
		}
		w.wantRunning("a", "b", "bad", "c", "d", "e", "f", "hangs", "i")
		if s := w.status(); s.Sync != report.Synced || s.Health != report.Healthy {
			t.Errorf("status %+v", s)
		}
	})
}

func TestChangedSpecCancelsStepInFlight(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		first := w.idOf("web")
		release := w.rt.Pause(fake.OpPrepare, rtName("web"))
		w.push(containers("  env: {A: one}\n", "web"))
		synctest.Wait()
		if got := w.idOf("web"); got != first {
			t.Fatal("the old container went before the new one was prepared")
		}
		last := w.push(containers("  env: {A: two}\n", "web"))
		synctest.Wait()
		release()
		w.wantRunning("web")
		if r := w.row("web"); r.Revision != last || r.ID == string(first) {
			t.Errorf("web %+v", r)
		}
		for _, e := range w.history() {
			for _, s := range e.Steps {
				if s.Result == journal.StepFailed {
					t.Errorf("a cancelled step counts as failed: %+v", s)
				}
			}
		}
		creates := 0
		for _, c := range w.rt.Calls() {
			if c.Op == fake.OpCreate {
				creates++
			}
		}
		if creates != 2 {
			t.Errorf("%d containers made, want 2: the spec in between was superseded", creates)
		}
	})
}

func TestCrashedContainerIsRestartedAlone(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "db", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("db", "web")
		after(20 * time.Minute)
		db := w.row("db")
		w.rt.Exit(w.idOf("web"), 3)
		w.wantRunning("db", "web") // the first restart is at once
		w.rt.Exit(w.idOf("web"), 3)
		r := w.row("web")
		if r.State != report.StateExited || r.Reason != "CrashLoopBackOff" || r.NextRetryAt == nil || *r.ExitCode != 3 || r.Restarts != 1 {
			t.Fatalf("web %+v", r)
		}
		if s := w.status(); s.Sync != report.Synced || s.Health != report.Degraded {
			t.Errorf("status %+v", s)
		}
		after(11 * time.Second)
		w.wantRunning("db", "web")
		if now := w.row("db"); now.Pid != db.Pid {
			t.Error("db was touched")
		}
		if c := w.agent.Counters(); c.Drift != 2 || len(c.Restarts) != 1 {
			t.Errorf("counters %+v", c)
		}
	})
}

func TestRejectedCommitKeepsWhatRuns(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		good := w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		w.push(map[string]string{"all.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: web}\nspec:\n  imagee: x\n"})
		s := w.status()
		if s.Sync != report.OutOfSync || s.Reason != report.ReasonRejected || !strings.Contains(s.Message, "all.yaml:5") {
			t.Fatalf("status %+v", s)
		}
		if s.Accepted.Commit != good || s.Fetched.Commit == good {
			t.Errorf("status %+v", s)
		}
		w.rt.Kill(w.idOf("web"))
		w.wantRunning("web") // kept alive meanwhile
		r, err := w.agent.Sync(t.Context())
		if err != nil || r.Outcome != SyncFailed || r.Reason != report.ReasonRejected {
			t.Errorf("sync %+v, %v", r, err)
		}
		if h := w.history(); h[0].Result != journal.ResultRejected || len(h) != 2 {
			t.Errorf("history %+v", h)
		}
		w.push(containers("  env: {A: b}\n", "web"))
		if s := w.status(); s.Sync != report.Synced {
			t.Errorf("status after the repair %+v", s)
		}
	})
}

func TestSuspendedStillRestarts(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		w.wantRunning("web")
		if err := w.agent.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.push(containers("", "db", "web"))
		w.wantRunning("web")
		w.stop()
		w.start() // kept over a restart
		defer w.stop()
		if s := w.status(); s.Sync != report.Suspended {
			t.Errorf("status %+v", s)
		}
		w.rt.Kill(w.idOf("web"))
		w.wantRunning("web")
		if r, err := w.agent.Sync(t.Context()); err != nil || r.Outcome != SyncSuspended {
			t.Errorf("sync %+v, %v", r, err)
		}
		if err := w.agent.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantRunning("db", "web")
	})
}

func TestFetchFailureDisturbsNothing(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		w.src.fail(errors.New("fetch https://git.example.com/fleet.git: connection refused"))
		if r, err := w.agent.Sync(t.Context()); err != nil || r.Outcome != SyncFailed || r.Reason != report.ReasonFetchFailed {
			t.Fatalf("sync %+v, %v", r, err)
		}
		s := w.status()
		if s.LastFetch.OK || s.NextFetch == nil || !strings.Contains(s.Message, "next try at") || s.Sync != report.Synced {
			t.Errorf("status %+v", s)
		}
		before := w.src.looks()
		after(time.Hour)
		if n := w.src.looks() - before; n < 10 || n > 25 {
			t.Errorf("%d looks in an hour at a source that is down", n)
		}
		w.rt.Kill(w.idOf("web"))
		w.wantRunning("web")
		w.src.fail(nil)
		w.push(containers("", "db", "web"))
		w.wantRunning("db", "web")
		if s := w.status(); !s.LastFetch.OK || s.Sync != report.Synced {
			t.Errorf("status %+v", s)
		}
	})
}

func TestRebootWithoutNetwork(t *testing.T) {
	run(t, func(_ *testing.T, w *world) {
		w.push(containers("", "db", "web"))
		w.start()
		w.wantRunning("db", "web")
		w.stop()
		w.rt.Reboot()
		w.src.hang = make(chan struct{}) // the network never comes
		w.start()
		defer w.stop()
		w.wantRunning("db", "web")
	})
}

func TestDependencyIsStartedFirst(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		release := w.rt.Pause(fake.OpStart, rtName("db"))
		w.push(merge(containers("", "db"), containers("  dependsOn: [db]\n", "web")))
		w.start()
		defer w.stop()
		w.wantRunning()
		calls := w.rt.Calls()
		prepared := false
		for _, c := range calls {
			prepared = prepared || c.Op == fake.OpPrepare && c.Name == rtName("web")
			if c.Op == fake.OpCreate && c.Name == rtName("web") {
				t.Error("web was created before db ran")
			}
		}
		if !prepared {
			t.Error("web was not prepared while it waited")
		}
		release()
		w.wantRunning("db", "web")
	})
}

func TestFailedDependencyHoldsDependent(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.rt.Fail(fake.OpStart, rtName("db"), 1, errors.New("cannot start"))
		w.push(merge(containers("", "db"), containers("  dependsOn: [db]\n", "web"), containers("", "other")))
		w.start()
		defer w.stop()
		w.wantRunning("other")
		if r := w.row("web"); r.Reason != "DependencyNotReady" || !strings.Contains(r.Message, "db") {
			t.Errorf("web %+v", r)
		}
		after(12 * time.Second)
		w.wantRunning("db", "other", "web")
	})
}

func TestAtMostAShareIsReplacedAtATime(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for share, want := range map[int]int{0: 7, 25: 6, 100: 0} { // one may always be down
		run(t, func(t *testing.T, w *world) { replacedAtATime(t, w, names, share, want) })
	}
}

func replacedAtATime(t *testing.T, w *world, names []string, share, want int) {
	t.Helper()
	w.cfg.MaxUnavailable = share
	w.push(containers("", names...))
	w.start()
	defer w.stop()
	w.wantRunning(names...)
	release := make([]func(), 0, len(names))
	for _, n := range names {
		release = append(release, w.rt.Pause(fake.OpStart, rtName(n)))
	}
	w.push(containers("  env: {A: b}\n", names...))
	if n := len(w.running()); n != want {
		t.Errorf("%d of 8 run during the update with %d %%, want %d", n, share, want)
	}
	for _, fn := range release {
		fn()
	}
	w.wantRunning(names...)
}

// What a commit came to stays in history: a crash later on, with an agent that was started anew, is not the commit's.
func TestAppliedStaysApplied(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		w.wantRunning("web")
		for range 3 {
			w.rt.Exit(w.idOf("web"), 1)
			synctest.Wait()
		}
		if r := w.row("web"); r.Reason != "CrashLoopBackOff" {
			t.Fatalf("web %+v", r)
		}
		w.stop()
		w.start()
		defer w.stop()
		if h := w.history(); len(h) != 1 || h[0].Result != journal.ResultApplied {
			t.Errorf("history %+v", h)
		}
	})
}

// Going back to what was applied last is a commit of its own, with an end of its own.
func TestTakenBackIsApplied(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		good := w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		w.rt.Fail(fake.OpPrepare, rtName("web"), -1, errors.New("registry is down"))
		w.push(containers("  env: {A: b}\n", "web"))
		if h := w.history(); h[0].Result != journal.ResultFailed {
			t.Fatalf("history %+v", h)
		}
		w.src.back()
		if _, err := w.agent.Approve(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		if h := w.history(); len(h) != 3 || h[0].Revision != good || h[0].Result != journal.ResultApplied {
			t.Errorf("history %+v", h)
		}
	})
}

// The registry is asked for nothing that this server cannot run.
func TestIncompatibleImagesAreNotLookedUp(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		asked := make(chan string, 100)
		w.cfg.ImageInterval = time.Minute
		w.cfg.Resolve = func(_ context.Context, img runtime.Image, _ *runtime.Platform) (string, error) {
			asked <- img.Ref
			return "sha256:1", nil
		}
		w.rt.SetImageDigest("example.com/web", "sha256:1")
		w.push(map[string]string{
			"web.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: web}\nspec: {image: example.com/web, network: none}\n",
			"far.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: far}\n" +
				"spec: {image: example.com/far, network: none, platform: {architectures: [riscv64]}}\n",
		})
		w.start()
		defer w.stop()
		w.wantRunning("web")
		for range 3 {
			if ref := <-asked; ref != "example.com/web" {
				t.Errorf("%s was looked up", ref)
			}
		}
	})
}

// Each tag that was ever pulled Always is not remembered, nor its image kept, for ever.
func TestPulledAlwaysIsForgotten(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var kept []string
		w.cfg.Collect = func(_ context.Context, keep []string) error {
			kept = keep
			return nil
		}
		for i := range 10 {
			ref := fmt.Sprintf("registry.example.com/web:%d", i)
			w.rt.SetImageDigest(ref, fmt.Sprintf("sha256:%d", i))
			w.push(map[string]string{"web.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: web}\n" +
				"spec: {image: \"" + ref + "\", imagePullPolicy: Always, network: none}\n"})
			if i == 0 {
				w.start()
				defer w.stop()
			}
			after(2 * time.Second) // it proves itself
			w.wantRunning("web")
		}
		if want := []string{"sha256:8", "sha256:9"}; !slices.Equal(kept, want) {
			t.Errorf("kept %q, want %q", kept, want)
		}
		if v := w.view(); len(v.State.ImageDigests) != 1 {
			t.Errorf("remembered %v", v.State.ImageDigests)
		}
	})
}
