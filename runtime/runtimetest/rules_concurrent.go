package runtimetest

import (
	"errors"
	"fmt"
	"sync"

	"reconciler/runtime"
)

// many is how many callers the rules about concurrency have.
const many = 6

// each calls f from many goroutines and returns their errors.
func each(f func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, many)
	for i := range many {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *suite) manyAtOnce() {
	ids := make([]runtime.ID, many)
	s.must("make and start", each(func(i int) error {
		spec := s.Forever(name(fmt.Sprintf("c%d", i)))
		if _, err := s.Runtime.Prepare(s.ctx(), spec, runtime.Inputs{}); err != nil {
			return err
		}
		id, err := s.Runtime.Create(s.ctx(), spec)
		if err != nil {
			return err
		}
		ids[i] = id
		return s.Runtime.Start(s.ctx(), id)
	}))
	pids := map[int]bool{}
	for _, c := range s.list() {
		if c.State != runtime.StateRunning {
			s.Errorf("%s is %s", c.Spec.Name, c.State)
		}
		pids[c.Pid] = true
	}
	if len(pids) != many {
		s.Errorf("%d different pids, want %d", len(pids), many)
	}
	for _, id := range ids {
		s.awaitReady(id)
	}
	s.must("stop and remove", each(func(i int) error {
		return errors.Join(s.Runtime.Stop(s.ctx(), ids[i], longGrace), s.Runtime.Remove(s.ctx(), ids[i]))
	}))
	if list := s.list(); len(list) != 0 {
		s.Errorf("%d containers are left", len(list))
	}
}

func (s *suite) oneAtOnce() {
	id := s.created(s.Forever(name("web")))
	s.must("start", each(func(int) error { return s.Runtime.Start(s.ctx(), id) }))
	if c := s.status(id); c.Starts != 1 || c.State != runtime.StateRunning {
		s.Errorf("%d calls of start at once: %s with %d starts", many, c.State, c.Starts)
	}
	s.awaitReady(id)
	s.must("stop", each(func(int) error { return s.Runtime.Stop(s.ctx(), id, longGrace) }))
	if c := s.status(id); c.State != runtime.StateExited || !c.Stopped {
		s.Errorf("%d calls of stop at once: %s, stopped %v", many, c.State, c.Stopped)
	}
	s.must("remove", each(func(int) error { return s.Runtime.Remove(s.ctx(), id) }))
	if list := s.list(); len(list) != 0 {
		s.Errorf("%d containers are left", len(list))
	}
}
