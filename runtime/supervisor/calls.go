package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

func opError(op string, id runtime.ID, err error) error {
	var re *runtime.Error
	if err == nil || errors.As(err, &re) {
		return err
	}
	return &runtime.Error{Op: op, ID: id, Err: err}
}

func (s *server) find(id runtime.ID) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.containers[id]
}

// checkID keeps an ID from naming anything but a directory of its own.
func checkID(id runtime.ID) error {
	if id == "" || len(id) > 128 || strings.HasPrefix(string(id), ".") ||
		strings.Trim(string(id), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" {
		return fmt.Errorf("%q is not usable as an ID", id)
	}
	return nil
}

// start starts a container, or a new run of one that has exited. It does not end with the call: a caller that dies
// finds the container in List. configure, where it is not nil, is called before process 1 executes the command.
func (s *server) start(ctx context.Context, req StartRequest, configure func(ctx context.Context, netns *os.File) error) (Started, error) {
	if err := checkID(req.ID); err != nil {
		return Started{}, startError(req, err)
	}
	c := newContainer(s, req)
	c.op.Lock()
	defer c.op.Unlock()
	for { // until c has the place of its ID
		s.mu.Lock()
		old := s.containers[req.ID]
		if old == nil {
			s.containers[req.ID] = c
		}
		s.mu.Unlock()
		if old == nil {
			break
		}
		old.op.Lock() // whoever starts or removes it is done now
		if s.find(req.ID) != old {
			old.op.Unlock()
			continue
		}
		if old.running() {
			defer old.op.Unlock()
			return old.started(), nil
		}
		failpoint.Here("launch: the ended one there") // apart: where a caller left the run before
		err := os.RemoveAll(old.dir)
		failpoint.Here("launch: the ended one gone") // apart: where a caller left the run before
		if err == nil {
			s.mu.Lock()
			s.containers[req.ID] = c
			s.mu.Unlock()
		}
		old.op.Unlock()
		if err != nil {
			return Started{}, startError(req, err)
		}
		break
	}
	s.starts <- struct{}{}
	defer func() { <-s.starts }()
	defer s.rest.Worked()
	if err := c.launch(ctx, configure); err != nil {
		s.forget(c)
		return Started{}, startError(req, err)
	}
	s.watching.Go(c.watch)
	st := c.started()
	s.publish(runtime.Event{Type: runtime.EventStarted, ID: c.id, Time: st.At})
	s.log.Info("container started", "container", c.id, "pid", st.Pid)
	return st, nil
}

func (s *server) forget(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
}

// get returns a container that is not being started any more.
func (s *server) get(op string, id runtime.ID) (*container, error) {
	c := s.settled(id)
	if c == nil {
		return nil, &runtime.Error{Op: op, ID: id, Err: runtime.ErrNotFound}
	}
	return c, nil
}

// settled waits until c is not being started any more and returns it, nil if that failed.
func (s *server) settled(id runtime.ID) *container {
	for {
		c := s.find(id)
		if c == nil {
			return nil
		}
		c.op.Lock()
		same := s.find(id) == c
		c.op.Unlock()
		if same {
			return c
		}
	}
}

// stop asks a container to end and answers when it has.
func (s *server) stop(ctx context.Context, conn *net.UnixConn, body json.RawMessage, release func()) {
	const op = "stop container"
	var b stopBody
	if err := json.Unmarshal(body, &b); err != nil {
		s.reply(conn, nil, fmt.Errorf("bad request: %w", err))
		return
	}
	c, err := s.get(op, b.ID)
	if err == nil {
		err = opError(op, b.ID, c.stop(b.Signal, b.Grace))
	}
	if err != nil {
		s.reply(conn, nil, err)
		return
	}
	w := &waiting{op: opStop, conn: conn, id: b.ID}
	s.await(w)
	release()
	s.answerStop(ctx, w, c)
}

// answerStop waits for the end of a container that was asked to end.
func (s *server) answerStop(ctx context.Context, w *waiting, c *container) {
	select {
	case <-c.exited:
	case <-ctx.Done():
	}
	s.records.RLock()
	defer s.records.RUnlock()
	if c.running() {
		s.reply(w.conn, nil, opError("stop container", w.id, ctx.Err()))
	} else {
		s.reply(w.conn, *c.exit, nil)
	}
	s.answered(w)
}

func (s *server) delete(ctx context.Context, b deleteBody) error {
	id := b.ID
	c := s.settled(id)
	if c == nil {
		if checkID(id) == nil {
			s.clear(ctx, id)
			failpoint.Here("delete: an unknown one cleared")
			err := os.RemoveAll(filepath.Join(s.dir, string(id)))
			failpoint.Here("delete: an unknown one gone")
			return err
		}
		return nil
	}
	if !b.Seen.IsZero() && c.state().StartedAt.After(b.Seen) {
		return opError("delete container", id, ErrStarted)
	}
	if err := c.remove(ctx); err != nil {
		return opError("delete container", id, err)
	}
	s.forget(c)
	return nil
}

func (s *server) list(b listBody) []State {
	s.mu.Lock()
	all := make([]*container, 0, len(s.containers))
	if b.ID == "" {
		all = slices.AppendSeq(all, maps.Values(s.containers))
	} else if c := s.containers[b.ID]; c != nil {
		all = append(all, c)
	}
	s.mu.Unlock()
	states := make([]State, 0, len(all))
	for _, c := range all {
		if st := c.state(); !st.StartedAt.IsZero() { // else it is being started
			states = append(states, st)
		}
	}
	slices.SortFunc(states, func(a, b State) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return states
}

// shutdown prepares the end: with kill no container is left.
func (s *server) shutdown(ctx context.Context, kill bool) error {
	if !kill {
		return nil
	}
	s.mu.Lock()
	var ids []runtime.ID
	for id := range s.containers {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { errs[i] = s.delete(ctx, deleteBody{ID: id}) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// watch sends events until the caller goes.
func (s *server) watch(ctx context.Context, conn *net.UnixConn) {
	events := make(chan runtime.Event, watchBuffer)
	s.mu.Lock()
	s.watchers[events] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.watchers, events)
		s.mu.Unlock()
	}()
	s.reply(conn, nil, nil)
	for {
		select {
		case e := <-events:
			s.reply(conn, e, nil)
			if len(events) == cap(events)-1 { // it was full: some may have been dropped
				s.reply(conn, runtime.Event{Type: runtime.EventLost, Time: time.Now()}, nil)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s *server) publish(e runtime.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w <- e:
		default: // the watcher hears EventLost
		}
	}
}
