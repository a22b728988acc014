package reconcile

import (
	"context"
	"errors"
	"io/fs"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime/fake"
)

// A burst of turns is not held up; turns without end take about a fortieth of the time, and none is longer in coming than the
// longest pause.
func TestPace(t *testing.T) {
	now := time.Unix(0, 0)
	p := newPace(now)
	turn := func(took time.Duration) time.Duration {
		now = now.Add(took)
		rest := p.rest(now, took)
		now = now.Add(rest)
		return rest
	}
	for i := range 10 {
		if rest := turn(20 * time.Millisecond); rest != 0 {
			t.Errorf("turn %d of a push waits %v", i, rest)
		}
	}
	const took = 5 * time.Millisecond
	for range 20 { // what is left of the burst
		turn(took)
	}
	begun, busy := now, time.Duration(0)
	for range 1000 {
		if rest := turn(took); rest > paceRest {
			t.Fatalf("a rest of %v", rest)
		}
		busy += took
	}
	if share := float64(busy) / float64(now.Sub(begun)); share < 0.02 || share > 0.03 {
		t.Errorf("turns took %.3f of the time", share)
	}
	now = now.Add(time.Hour)
	if rest := turn(20 * time.Millisecond); rest != 0 {
		t.Errorf("after an hour a turn waits %v", rest)
	}
	now = now.Add(-24 * time.Hour) // the clock is set back
	if rest := turn(time.Hour); rest != paceRest {
		t.Errorf("a turn of an hour is followed by a rest of %v", rest)
	}
}

// Whoever waits for the node does not wait for it to have rested.
func TestWhoAsksEndsARest(t *testing.T) {
	for name, wait := range map[string]func(context.Context, *loop){
		"sync": func(ctx context.Context, l *loop) { _, _ = l.a.Sync(ctx) },
		"verb": func(ctx context.Context, l *loop) { _, _ = l.a.Approve(ctx, "") },
		"push": func(_ context.Context, l *loop) { l.a.postLook(func(l *loop) { l.fetch.wanted = true }) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			src := &memSource{hints: make(chan struct{}, 1)}
			src.push("", nil)
			a := &Agent{token: make(chan struct{}, 1), asked: make(chan struct{}, 1), seek: make(chan struct{}, 1), running: true}
			a.cfg = Config{Source: src, Load: func(fs.FS, manifest.Revision) (manifest.Set, error) { return manifest.Set{}, nil }}
			l := &loop{a: a, cfg: a.cfg}
			begun := time.Now()
			go wait(ctx, l)
			if goesOn := l.rest(ctx, time.Hour); !goesOn || time.Since(begun) >= time.Hour {
				t.Errorf("it rested, goes on: %v", goesOn)
			}
		})
	}
}

// A push or a sync has the source looked at first, and what is here once, when that has ended.
func TestLooksAtTheSourceFirst(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		var expected atomic.Int32
		w.cfg.Expect = func(context.Context) { expected.Add(1) }
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		turns := func(what func()) int {
			before := w.agent.Counters().ReconcileSeconds.Count
			what()
			synctest.Wait()
			return int(w.agent.Counters().ReconcileSeconds.Count - before)
		}
		looks := w.src.looks()
		if n := turns(func() { w.src.hints <- struct{}{} }); n != 1 || w.src.looks() != looks+1 {
			t.Errorf("a hint of the source: %d turns, %d looks", n, w.src.looks()-looks)
		}
		if n := turns(func() { _, _ = w.agent.Sync(t.Context()) }); n != 1 {
			t.Errorf("a sync: %d turns", n)
		}
		if n := expected.Load(); n != 1 {
			t.Errorf("told of %d new commits", n)
		}
		w.push(containers("", "api", "web"))
		w.wantRunning("api", "web")
		if n := expected.Load(); n != 2 {
			t.Errorf("told of %d new commits", n)
		}
	})
}

// Failed steps are tried again at once for who asks for a sync, though the source cannot be read meanwhile.
func TestSyncTriesAgainWhileTheSourceHangs(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.rt.Fail(fake.OpStart, rtName("web"), 1, errors.New("not now"))
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		synctest.Wait()
		answer := make(chan struct{})
		w.src.stall(answer)
		defer close(answer)
		go func() { _, _ = w.agent.Sync(t.Context()) }()
		w.wantRunning("web")
	})
}

// Whoever asks for something is not put off by a pause, and what nobody waits for does not end one.
func TestAskingEndsARest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{token: make(chan struct{}, 1), asked: make(chan struct{}, 1), running: true}
		l := &loop{a: a}
		rested := func() time.Duration {
			begun := time.Now()
			if !l.rest(t.Context(), time.Hour) {
				t.Error("it is told to stop")
			}
			return time.Since(begun)
		}
		a.post(func(*loop) {})
		if d := rested(); d != time.Hour {
			t.Errorf("a hint ends a rest of an hour after %v", d)
		}
		go func() {
			time.Sleep(time.Second)
			_ = a.ask(t.Context(), func(*loop) error { return nil })
		}()
		if d := rested(); d != time.Second {
			t.Errorf("who asks after a second waits for %v", d)
		}
		for _, fn := range a.drain() {
			fn(l)
		}
		for _, answer := range l.answers {
			answer.to <- answer.err
		}
	})
}

// A pause is for gathering: it ends with the last of the steps in flight, and with no other.
func TestLastStepEndsARest(t *testing.T) {
	a, err := New(newWorld(t, t.TempDir()).cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := newLoop(a, journal.State{}, nil)
	var steps []plan.Step
	for _, name := range []string{"db", "web"} {
		steps = append(steps, plan.Step{Op: plan.OpRemove, Name: manifest.Name{Namespace: "default", Name: name}})
	}
	begun := l.begin(t.Context(), plan.Plan{Steps: steps}, &manifest.Set{})
	for i, f := range begun {
		close(f.gate)
		f.run()
		if hurried := len(a.asked) == 1; hurried != (i == len(begun)-1) {
			t.Errorf("after step %d of %d the pause is ended: %v", i+1, len(begun), hurried)
		}
	}
}
