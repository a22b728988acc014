package supervisor

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"reconciler/runtime"
)

var errSkeleton = errors.New("not here yet")

// Run is the supervisor itself: it blocks until Shutdown is asked for or ctx ends. Containers survive its end.
// A second one on the same run directory is refused with ErrAlreadyRunning.
func Run(ctx context.Context, cfg Config) error { return errSkeleton }

// Ensure connects to the instance's supervisor, or starts one by executing self (such as
// ["/proc/self/exe", "supervisor", "--run-dir", ...], whose main calls Run) detached from the caller, and returns once
// it answers. Several callers may do so at once: one supervisor results.
func Ensure(ctx context.Context, cfg Config, self []string) (*Client, error) { return nil, errSkeleton }

// Dial connects to a running supervisor. Where there is none the error is ErrNotRunning.
func Dial(ctx context.Context, cfg Config) (*Client, error) { return nil, errSkeleton }

// Client asks things of a supervisor. It is safe for concurrent use and holds no connection between calls, so that it
// goes on working when the supervisor was replaced. Every error is a *runtime.Error, except those of the context.
type Client struct{ socket string }

// Start runs what the bundle says. For a container that runs already it returns how it was started. After an error
// nothing of the container is left but its output.
func (c *Client) Start(ctx context.Context, req StartRequest) (Started, error) {
	return Started{}, errSkeleton
}

// Stop sends signal (empty: the container's own) and, after grace, kills every process of the container. It returns
// once the exit is recorded, also where that was before. The supervisor keeps the time: it goes on if the caller dies or
// ctx ends. A second call may shorten the grace, never lengthen it. A grace of zero or less kills at once.
func (c *Client) Stop(ctx context.Context, id runtime.ID, signal string, grace time.Duration) (Exit, error) {
	return Exit{}, errSkeleton
}

// Signal sends a signal, such as "SIGHUP" or "1", to process 1 of a running container.
func (c *Client) Signal(ctx context.Context, id runtime.ID, signal string) error { return errSkeleton }

// Delete forgets a container: its libcontainer state, cgroup and FIFOs go; what runs is killed. Output and exit.json
// stay. Deleting what is not known does nothing.
func (c *Client) Delete(ctx context.Context, id runtime.ID) error { return errSkeleton }

// Update changes the limits of a running container and the bounds of its kept output.
func (c *Client) Update(ctx context.Context, id runtime.ID, limits runtime.Resources, logs runtime.Logs) error {
	return errSkeleton
}

// List returns every container that was started and not deleted, sorted by ID.
func (c *Client) List(ctx context.Context) ([]State, error) { return nil, errSkeleton }

// Exec runs a command in a running container and returns its exit code, 128 + signal for a signal. stdin may be nil.
// With a terminal all output comes by stdout. If ctx ends or the caller dies, the command is hung up and killed.
func (c *Client) Exec(ctx context.Context, req ExecRequest, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	return 0, errSkeleton
}

// Watch returns hints of starts and exits until ctx ends; the channel is closed then. After EventLost the supervisor is
// gone or hints were dropped: List tells the truth. Events have no Name.
func (c *Client) Watch(ctx context.Context) (<-chan runtime.Event, error) { return nil, errSkeleton }

// Shutdown ends the supervisor and, with killContainers, every container first. It returns when the process is gone.
func (c *Client) Shutdown(ctx context.Context, killContainers bool) error { return errSkeleton }

// Version says what answers.
func (c *Client) Version(ctx context.Context) (Version, error) { return Version{}, errSkeleton }

// ReadLog reads the kept output of a container from its LogDir, oldest first. It needs no supervisor. With Follow it
// goes on until ctx ends, which is not an error. An iteration that fails yields the error last.
func ReadLog(ctx context.Context, dir string, opts LogOptions) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) { yield(LogEntry{}, errSkeleton) }
}

// ReadExit reads how the last run ended from a container's LogDir; false where none has ended yet.
func ReadExit(dir string) (Exit, bool, error) { return Exit{}, false, errSkeleton }

// InitBinary writes the tiny init for containers with `init: true` into runDir, once, and returns its path. Mount it
// read-only into the container and put its path inside and "--" before the command.
func InitBinary(runDir string) (string, error) { return "", errSkeleton }
