package linux

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// Exec implements runtime.Runtime.
func (r *Runtime) Exec(ctx context.Context, id runtime.ID, command []string) (runtime.ExecResult, error) {
	op := "run a command in container " + string(id)
	e, client, err := r.reach(ctx, id)
	if err != nil {
		return runtime.ExecResult{}, failure(op, id, e.Spec.Name, err)
	}
	op = "run a command in container " + e.Spec.Name.String()
	var out tail
	code, err := client.Exec(ctx, supervisor.ExecRequest{ID: id, Args: command}, nil, &out, &out)
	if err != nil {
		return runtime.ExecResult{}, failure(op, id, e.Spec.Name, notRunning(err))
	}
	return runtime.ExecResult{Code: code, Output: out.bytes()}, nil
}

// Signal implements runtime.Runtime.
func (r *Runtime) Signal(ctx context.Context, id runtime.ID, signal string) error {
	op := "send " + signal + " to container " + string(id)
	e, client, err := r.reach(ctx, id)
	if err == nil {
		op = strings.TrimSuffix(op, string(id)) + e.Spec.Name.String()
		err = notRunning(client.Signal(ctx, id, signal))
	}
	return failure(op, id, e.Spec.Name, err)
}

// reach returns a container and the supervisor that may run it.
func (r *Runtime) reach(ctx context.Context, id runtime.ID) (entry, *supervisor.Client, error) {
	e, err := r.state.read(id)
	if err != nil {
		return e, nil, err
	}
	client, err := supervisor.Dial(ctx, r.supervisorConfig())
	if errors.Is(err, supervisor.ErrNotRunning) {
		if !e.alive() {
			return e, nil, runtime.ErrNotRunning
		}
		client, err = r.supervise(ctx)
	}
	return e, client, err
}

// notRunning says in the contract's words that the supervisor has no such process.
func notRunning(err error) error {
	if errors.Is(err, supervisor.ErrExited) || errors.Is(err, runtime.ErrNotFound) {
		return runtime.ErrNotRunning
	}
	return err
}

// tail keeps the last MaxExecOutput bytes of what several writers write.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if len(t.kept) > 2*runtime.MaxExecOutput { // seldom, so that each byte is moved about once
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-runtime.MaxExecOutput:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept[max(0, len(t.kept)-runtime.MaxExecOutput):]
}
