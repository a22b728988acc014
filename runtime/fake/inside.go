package fake

import (
	"context"
	"errors"
	"net"

	"reconciler/runtime"
)

// Serve makes a container the one that answers for its name, or not.
func (r *Runtime) Serve(ctx context.Context, id runtime.ID, on bool) error {
	c, done, err := r.take(ctx, id)
	if err != nil {
		return failed(OpServe, runtime.Name{}, id, err)
	}
	if c == nil {
		return failed(OpServe, runtime.Name{}, id, runtime.ErrNotFound)
	}
	defer done()
	name := r.status(c).Spec.Name
	if err := r.begin(ctx, OpServe, name, id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.containers {
		if on && o.status.Spec.Name == name {
			o.status.Serving = false
		}
	}
	c.status.Serving = on
	return nil
}

// Drain returns at once: a fake has no connections.
func (r *Runtime) Drain(ctx context.Context, id runtime.ID) error {
	return r.inside(ctx, OpDrain, id, false)
}

// Exec answers as the Program that Commands makes of the command: with code 0 and no output where it makes none.
func (r *Runtime) Exec(ctx context.Context, id runtime.ID, command []string) (runtime.ExecResult, error) {
	if err := r.inside(ctx, OpExec, id, true); err != nil {
		return runtime.ExecResult{}, err
	}
	var result runtime.ExecResult
	p := Commands(runtime.Spec{Command: command})
	if p.Exit != nil {
		result.Code = *p.Exit
	}
	for _, line := range p.Output {
		result.Output = append(result.Output, line+"\n"...)
	}
	return result, nil
}

// Dial always fails: nothing listens in a fake.
func (r *Runtime) Dial(ctx context.Context, id runtime.ID, _, _ string) (net.Conn, error) {
	if err := r.inside(ctx, OpDial, id, true); err != nil {
		return nil, err
	}
	return nil, failed(OpDial, runtime.Name{}, id, errors.New("connection refused"))
}

// Signal does nothing, unless it is SIGKILL.
func (r *Runtime) Signal(ctx context.Context, id runtime.ID, signal string) error {
	err := r.inside(ctx, OpSignal, id, true)
	if err == nil && signal == "SIGKILL" {
		r.Kill(id)
	}
	return err
}

// Stats returns one entry without numbers for each running container.
func (r *Runtime) Stats(ctx context.Context) ([]runtime.Stats, error) {
	list, err := r.List(ctx)
	var stats []runtime.Stats
	for _, s := range list {
		if s.State == runtime.StateRunning {
			stats = append(stats, runtime.Stats{ID: s.ID, Name: s.Spec.Name, Time: r.now()})
		}
	}
	return stats, err
}

// inside carries a scripted operation out that changes nothing.
func (r *Runtime) inside(ctx context.Context, op Op, id runtime.ID, running bool) error {
	r.mu.Lock()
	c := r.containers[id]
	r.mu.Unlock()
	if c == nil {
		return failed(op, runtime.Name{}, id, runtime.ErrNotFound)
	}
	s := r.status(c)
	if running && s.State != runtime.StateRunning {
		return failed(op, s.Spec.Name, id, runtime.ErrNotRunning)
	}
	return r.begin(ctx, op, s.Spec.Name, id)
}
