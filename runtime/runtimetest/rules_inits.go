package runtimetest

import (
	"strings"

	"reconciler/runtime"
)

// asInit makes an init container of what runs as a container.
func asInit(name string, spec runtime.Spec) runtime.InitContainer {
	return runtime.InitContainer{Name: name, Image: spec.Image, Command: spec.Command, Args: spec.Args, Env: spec.Env}
}

func (s *suite) inits() {
	spec := s.Prints(name("web"), "main")
	spec.InitContainers = []runtime.InitContainer{
		asInit("one", s.Prints(name("web"), "one")), asInit("two", s.Exits(name("web"), 0)),
	}
	id := s.created(spec)
	for starts := 1; starts <= 2; starts++ {
		s.must("start", s.Runtime.Start(s.ctx(), id))
		c := s.untilExited(id)
		s.exitCode(c, 0)
		if c.Starts != starts || c.Reason != "" {
			s.Errorf("%d starts, want %d (%s %s)", c.Starts, starts, c.Reason, c.Message)
		}
		if s.Output != nil && strings.TrimSpace(s.Output(s.T, id)) != "main" {
			s.Errorf("output of the container is %q", s.Output(s.T, id))
		}
	}
	if list := s.list(); len(list) != 1 {
		s.Errorf("%d containers are listed, want the one that has init containers", len(list))
	}
}

func (s *suite) initFails() {
	spec := s.Forever(name("web"))
	spec.InitContainers = []runtime.InitContainer{asInit("good", s.Exits(name("web"), 0)), asInit("bad", s.Exits(name("web"), 3))}
	id := s.created(spec)
	err := s.Runtime.Start(s.ctx(), id)
	if err == nil {
		s.Fatal("it started")
	}
	s.isError("start", err)
	if runtime.ReasonOf(err) != runtime.ReasonInitFailed || !strings.Contains(err.Error(), "bad") || !strings.Contains(err.Error(), "code 3") {
		s.Errorf("start: %v (%s): want %s with the name and code 3", err, runtime.ReasonOf(err), runtime.ReasonInitFailed)
	}
	if c := s.status(id); c.State != runtime.StateCreated || c.Starts != 0 || c.Reason != runtime.ReasonInitFailed || c.Message == "" {
		s.Errorf("after the failed start it is %s with %d starts, %s: %s", c.State, c.Starts, c.Reason, c.Message)
	}
	spec.InitContainers = spec.InitContainers[:1]
	next := s.started(spec)
	if c := s.status(next); c.State != runtime.StateRunning || c.Reason != "" {
		s.Errorf("without the one that fails it is %s (%s %s)", c.State, c.Reason, c.Message)
	}
}
