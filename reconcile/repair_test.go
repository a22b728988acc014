package reconcile

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// What somebody changes is repaired when there is a hint of it, else after the longest rest; it is counted and told of.
func TestDriftIsRepaired(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.cfg.Interval = time.Hour
		w.start()
		defer w.stop()
		w.wantRunning("web")
		after(time.Minute)
		drift := func() (n uint64, last report.Event) {
			synctest.Wait()
			for _, e := range w.eventsOf("web") {
				if e.Reason == "DriftRepaired" {
					last = e
				}
			}
			return w.agent.Counters().Drift, last
		}
		w.rt.Drift(w.idOf("web"), "pids.max", true)
		if n, e := drift(); n != 1 || !strings.Contains(e.Message, "pids.max") || e.Type != report.EventWarning {
			t.Errorf("%d repaired, event %+v", n, e)
		}
		w.rt.Drift(w.idOf("web"), "at once", true)
		if n, _ := drift(); n != 1 {
			t.Error("repaired without a rest")
		}
		after(minRepairRest)
		if n, _ := drift(); n != 2 {
			t.Errorf("%d repaired after the rest, want 2", n)
		}
		w.rt.Drift(w.idOf("web"), "memory.max", false)
		after(longestRest)
		if n, e := drift(); n != 3 || !strings.Contains(e.Message, "memory.max") {
			t.Errorf("%d repaired, event %+v", n, e)
		}
		after(minRepairRest)
		if err := w.agent.Suspend(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.rt.Drift(w.idOf("web"), "cpu.max", true)
		if n, _ := drift(); n != 4 {
			t.Errorf("%d repaired while suspended, want 4", n)
		}
	})
}

// A repair that had to wait for long does not put the next one off for as much longer.
func TestSlowRepairIsFollowedSoon(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		resume := w.rt.Pause(fake.OpRepair, runtime.Name{})
		w.start()
		defer w.stop()
		w.wantRunning("web")
		after(time.Minute)
		resume()
		synctest.Wait()
		w.rt.Drift(w.idOf("web"), "pids.max", true)
		after(maxRepairRest)
		if n := w.agent.Counters().Drift; n != 1 {
			t.Errorf("%d repaired, want 1", n)
		}
	})
}

// What cannot be repaired is a warning, and tried again.
func TestRepairThatFailsIsTriedAgain(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.rt.Fail(fake.OpRepair, runtime.Name{}, 2, errors.New("no such table"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		after(time.Second)
		if s := w.status(); s.Sync != report.Synced || !strings.Contains(strings.Join(s.Warnings, ";"), "no such table") {
			t.Errorf("%+v", s)
		}
		w.rt.Drift(w.idOf("web"), "pids.max", false)
		after(2 * repairAgain)
		if s := w.status(); len(s.Warnings) > 0 || w.agent.Counters().Drift != 1 {
			t.Errorf("%+v, %d repaired", s, w.agent.Counters().Drift)
		}
	})
}

// Who takes everything down waits until a repair has ended, and there is none after that.
func TestNothingIsRepairedWhileDown(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		after(time.Minute)
		resume := w.rt.Pause(fake.OpRepair, runtime.Name{})
		id := w.idOf("web")
		w.rt.Drift(id, "pids.max", true)
		synctest.Wait()
		down := make(chan error, 1)
		go func() { down <- w.agent.Down(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-down:
			t.Errorf("down while a repair goes on: %v", err)
		default:
		}
		resume()
		if err := <-down; err != nil {
			t.Fatal(err)
		}
		w.rt.Drift(id, "memory.max", true)
		after(time.Hour)
		if n := w.agent.Counters().Drift; n != 1 {
			t.Errorf("%d repaired, want 1", n)
		}
	})
}

// What a step of ours did is looked at when the step ends, once; what it did not do is looked at at once.
func TestHintsOfOwnSteps(t *testing.T) {
	mine, other := manifest.Name{Name: "mine"}, manifest.Name{Name: "other"}
	a := &Agent{token: make(chan struct{}, 1), work: map[manifest.Name]report.Activity{mine: {}}}
	l := &loop{a: a}
	for _, c := range []struct {
		event runtime.EventType
		name  manifest.Name
		looks int
	}{
		{runtime.EventStarted, mine, 0},
		{runtime.EventRemoved, mine, 0},
		{runtime.EventExited, mine, 1},
		{runtime.EventStarted, other, 1},
		{runtime.EventRemoved, other, 1},
	} {
		l.hear(runtime.Event{Type: c.event, Name: runtime.Name(c.name)})
		if got := len(a.token); got != c.looks {
			t.Errorf("%s of %s: %d looks, want %d", c.event, c.name.Name, got, c.looks)
		}
		select {
		case <-a.token:
		default:
		}
	}
}
