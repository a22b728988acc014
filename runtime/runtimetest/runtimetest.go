package runtimetest

import (
	"context"
	"testing"
	"time"

	"reconciler/runtime"
)

// Env is an empty Runtime and what the suite needs to drive it.
type Env struct {
	Runtime runtime.Runtime
	// Forever makes a spec whose process runs until it is stopped, and ends at once on its stop signal when it is ready.
	Forever func(name runtime.Name) runtime.Spec
	// Exits makes a spec whose process ends by itself with code.
	Exits func(name runtime.Name, code int) runtime.Spec
	// Prints makes a spec whose process prints lines to its standard output and ends with code 0. The commands of Exits and
	// Prints can also be run in a container of Forever.
	Prints func(name runtime.Name, lines ...string) runtime.Spec
	// Stubborn makes a spec whose process ignores its stop signal when it is ready.
	Stubborn func(name runtime.Name) runtime.Spec
	// Ready waits until the process of Forever or Stubborn does with its stop signal what it is meant to: Start returns
	// before a program had the time to say what it does with signals, and the kernel drops those that process 1 has
	// not asked for. Nil: it is ready when Start returns.
	Ready func(t *testing.T, id runtime.ID)
	// Kill sends SIGKILL to process 1 of a running container from outside of the Runtime.
	Kill func(t *testing.T, s runtime.Status)
	// Output returns what the last start of a container has printed so far. Nil: output is not looked at.
	Output func(t *testing.T, id runtime.ID) string
	// Impossible are specs that Prepare must refuse for good, by what is wrong with them.
	Impossible map[string]runtime.Spec
}

// patience is how long the suite waits for anything before it fails. The machine may be an emulated one.
const patience = time.Minute

// Run runs the suite: one subtest for each rule, each on a Runtime of its own that open makes (and takes away again
// with t.Cleanup). Every container that a subtest made is removed at its end.
func Run(t *testing.T, open func(t *testing.T) Env) {
	t.Helper()
	rules := []struct {
		name string
		test func(*suite)
	}{
		{"prepare makes nothing visible and can be repeated", (*suite).prepare},
		{"prepare refuses for good what cannot work", (*suite).prepareRefuses},
		{"create does not start", (*suite).create},
		{"a spec comes back as it was given", (*suite).specComesBack},
		{"start runs the process", (*suite).start},
		{"start on running does nothing", (*suite).startRunning},
		{"an exit is recorded and the container starts again", (*suite).exitAndStartAgain},
		{"a container killed from outside exits with 137", (*suite).killed},
		{"stop asks, and can be repeated", (*suite).stop},
		{"stop after an exit is not the cause of it", (*suite).stopAfterExit},
		{"stop without grace kills at once", (*suite).stopAtOnce},
		{"stop kills after grace", (*suite).stopStubborn},
		{"stop and remove of what is not there do nothing", (*suite).absent},
		{"methods on what is not there say so", (*suite).notFound},
		{"remove kills, takes away and can be repeated", (*suite).remove},
		{"update keeps the process", (*suite).update},
		{"update of what does not run is recorded", (*suite).updateStopped},
		{"update swaps files and keeps the process", (*suite).updateFiles},
		{"list is sorted by name, then by creation", (*suite).listOrder},
		{"containers of one name run side by side", (*suite).sameName},
		{"an identity is never used twice", (*suite).identities},
		{"watch hints and closes", (*suite).watch},
		{"an ended context stops a call", (*suite).contexts},
		{"calls for many containers at once", (*suite).manyAtOnce},
		{"calls for one container at once", (*suite).oneAtOnce},
		{"init containers come before each start", (*suite).inits},
		{"a start fails with its init container", (*suite).initFails},
		{"a container that shares a network does not start alone", (*suite).sharesAlone},
		{"a network is shared with one start", (*suite).sharesOneStart},
		{"output is that of the last start", (*suite).output},
		{"a container serves its name", (*suite).servesAlone},
		{"beside one that serves another does when it is told to", (*suite).servesBeside},
		{"after one that has ended the next one serves", (*suite).servesAfter},
		{"nobody serves who gave it up, and nobody inherits it", (*suite).servesNobody},
		{"drain returns where there is nothing to wait for", (*suite).drain},
		{"exec returns code and output of a command", (*suite).exec},
		{"a signal reaches what runs", (*suite).signal},
		{"dial says what it could not reach", (*suite).dial},
		{"stats measures what runs", (*suite).stats},
		{"repair leaves alone what is right", (*suite).repair},
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			t.Cleanup(cancel)
			s := &suite{T: t, Env: open(t), ctx: func() context.Context { return ctx }}
			s.hints = s.watching()
			t.Cleanup(s.removeAll)
			r.test(s)
		})
	}
}

