package runtimetest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"reconciler/runtime"
)

// Exit codes of processes that a signal ended.
const (
	sigkilled = 128 + 9
	longGrace = patience / 2 // longer than anything that obeys takes
)

func (s *suite) exitAndStartAgain() {
	id := s.started(s.Exits(name("task"), 3))
	c := s.untilExited(id)
	s.exitCode(c, 3)
	if c.Pid != 0 || c.Starts != 1 || c.Stopped || c.OOMKilled || c.FinishedAt.IsZero() || c.FinishedAt.Before(c.StartedAt) || c.Ran < 0 {
		s.Errorf("exited container: pid %d, %d starts, stopped %v, OOM %v, from %v to %v, ran %v",
			c.Pid, c.Starts, c.Stopped, c.OOMKilled, c.StartedAt, c.FinishedAt, c.Ran)
	}
	s.must("start again", s.Runtime.Start(s.ctx(), id))
	if c = s.untilExited(id); c.Starts != 2 {
		s.Errorf("%d starts, want 2", c.Starts)
	}
	s.exitCode(c, 3)
}

func (s *suite) killed() {
	id := s.started(s.Forever(name("web")))
	s.Kill(s.T, s.status(id))
	c := s.untilExited(id)
	s.exitCode(c, sigkilled)
	if c.Stopped || c.OOMKilled {
		s.Errorf("killed from outside: stopped %v, OOM %v", c.Stopped, c.OOMKilled)
	}
}

func (s *suite) stop() {
	id := s.ready(s.Forever(name("web")))
	s.must("stop", s.Runtime.Stop(s.ctx(), id, longGrace))
	c := s.status(id) // Stop returns when it has exited: no waiting here
	if c.State != runtime.StateExited || !c.Stopped || c.Pid != 0 || c.ExitCode == nil {
		s.Fatalf("after stop: %s, stopped %v, pid %d, exit code %s", c.State, c.Stopped, c.Pid, show(c.ExitCode))
	}
	if *c.ExitCode == sigkilled {
		s.Error("stop killed a process that obeys its stop signal")
	}
	s.must("stop again", s.Runtime.Stop(s.ctx(), id, longGrace))
	s.must("start after stop", s.Runtime.Start(s.ctx(), id))
	if c = s.status(id); c.State != runtime.StateRunning || c.Stopped || c.ExitCode != nil || c.Starts != 2 || !c.FinishedAt.IsZero() {
		s.Errorf("started after stop: %s, stopped %v, exit code %s, %d starts, finished at %v", c.State, c.Stopped, show(c.ExitCode), c.Starts, c.FinishedAt)
	}
}

func (s *suite) stopAfterExit() {
	id := s.started(s.Exits(name("task"), 5))
	s.untilExited(id)
	s.must("stop", s.Runtime.Stop(s.ctx(), id, longGrace))
	c := s.status(id)
	s.exitCode(c, 5)
	if c.Stopped {
		s.Error("the exit came before the stop, and is said to come from it")
	}
	fresh := s.created(s.Forever(name("web")))
	s.must("stop of what was never started", s.Runtime.Stop(s.ctx(), fresh, longGrace))
	if c := s.status(fresh); c.State != runtime.StateCreated {
		s.Errorf("stop made a created container %s", c.State)
	}
}

func (s *suite) stopAtOnce() {
	id := s.started(s.Stubborn(name("web")))
	s.must("stop", s.Runtime.Stop(s.ctx(), id, 0))
	c := s.status(id)
	s.exitCode(c, sigkilled)
	if !c.Stopped {
		s.Error("not stopped")
	}
}

func (s *suite) stopStubborn() {
	const grace = 300 * time.Millisecond
	id := s.ready(s.Stubborn(name("web")))
	begun := time.Now()
	s.must("stop", s.Runtime.Stop(s.ctx(), id, grace))
	if took := time.Since(begun); took < grace {
		s.Errorf("killed after %v of a grace period of %v", took, grace)
	}
	s.exitCode(s.status(id), sigkilled)
}

func (s *suite) absent() {
	s.must("stop", s.Runtime.Stop(s.ctx(), "no-such-container", time.Second))
	s.must("remove", s.Runtime.Remove(s.ctx(), "no-such-container"))
}

func (s *suite) notFound() {
	calls := s.besides(s.ctx(), "no-such-container")
	calls["start"] = s.Runtime.Start(s.ctx(), "no-such-container")
	calls["update"] = s.Runtime.Update(s.ctx(), "no-such-container", s.Forever(name("web")))
	for what, err := range calls {
		s.isError(what, err)
		if !errors.Is(err, runtime.ErrNotFound) {
			s.Errorf("%s: %v, want ErrNotFound", what, err)
		}
	}
}

