package reconcile

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

func TestFailureBacksOffAndIsTriedAgain(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.rt.Fail(fake.OpPrepare, rtName("web"), -1, errors.New("registry is down"))
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		after(30 * time.Minute)
		tries := 0
		for _, c := range w.rt.Calls() {
			if c.Op == fake.OpPrepare {
				tries++
			}
		}
		// 0, 10 s, 30 s, 70 s, 150 s, 310 s, then every 5 min, 10 % more or less.
		if tries < 9 || tries > 13 {
			t.Errorf("%d tries in half an hour", tries)
		}
		if e := w.history()[0]; e.Result != journal.ResultFailed {
			t.Errorf("history %+v", e)
		}
		w.rt.Heal(rtName("web"))
		after(6 * time.Minute)
		w.wantRunning("web")
		if e := w.history()[0]; e.Result != journal.ResultApplied || len(e.Steps) != 1 || e.Steps[0].Result != journal.StepDone {
			t.Errorf("history %+v", e)
		}
	})
}

// A failure that is noted in a turn that takes its time is held like any other.
func TestFailureInASlowTurnBacksOff(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.rt.Fail(fake.OpPrepare, rtName("web"), -1, errors.New("registry is down"))
		resume := w.rt.Pause(fake.OpPrepare, rtName("web"))
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		synctest.Wait()
		slow := func(*loop) { time.Sleep(2 * time.Millisecond) }
		w.agent.post(slow)
		time.Sleep(time.Millisecond) // while that turn is on, what the next one is to do gathers: to take its time, then a failure
		w.agent.post(slow)
		resume()
		after(time.Second)
		if row := w.row("web"); row.NextRetryAt == nil {
			t.Errorf("%+v", row)
		}
		tries := 0
		for _, c := range w.rt.Calls() {
			if c.Op == fake.OpPrepare {
				tries++
			}
		}
		if tries != 1 {
			t.Errorf("tried %d times within its backoff", tries)
		}
	})
}

// TestClockOfTheLastBoot goes on with what was remembered by a clock that was years ahead: nothing waits for those years.
func TestClockOfTheLastBoot(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "new", "old"))
		w.start()
		w.wantRunning("new", "old")
		w.agent.post(func(l *loop) {
			ahead := time.Now().AddDate(56, 0, 0)
			h := plan.History{Digest: "x", Failures: 1, LastFailure: time.Now().Add(-time.Minute), NextTry: ahead}
			h.Undo = plan.Trouble{Failures: 1, Next: ahead, Error: "busy"}
			l.setHistory(manifest.Name{Namespace: "default", Name: "new"}, h)
		})
		synctest.Wait()
		w.stop()
		w.start()
		defer w.stop()
		h := w.view().State.Histories[manifest.Name{Namespace: "default", Name: "new"}]
		if left := time.Until(h.NextTry); left > maxDelay {
			t.Errorf("tried again in %v", left)
		}
		if left := time.Until(h.Undo.Next); left > maxDelay {
			t.Errorf("gone back with in %v", left)
		}
	})
}

func TestPermanentFailureWaitsForChange(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.rt.Fail(fake.OpPrepare, rtName("web"), 1, &runtime.Error{Op: "prepare", Err: errors.New("no such command"), Permanent: true})
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		after(time.Hour)
		w.wantRunning()
		r, err := w.agent.Sync(t.Context())
		if err != nil || r.Outcome != SyncFailed || !strings.Contains(r.Message, "no such command") {
			t.Fatalf("sync %+v, %v", r, err)
		}
		w.push(containers("  env: {FIXED: yes}\n", "web"))
		w.wantRunning("web")
	})
}
