package linux

import (
	"context"
	"errors"
	"net"

	"reconciler/runtime"
)

var errLater = errors.New("comes with the next commits")

// Serve implements runtime.Runtime.
func (r *Runtime) Serve(context.Context, runtime.ID, bool) error { return errLater }

// Drain implements runtime.Runtime.
func (r *Runtime) Drain(context.Context, runtime.ID) error { return errLater }

// Exec implements runtime.Runtime.
func (r *Runtime) Exec(context.Context, runtime.ID, []string) (runtime.ExecResult, error) {
	return runtime.ExecResult{}, errLater
}

// Dial implements runtime.Runtime.
func (r *Runtime) Dial(context.Context, runtime.ID, string, string) (net.Conn, error) {
	return nil, errLater
}

// Signal implements runtime.Runtime.
func (r *Runtime) Signal(context.Context, runtime.ID, string) error { return errLater }

// Stats implements runtime.Runtime.
func (r *Runtime) Stats(context.Context) ([]runtime.Stats, error) { return nil, errLater }