func (s *suite) remove() {
	running := s.started(s.Stubborn(name("running")))
	fresh := s.created(s.Forever(name("created")))
	ended := s.started(s.Exits(name("ended"), 0))
	s.untilExited(ended)
	for _, id := range []runtime.ID{running, fresh, ended} {
		s.must("remove", s.Runtime.Remove(s.ctx(), id))
		s.must("remove again", s.Runtime.Remove(s.ctx(), id))
		if err := s.Runtime.Start(s.ctx(), id); !errors.Is(err, runtime.ErrNotFound) {
			s.Errorf("start after removal: %v, want ErrNotFound", err)
		}
	}
	if list := s.list(); len(list) != 0 {
		s.Errorf("%d containers are left", len(list))
	}
}

func (s *suite) watch() {
	ctx, cancel := context.WithCancel(s.ctx())
	defer cancel()
	hints, err := s.Runtime.Watch(ctx)
	s.must("watch", err)
	id := s.started(s.Forever(name("web")))
	s.hint(hints, runtime.EventStarted, id)
	s.Kill(s.T, s.status(id))
	s.hint(hints, runtime.EventExited, id)
	s.must("remove", s.Runtime.Remove(s.ctx(), id))
	s.hint(hints, runtime.EventRemoved, id)
	cancel()
	for {
		select {
		case _, ok := <-hints:
			if !ok {
				return
			}
		case <-s.ctx().Done():
			s.Fatal("the channel is not closed after its context ended")
		}
	}
}

// hint waits for a hint of a type about id, or that hints were lost.
func (s *suite) hint(hints <-chan runtime.Event, want runtime.EventType, id runtime.ID) {
	s.Helper()
	for {
		select {
		case e, ok := <-hints:
			if !ok {
				s.Fatalf("channel closed before %s of %s", want, id)
			}
			if e.Type == runtime.EventLost || e.Type == want && e.ID == id {
				return
			}
		case <-s.ctx().Done():
			s.Fatalf("no hint %s of %s within %v", want, id, patience)
		}
	}
}

func (s *suite) contexts() {
	id := s.started(s.Forever(name("web")))
	ended, cancel := context.WithCancel(s.ctx())
	cancel()
	spec := s.Forever(name("other"))
	_, prepareErr := s.Runtime.Prepare(ended, spec, runtime.Inputs{})
	_, createErr := s.Runtime.Create(ended, spec)
	_, listErr := s.Runtime.List(ended)
	_, statsErr := s.Runtime.Stats(ended)
	calls := s.besides(ended, id)
	maps.Copy(calls, map[string]error{
		"prepare": prepareErr,
		"create":  createErr,
		"list":    listErr,
		"stats":   statsErr,
		"start":   s.Runtime.Start(ended, id),
		"update":  s.Runtime.Update(ended, id, spec),
		"stop":    s.Runtime.Stop(ended, id, longGrace),
		"remove":  s.Runtime.Remove(ended, id),
	})
	for what, err := range calls {
		s.isError(what, err)
		if !errors.Is(err, context.Canceled) {
			s.Errorf("%s with an ended context: %v", what, err)
		}
	}
	if list := s.list(); len(list) != 1 || list[0].State != runtime.StateRunning {
		s.Errorf("calls with an ended context left %d containers", len(list))
	}
	s.stopCancelled(s.ready(s.Stubborn(name("stubborn"))))
}

// stopCancelled ends the context of a Stop that waits.
func (s *suite) stopCancelled(id runtime.ID) {
	ctx, cancel := context.WithTimeout(s.ctx(), 100*time.Millisecond)
	defer cancel()
	err := s.Runtime.Stop(ctx, id, longGrace)
	s.isError("stop that was given up", err)
	if !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("stop that was given up: %v", err)
	}
	s.must("stop after one that was given up", s.Runtime.Stop(s.ctx(), id, 0))
	s.exitCode(s.status(id), sigkilled)
}

func (s *suite) output() {
	if s.Output == nil {
		s.Skip("this runtime's output is not looked at here")
	}
	id := s.started(s.Prints(name("hello"), "one", "two"))
	s.untilExited(id)
	if got := strings.TrimSpace(s.Output(s.T, id)); got != "one\ntwo" {
		s.Errorf("output is %q, want one and two", got)
	}
}
