package runtimetest

import (
	"errors"
	"slices"

	"reconciler/runtime"
)

// serving fails unless exactly these containers serve.
func (s *suite) serving(when string, want ...runtime.ID) {
	s.Helper()
	var got []runtime.ID
	for _, c := range s.list() {
		if c.Serving {
			got = append(got, c.ID)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Errorf("%s: %v serve, want %v", when, got, want)
	}
}

func (s *suite) servesAlone() {
	web := s.created(s.Forever(name("web")))
	s.serving("created", web)
	s.must("start", s.Runtime.Start(s.ctx(), web))
	s.serving("started", web)
	db := s.created(s.Forever(name("db")))
	s.serving("another name", web, db)
	s.must("stop", s.Runtime.Stop(s.ctx(), web, 0))
	s.serving("stopped", web, db)
}

func (s *suite) servesBeside() {
	old := s.started(s.Forever(name("web")))
	next := s.created(s.Forever(name("web")))
	s.serving("created beside one that runs", old)
	s.must("start", s.Runtime.Start(s.ctx(), next))
	s.serving("started beside it", old)
	s.must("stop", s.Runtime.Stop(s.ctx(), next, 0))
	s.must("start again", s.Runtime.Start(s.ctx(), next))
	s.serving("started again", old)
	s.must("serve", s.Runtime.Serve(s.ctx(), next, true))
	s.serving("switched", next)
	s.must("serve again", s.Runtime.Serve(s.ctx(), next, true))
	s.must("stop the old one", s.Runtime.Stop(s.ctx(), old, 0))
	s.must("start the old one", s.Runtime.Start(s.ctx(), old))
	s.serving("the old one started again", next)
	s.must("back", s.Runtime.Serve(s.ctx(), old, true))
	s.serving("switched back", old)
	if c := s.status(old); c.State != runtime.StateRunning || c.Starts != 2 {
		s.Errorf("serving made it %s with %d starts", c.State, c.Starts)
	}
}

func (s *suite) servesAfter() {
	old := s.started(s.Exits(name("web"), 0))
	s.untilExited(old)
	next := s.created(s.Forever(name("web")))
	s.serving("created after one that has ended", next)
	s.must("start the old one", s.Runtime.Start(s.ctx(), old))
	s.serving("the old one started again", next)
	s.must("serve", s.Runtime.Serve(s.ctx(), old, true))
	s.serving("one that need not run", old)
}

func (s *suite) servesNobody() {
	old := s.started(s.Forever(name("web")))
	next := s.started(s.Forever(name("web")))
	s.must("serve", s.Runtime.Serve(s.ctx(), next, true))
	s.must("not serve", s.Runtime.Serve(s.ctx(), next, false))
	s.serving("given up")
	s.must("not serve again", s.Runtime.Serve(s.ctx(), next, false))
	s.must("the other neither", s.Runtime.Serve(s.ctx(), old, false))
	s.serving("given up by both")
	s.must("start again", errors.Join(s.Runtime.Stop(s.ctx(), old, 0), s.Runtime.Start(s.ctx(), old)))
	s.serving("started again")
	third := s.created(s.Forever(name("web")))
	s.serving("created where nobody serves", third)
	s.must("remove", s.Runtime.Remove(s.ctx(), third))
	s.serving("removed") // nobody inherits it
	s.must("serve", s.Runtime.Serve(s.ctx(), next, true))
	s.must("remove", s.Runtime.Remove(s.ctx(), old))
	s.serving("the other one removed", next)
}

func (s *suite) drain() {
	id := s.created(s.Forever(name("web")))
	s.must("drain what was never started", s.Runtime.Drain(s.ctx(), id))
	s.must("start", s.Runtime.Start(s.ctx(), id))
	s.must("drain without connections", s.Runtime.Drain(s.ctx(), id))
	s.must("stop", s.Runtime.Stop(s.ctx(), id, 0))
	s.must("drain what has ended", s.Runtime.Drain(s.ctx(), id))
}
