package fake_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/fake"
	"reconciler/runtime/runtimetest"
)

func spec(n runtime.Name, command ...string) runtime.Spec {
	return runtime.Spec{Name: n, Hostname: n.Name, Image: &runtime.Image{Ref: "example.com/app:1"}, Command: command}
}

func TestConformance(t *testing.T) {
	runtimetest.Run(t, func(*testing.T) runtimetest.Env {
		r := fake.New(fake.Options{})
		return runtimetest.Env{
			Runtime: r,
			Forever: func(n runtime.Name) runtime.Spec { return spec(n, "run") },
			Exits:   func(n runtime.Name, code int) runtime.Spec { return spec(n, "exit", strconv.Itoa(code)) },
			Prints: func(n runtime.Name, lines ...string) runtime.Spec {
				return spec(n, append([]string{"print"}, lines...)...)
			},
			Stubborn: func(n runtime.Name) runtime.Spec { return spec(n, "stubborn") },
			Kill:     func(_ *testing.T, s runtime.Status) { r.Kill(s.ID) },
			Output:   func(_ *testing.T, id runtime.ID) string { return strings.Join(r.Output(id), "\n") },
			Impossible: map[string]runtime.Spec{
				"neither an image nor a capture": {Name: runtime.Name{Namespace: "default", Name: "web"}},
			},
		}
	})
}

var web = runtime.Name{Namespace: "default", Name: "web"}

func create(t *testing.T, r *fake.Runtime, s runtime.Spec) runtime.ID {
	t.Helper()
	if _, err := r.Prepare(t.Context(), s, runtime.Inputs{}); err != nil {
		t.Fatal(err)
	}
	id, err := r.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestFailuresAreCountedDown(t *testing.T) {
	r := fake.New(fake.Options{})
	pull := &runtime.Error{Op: "pull image x", Err: errors.New("401 Unauthorized"), Reason: runtime.ReasonErrImagePull}
	r.Fail(fake.OpPrepare, web, 2, pull)
	for range 2 {
		_, err := r.Prepare(t.Context(), spec(web), runtime.Inputs{})
		if runtime.ReasonOf(err) != runtime.ReasonErrImagePull || err.Error() != "pull image x: 401 Unauthorized" {
			t.Fatalf("prepare: %v", err)
		}
	}
	if _, err := r.Prepare(t.Context(), spec(runtime.Name{Namespace: "default", Name: "db"}), runtime.Inputs{}); err != nil {
		t.Fatalf("prepare of another: %v", err)
	}
	if _, err := r.Prepare(t.Context(), spec(web), runtime.Inputs{}); err != nil {
		t.Fatalf("third prepare: %v", err)
	}
}

func TestFailedStartIsInStatus(t *testing.T) {
	r := fake.New(fake.Options{})
	id := create(t, r, spec(web))
	r.Fail(fake.OpStart, web, -1, errors.New("no such command"))
	if err := r.Start(t.Context(), id); err == nil {
		t.Fatal("started")
	}
	list, _ := r.List(t.Context())
	if s := list[0]; s.State != runtime.StateCreated || s.Starts != 0 || s.Reason != runtime.ReasonStartFailed || !strings.Contains(s.Message, "no such command") {
		t.Fatalf("status %+v", s)
	}
	r.Heal(web)
	if err := r.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if list, _ = r.List(t.Context()); list[0].Reason != "" || list[0].Message != "" {
		t.Fatalf("status keeps the old failure: %+v", list[0])
	}
}

func TestFailedRemoveStaysRemoving(t *testing.T) {
	r := fake.New(fake.Options{})
	id := create(t, r, spec(web))
	r.Fail(fake.OpRemove, web, 1, errors.New("device or resource busy"))
	if err := r.Remove(t.Context(), id); err == nil {
		t.Fatal("removed")
	}
	list, _ := r.List(t.Context())
	if len(list) != 1 || list[0].State != runtime.StateRemoving {
		t.Fatalf("list %+v", list)
	}
	if err := r.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if list, _ = r.List(t.Context()); len(list) != 0 {
		t.Fatalf("list %+v", list)
	}
}

func TestCreateWantsPrepare(t *testing.T) {
	r := fake.New(fake.Options{})
	if _, err := r.Create(t.Context(), spec(web)); err == nil {
		t.Fatal("created without being prepared")
	}
}

func TestPauseHoldsUntilResumedOrCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fake.New(fake.Options{})
		resume := r.Pause(fake.OpPrepare, web)
		ctx, cancel := context.WithCancel(t.Context())
		given := make(chan error, 2)
		go func() { _, err := r.Prepare(ctx, spec(web), runtime.Inputs{}); given <- err }()
		synctest.Wait()
		cancel()
		if err := <-given; !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled prepare: %v", err)
		}
		go func() { _, err := r.Prepare(t.Context(), spec(web), runtime.Inputs{}); given <- err }()
		synctest.Wait()
		select {
		case err := <-given:
			t.Fatalf("paused prepare returned %v", err)
		default:
		}
		resume()
		if err := <-given; err != nil {
			t.Fatal(err)
		}
	})
}

func TestStubbornStopTakesItsGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fake.New(fake.Options{})
		id := create(t, r, spec(web, "stubborn"))
		if err := r.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := r.Stop(t.Context(), id, time.Minute); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != time.Minute {
			t.Fatalf("stop took %v", took)
		}
	})
}

func TestSlowWatcherIsToldThatItMissedSomething(t *testing.T) {
	r := fake.New(fake.Options{})
	hints, err := r.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	id := create(t, r, spec(web, "exit", "0"))
	for range 100 {
		if err := r.Start(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(hints) {
		<-hints
	}
	if err := r.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if e := <-hints; e.Type != runtime.EventLost {
		t.Fatalf("hint %+v, want lost", e)
	}
}

func TestReboot(t *testing.T) {
	r := fake.New(fake.Options{})
	id := create(t, r, spec(web))
	if err := r.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	r.Reboot()
	list, _ := r.List(t.Context())
	if s := list[0]; s.State != runtime.StateExited || s.ExitCode != nil || s.Reason != runtime.ReasonSupervisorLost {
		t.Fatalf("status %+v", s)
	}
}
