package reconcile

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

func TestRestartVerb(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		before := w.row("web")
		if err := w.agent.Restart(t.Context(), before.FullName()); err != nil {
			t.Fatal(err)
		}
		now := w.row("web")
		if now.Pid == before.Pid || now.ID != before.ID || now.State != report.StateRunning {
			t.Errorf("before %+v, now %+v", before, now)
		}
		after(time.Hour)
		if again := w.row("web"); again.Pid != now.Pid {
			t.Error("restarted more than once")
		}
		var missing *NotFoundError
		if err := w.agent.Restart(t.Context(), before.FullName()); err != nil {
			t.Fatal(err)
		}
		other := before.FullName()
		other.Name = "nothing"
		if err := w.agent.Restart(t.Context(), other); !errors.As(err, &missing) {
			t.Errorf("restart of nothing: %v", err)
		}
	})
}

func TestSecondAgentIsRefused(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		second, err := New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		var locked *journal.LockedError
		if err := second.Run(context.Background()); !errors.As(err, &locked) || locked.Pid == 0 {
			t.Errorf("second agent: %v", err)
		}
	})
}

func TestSyncOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "db", "web"))
		agent, err := New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := agent.SyncOnce(t.Context())
		if err != nil || r.Outcome != SyncConverged || r.Revision != w.src.head() {
			t.Fatalf("%+v, %v", r, err)
		}
		w.wantRunning("db", "web")
		w.rt.Pause(fake.OpPrepare, rtName("new"))
		w.push(containers("", "db", "new", "web"))
		agent, err = New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if r, err = agent.SyncOnce(ctx); err != nil || r.Outcome != SyncTimeout {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestDownKeepsNothingAlive(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "db", "web"))
		w.start()
		w.wantRunning("db", "web")
		release := w.rt.Pause(fake.OpPrepare, rtName("new"))
		defer release()
		w.push(containers("", "db", "new", "web"))
		synctest.Wait()
		if err := w.agent.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, o := range w.view().Observed {
			if err := w.rt.Remove(t.Context(), o.ID); err != nil {
				t.Fatal(err)
			}
		}
		after(time.Hour)
		w.wantRunning()
		w.stop()
		w.start()
		defer w.stop()
		w.wantRunning()
		if s := w.status(); s.Sync != report.Suspended || !strings.Contains(s.Message, "resume") {
			t.Errorf("status %+v", s)
		}
		w.rt.Heal(rtName("new"))
		if err := w.agent.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantRunning("db", "web")
	})
}

func TestSyncSaysThatTheContainersCannotBeListed(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.rt.Fail(fake.OpList, runtime.Name{}, -1, errors.New("the supervisor does not answer"))
		w.start()
		defer w.stop()
		<-w.agent.Ready()
		r, err := w.agent.Sync(t.Context())
		if err != nil || r.Outcome != SyncFailed || !strings.Contains(r.Message, "does not answer") {
			t.Errorf("%+v, %v", r, err)
		}
		w.rt.Heal(runtime.Name{})
		after(time.Minute)
		w.wantRunning("web")
	})
}