// suite is one subtest.
type suite struct {
	*testing.T
	Env
	ctx   func() context.Context
	hints <-chan runtime.Event
}

// name is a container name of the default namespace.
func name(n string) runtime.Name { return runtime.Name{Namespace: "default", Name: n} }

func (s *suite) watching() <-chan runtime.Event {
	s.Helper()
	hints, err := s.Runtime.Watch(s.ctx())
	if err != nil {
		s.Fatalf("watch: %v", err)
	}
	return hints
}

func (s *suite) removeAll() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.Context()), patience)
	defer cancel()
	list, err := s.Runtime.List(ctx)
	if err != nil {
		s.Errorf("list at the end: %v", err)
	}
	for _, c := range list {
		if err := s.Runtime.Remove(ctx, c.ID); err != nil {
			s.Errorf("remove %s at the end: %v", c.ID, err)
		}
	}
}

func (s *suite) list() []runtime.Status {
	s.Helper()
	list, err := s.Runtime.List(s.ctx())
	if err != nil {
		s.Fatalf("list: %v", err)
	}
	return list
}

// status returns the container with id.
func (s *suite) status(id runtime.ID) runtime.Status {
	s.Helper()
	for _, c := range s.list() {
		if c.ID == id {
			return c
		}
	}
	s.Fatalf("container %s is not in the list", id)
	return runtime.Status{}
}

// created makes a container from spec.
func (s *suite) created(spec runtime.Spec) runtime.ID {
	s.Helper()
	if _, err := s.Runtime.Prepare(s.ctx(), spec, runtime.Inputs{}); err != nil {
		s.Fatalf("prepare: %v", err)
	}
	id, err := s.Runtime.Create(s.ctx(), spec)
	if err != nil {
		s.Fatalf("create: %v", err)
	}
	return id
}

// started makes and starts a container from spec.
func (s *suite) started(spec runtime.Spec) runtime.ID {
	s.Helper()
	id := s.created(spec)
	s.must("start", s.Runtime.Start(s.ctx(), id))
	return id
}

// ready makes and starts a container from a spec of Forever or Stubborn that is to be stopped with a signal.
func (s *suite) ready(spec runtime.Spec) runtime.ID {
	s.Helper()
	id := s.started(spec)
	s.awaitReady(id)
	return id
}

func (s *suite) awaitReady(id runtime.ID) {
	s.Helper()
	if s.Ready != nil {
		s.Ready(s.T, id)
	}
}

func (s *suite) must(what string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// untilExited waits until the container with id has exited, by looking again at each hint.
func (s *suite) untilExited(id runtime.ID) runtime.Status {
	s.Helper()
	for {
		c := s.status(id)
		if c.State == runtime.StateExited {
			return c
		}
		select {
		case _, ok := <-s.hints:
			if !ok {
				s.Fatalf("container %s is %s: no hint that it exited within %v", id, c.State, patience)
			}
		case <-s.ctx().Done():
			s.Fatalf("container %s is %s: no hint that it exited within %v", id, c.State, patience)
		}
	}
}

// exitCode fails unless c exited with code.
func (s *suite) exitCode(c runtime.Status, code int) {
	s.Helper()
	if c.State != runtime.StateExited || c.ExitCode == nil || *c.ExitCode != code {
		s.Fatalf("container is %s with exit code %s, want Exited with %d (%s %s)", c.State, show(c.ExitCode), code, c.Reason, c.Message)
	}
}
