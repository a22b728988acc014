package fake

import (
	"context"
	"fmt"
	"time"

	"reconciler/runtime"
)

// Exit codes of a process that a signal ended.
const (
	codeKilled     = 128 + 9
	codeTerminated = 128 + 15
)

// Start starts a created or exited container.
func (r *Runtime) Start(ctx context.Context, id runtime.ID) error {
	c, done, err := r.take(ctx, id)
	if err != nil {
		return failed(OpStart, runtime.Name{}, id, err)
	}
	if c == nil {
		return failed(OpStart, runtime.Name{}, id, runtime.ErrNotFound)
	}
	defer done()
	name := r.status(c).Spec.Name
	if r.status(c).State == runtime.StateRunning {
		return nil
	}
	scripted := r.begin(ctx, OpStart, name, id)

	r.mu.Lock()
	defer r.mu.Unlock()
	s := &c.status
	if s.State == runtime.StateRemoving {
		return failed(OpStart, name, id, runtime.ErrNotFound)
	}
	if scripted != nil {
		s.Reason, s.Message = runtime.ReasonOf(scripted), scripted.Error()
		return scripted
	}
	if err := r.connect(c); err != nil {
		s.Reason, s.Message = runtime.ReasonOf(err), err.Error()
		return err
	}
	if err := r.runInits(s.Spec, id); err != nil {
		s.Reason, s.Message = runtime.ReasonOf(err), err.Error()
		return err
	}
	r.last++
	c.program, c.output, c.exited = r.program(s.Spec), nil, make(chan struct{})
	c.output = append(c.output, c.program.Output...)
	s.State, s.Pid, s.Starts = runtime.StateRunning, 100_000+r.last, s.Starts+1
	s.StartedAt, s.FinishedAt, s.Ran = r.now(), time.Time{}, 0
	s.ExitCode, s.OOMKilled, s.Stopped, s.Reason, s.Message = nil, false, false, "", ""
	r.tell(runtime.EventStarted, c)
	if c.program.Exit != nil {
		r.exit(c, exit{code: c.program.Exit})
	}
	return nil
}

// runInits ends every init container at once: with the code of its Program, or well.
func (r *Runtime) runInits(spec runtime.Spec, id runtime.ID) error {
	for _, ic := range spec.InitContainers {
		if p := r.program(spec.ForInit(ic)); p.Exit != nil && *p.Exit != 0 {
			e := failed(OpStart, spec.Name, id, fmt.Errorf("init container %s exited with code %d", ic.Name, *p.Exit))
			e.Reason = runtime.ReasonInitFailed
			return e
		}
	}
	return nil
}

// Update replaces a container's spec and leaves its process alone. The signals that swapped files ask for are recorded as
// calls.
func (r *Runtime) Update(ctx context.Context, id runtime.ID, spec runtime.Spec) error {
	c, done, err := r.take(ctx, id)
	if err != nil {
		return failed(OpUpdate, runtime.Name{}, id, err)
	}
	if c == nil {
		return failed(OpUpdate, runtime.Name{}, id, runtime.ErrNotFound)
	}
	defer done()
	if err := r.begin(ctx, OpUpdate, spec.Name, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.publish(spec, id); err != nil {
		return err
	}
	if c.status.State == runtime.StateRunning {
		for range runtime.Signals(c.status.Spec.Swapped(spec)) {
			r.calls = append(r.calls, Call{Op: OpSignal, Name: spec.Name, ID: id})
		}
	}
	c.status.Spec = spec
	return nil
}

// Stop ends a container's process: at once, or after grace if its Program ignores signals.
func (r *Runtime) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error {
	c, done, err := r.take(ctx, id)
	if err != nil {
		return failed(OpStop, runtime.Name{}, id, err)
	}
	if c == nil {
		return nil
	}
	defer done()
	if r.status(c).State != runtime.StateRunning {
		return nil
	}
	if err := r.begin(ctx, OpStop, r.status(c).Spec.Name, id); err != nil {
		return err
	}
	code := codeTerminated
	if r.ignoresStop(c) || grace <= 0 {
		code = codeKilled
		if err := r.waitExit(ctx, c, grace); err != nil {
			return failed(OpStop, r.status(c).Spec.Name, id, err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exit(c, exit{code: &code, stopped: true})
	return nil
}

func (r *Runtime) ignoresStop(c *container) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.program.IgnoresStop
}

// waitExit waits until c's process has ended by itself or grace is over.
func (r *Runtime) waitExit(ctx context.Context, c *container, grace time.Duration) error {
	if grace <= 0 {
		return nil
	}
	r.mu.Lock()
	exited := c.exited
	r.mu.Unlock()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-exited:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Remove takes a container away. A scripted failure leaves it in StateRemoving.
func (r *Runtime) Remove(ctx context.Context, id runtime.ID) error {
	c, done, err := r.take(ctx, id)
	if err != nil {
		return failed(OpRemove, runtime.Name{}, id, err)
	}
	if c == nil {
		return nil
	}
	defer done()
	name := r.kill(c)
	if err := r.begin(ctx, OpRemove, name, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
	r.tell(runtime.EventRemoved, c)
	return nil
}

// kill ends what runs of c and marks it as going.
func (r *Runtime) kill(c *container) runtime.Name {
	r.mu.Lock()
	defer r.mu.Unlock()
	code := codeKilled
	r.exit(c, exit{code: &code, stopped: true})
	c.status.State = runtime.StateRemoving
	return c.status.Spec.Name
}

// exit is how a process ended.
type exit struct {
	code    *int
	oom     bool
	stopped bool
	reason  string
}

// exit ends the process of a running container. The caller holds r.mu.
func (r *Runtime) exit(c *container, e exit) {
	s := &c.status
	if s.State != runtime.StateRunning {
		return
	}
	s.State, s.Pid, s.FinishedAt = runtime.StateExited, 0, r.now()
	s.Ran = s.FinishedAt.Sub(s.StartedAt)
	s.ExitCode, s.OOMKilled, s.Stopped, s.Reason = e.code, e.oom, e.stopped, e.reason
	close(c.exited)
	r.tell(runtime.EventExited, c)
}

// take waits for the turn of a container, so that calls for it come one after the other. It returns nil where there
// is no such container; else the caller ends its turn by calling the function.
func (r *Runtime) take(ctx context.Context, id runtime.ID) (*container, func(), error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c == nil {
		return nil, nil, nil
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	done := func() { c.turn <- struct{}{} }
	r.mu.Lock()
	_, still := r.containers[id]
	r.mu.Unlock()
	if !still {
		done()
		return nil, nil, nil
	}
	return c, done, nil
}

func (r *Runtime) status(c *container) runtime.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.status
}
