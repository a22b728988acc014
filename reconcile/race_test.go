package reconcile

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// Who gives up waiting for an answer reads nothing that the deciding goroutine writes. The race detector says so.
func TestAnswerThatNobodyWaitsForAnyMore(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		commit := w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		asks := map[string]func(ctx context.Context) (bool, error){
			"plan": func(ctx context.Context) (bool, error) {
				p, err := w.agent.Plan(ctx)
				return p.ID == "", err
			},
			"approve": func(ctx context.Context) (bool, error) {
				full, err := w.agent.Approve(ctx, commit)
				return full == "", err
			},
		}
		for name, ask := range asks {
			resume := w.rt.Pause(fake.OpList, runtime.Name{})
			w.agent.poke()
			synctest.Wait() // the loop is inside List now
			ctx, cancel := context.WithCancel(t.Context())
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				if empty, err := ask(ctx); empty == (err == nil) || err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("%s: empty %v, %v", name, empty, err)
				}
			}()
			synctest.Wait()
			resume() // the loop answers and ask gives up at the same time
			cancel()
			<-answered
			synctest.Wait()
		}
	})
}

// heedless is a runtime that prepares, stops and removes also for somebody who was told to end.
type heedless struct{ *fake.Runtime }

func (h heedless) Prepare(ctx context.Context, spec runtime.Spec, in runtime.Inputs) (runtime.Prepared, error) {
	return h.Runtime.Prepare(context.WithoutCancel(ctx), spec, in)
}

func (h heedless) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error {
	return h.Runtime.Stop(context.WithoutCancel(ctx), id, grace)
}

func (h heedless) Remove(ctx context.Context, id runtime.ID) error {
	return h.Runtime.Remove(context.WithoutCancel(ctx), id)
}

// A step whose dependency failed is told to end in the same turn in which nothing is left that it would wait for.
func TestStepToldToEndTouchesNothing(t *testing.T) {
	for range 10 { // it was a matter of luck
		run(t, func(t *testing.T, w *world) {
			w.cfg.Runtime = heedless{w.rt}
			forGood := "  strategy: {rollback: false}\n"
			w.push(merge(containers(forGood, "db"), containers("  dependsOn: [db]\n", "web")))
			w.start()
			defer w.stop()
			w.wantRunning("db", "web")
			web := w.idOf("web")
			release := w.rt.Pause(fake.OpPrepare, rtName("web"))
			w.rt.Fail(fake.OpCreate, rtName("db"), 1, errors.New("no space left on device"))
			w.push(merge(containers(forGood+"  env: {A: b}\n", "db"), containers("  dependsOn: [db]\n  env: {A: b}\n", "web")))
			w.wantRunning("web")
			release()
			if now := w.idOf("web"); now != web {
				t.Fatal("web was replaced though db, which it depends on, does not run")
			}
			after(12 * time.Second)
			w.wantRunning("db", "web")
		})
	}
}

// A place that is given to somebody who was told to end goes to the next one.
func TestLimiterGivesNoPlaceToWhoWasToldToEnd(t *testing.T) {
	var l limiter
	l.setLimit(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if err := l.acquire(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("acquire: %v", err)
		}
	}
	if err := l.acquire(t.Context()); err != nil || l.inUse != 1 {
		t.Errorf("%v, %d in use", err, l.inUse)
	}
}

// Whoever follows has each record once: from the journal, or as it happens.
func TestFollowedOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		w.wantRunning("web")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		const rounds = 50
		turned := make(chan error)
		go func() {
			var err error
			for range rounds {
				err = errors.Join(err, w.agent.Suspend(ctx), w.agent.Resume(ctx))
			}
			turned <- err
		}()
		for range 20 {
			records, live, err := w.agent.Follow(ctx)
			if err != nil {
				t.Error(err)
			}
			verbs := 0
			for _, e := range report.EventsOf(records, nil) {
				if e.Reason == "Suspended" || e.Reason == "Resumed" {
					verbs++
				}
			}
			defer func() {
				for range live {
					verbs++
				}
				if verbs != 2*rounds {
					t.Errorf("%d of %d", verbs, 2*rounds)
				}
			}()
		}
		if err := <-turned; err != nil {
			t.Error(err)
		}
		w.stop() // ends what is followed
	})
}
