package runtimetest

import (
	"context"
	"errors"
	"slices"

	"reconciler/runtime"
)

func (s *suite) exec() {
	id := s.created(s.Forever(name("web")))
	command := s.Prints(name("web"), "one", "two").Command
	_, err := s.Runtime.Exec(s.ctx(), id, command)
	s.wraps("exec before the start", err, runtime.ErrNotRunning)
	s.must("start", s.Runtime.Start(s.ctx(), id))
	got, err := s.Runtime.Exec(s.ctx(), id, command)
	s.must("exec", err)
	if got.Code != 0 || string(got.Output) != "one\ntwo\n" {
		s.Errorf("code %d, output %q", got.Code, got.Output)
	}
	got, err = s.Runtime.Exec(s.ctx(), id, s.Exits(name("web"), 3).Command)
	s.must("exec of what fails", err)
	if got.Code != 3 || len(got.Output) != 0 {
		s.Errorf("code %d, output %q; want 3 and none", got.Code, got.Output)
	}
	s.must("stop", s.Runtime.Stop(s.ctx(), id, 0))
	_, err = s.Runtime.Exec(s.ctx(), id, command)
	s.wraps("exec after the end", err, runtime.ErrNotRunning)
}

func (s *suite) signal() {
	id := s.created(s.Forever(name("web")))
	s.wraps("signal before the start", s.Runtime.Signal(s.ctx(), id, "SIGHUP"), runtime.ErrNotRunning)
	s.must("start", s.Runtime.Start(s.ctx(), id))
	s.must("signal", s.Runtime.Signal(s.ctx(), id, "SIGKILL"))
	c := s.untilExited(id)
	s.exitCode(c, sigkilled)
	if c.Stopped {
		s.Error("a signal is no stop")
	}
	s.wraps("signal after the end", s.Runtime.Signal(s.ctx(), id, "SIGHUP"), runtime.ErrNotRunning)
}

func (s *suite) dial() {
	id := s.created(s.Forever(name("web")))
	_, err := s.Runtime.Dial(s.ctx(), id, "tcp", "127.0.0.1:1")
	s.wraps("dial before the start", err, runtime.ErrNotRunning)
	s.must("start", s.Runtime.Start(s.ctx(), id))
	_, err = s.Runtime.Dial(s.ctx(), id, "tcp", "127.0.0.1:1")
	if err == nil {
		s.Fatal("nobody listens there")
	}
	s.isError("dial", err)
	if errors.Is(err, runtime.ErrNotRunning) {
		s.Errorf("dial where nobody listens: %v", err)
	}
}

func (s *suite) stats() {
	b1 := s.started(s.Forever(name("b")))
	s.created(s.Forever(name("c")))
	a := s.started(s.Forever(name("a")))
	b2 := s.started(s.Forever(name("b")))
	s.untilExited(s.started(s.Exits(name("d"), 0)))
	all, err := s.Runtime.Stats(s.ctx())
	s.must("stats", err)
	var got []runtime.ID
	for _, m := range all {
		got = append(got, m.ID)
		if m.Time.IsZero() || m.Name == (runtime.Name{}) {
			s.Errorf("measured %+v", m)
		}
	}
	if want := []runtime.ID{a, b1, b2}; !slices.Equal(got, want) {
		s.Errorf("measured %v, want those that run, as in the list: %v", got, want)
	}
}

// wraps fails unless err is of the contract's type and wraps target.
func (s *suite) wraps(what string, err, target error) {
	s.Helper()
	if err == nil {
		s.Errorf("%s worked, want %v", what, target)
		return
	}
	s.isError(what, err)
	if !errors.Is(err, target) {
		s.Errorf("%s: %v, want %v", what, err, target)
	}
}

// besides are the calls that need a container which is there.
func (s *suite) besides(ctx context.Context, id runtime.ID) map[string]error {
	_, execErr := s.Runtime.Exec(ctx, id, []string{"true"})
	_, dialErr := s.Runtime.Dial(ctx, id, "tcp", "127.0.0.1:1")
	return map[string]error{
		"serve": s.Runtime.Serve(ctx, id, true), "drain": s.Runtime.Drain(ctx, id), "exec": execErr, "dial": dialErr,
		"signal": s.Runtime.Signal(ctx, id, "SIGHUP"),
	}
}

func (s *suite) repair() {
	running, idle := s.started(s.Forever(name("web"))), s.created(s.Forever(name("idle")))
	got, err := s.Runtime.Repair(s.ctx())
	s.must("repair", err)
	if len(got) > 0 {
		s.Errorf("repaired %+v, and nothing was broken", got)
	}
	if a, b := s.status(running).State, s.status(idle).State; a != runtime.StateRunning || b != runtime.StateCreated {
		s.Errorf("states %s and %s", a, b)
	}
}
