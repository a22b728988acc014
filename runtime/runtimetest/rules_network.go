package runtimetest

import (
	"reconciler/runtime"
)

// sharer is a spec that shares the network of the container called other.
func (s *suite) sharer(n, other string) runtime.Spec {
	spec := s.Forever(name(n))
	spec.Network = runtime.NetworkContainerPrefix + runtime.Network(other)
	return spec
}

func (s *suite) sharesAlone() {
	id := s.created(s.sharer("sidecar", "web"))
	err := s.Runtime.Start(s.ctx(), id)
	if err == nil {
		s.Fatal("it started, and there is no container whose network it could share")
	}
	s.isError("start alone", err)
	if runtime.IsPermanent(err) || runtime.ReasonOf(err) != runtime.ReasonDependencyNotReady {
		s.Errorf("%v: reason %s, permanent %v; want %s, which passes", err, runtime.ReasonOf(err), runtime.IsPermanent(err), runtime.ReasonDependencyNotReady)
	}
	web := s.started(s.Forever(name("web")))
	s.must("start beside it", s.Runtime.Start(s.ctx(), id))
	s.shares(id, web, 1)
}

func (s *suite) sharesOneStart() {
	web := s.ready(s.Forever(name("web")))
	id := s.ready(s.sharer("sidecar", "web"))
	s.shares(id, web, 1)
	s.must("stop", s.Runtime.Stop(s.ctx(), web, patience))
	s.must("start again", s.Runtime.Start(s.ctx(), web))
	s.shares(id, web, 1) // that network ended with the start that it joined
	s.must("stop the other", s.Runtime.Stop(s.ctx(), id, patience))
	s.must("start the other again", s.Runtime.Start(s.ctx(), id))
	s.shares(id, web, 2)
}

// shares fails unless the container id says that it joined that start of other.
func (s *suite) shares(id, other runtime.ID, starts int) {
	s.Helper()
	c := s.status(id)
	if c.Shares == nil || *c.Shares != (runtime.StartOf{ID: other, Starts: starts}) {
		s.Errorf("shares %+v, want start %d of %s", c.Shares, starts, other)
	}
}
