package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Client asks things of a supervisor. It is safe for concurrent use and holds no connection between calls, so that it
// goes on working when the supervisor was replaced. Every error is a *runtime.Error, except those of the context.
type Client struct{ socket string }

func socketPath(cfg Config) string { return filepath.Join(cfg.RunDir, "supervisor.sock") }

// Dial connects to a running supervisor. Where there is none the error is ErrNotRunning.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c := &Client{socket: socketPath(cfg)}
	v, err := AskVersion(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if v.Protocol != protocolVersion {
		return nil, &runtime.Error{
			Op: "ask the supervisor", Permanent: true,
			Err:  fmt.Errorf("it speaks version %d of the protocol, this binary %d", v.Protocol, protocolVersion),
			Hint: fmt.Sprintf("use its release, %s, or start this one's agent, which upgrades it in place (pid %d)", v.Binary, v.Pid),
		}
	}
	return c, nil
}

// open dials the socket; the connection breaks off when ctx ends.
func (c *Client) open(ctx context.Context) (*net.UnixConn, func(), error) {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
			err = ErrNotRunning
		}
		return nil, nil, &runtime.Error{Op: "ask the supervisor", Err: err}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		stop()
		return nil, nil, &runtime.Error{Op: "ask the supervisor", Err: errors.New("not a unix socket")}
	}
	return uc, func() { stop(); _ = conn.Close() }, nil
}

// send opens a connection and sends a request on it.
func (c *Client) send(ctx context.Context, op string, body any, files ...*os.File) (*net.UnixConn, func(), error) {
	conn, done, err := c.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err = sendOn(conn, op, body, files...); err != nil {
		done()
		return nil, nil, callError(ctx, op, err)
	}
	return conn, done, nil
}

func sendOn(conn *net.UnixConn, op string, body any, files ...*os.File) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return writeFrame(conn, request{Protocol: protocolVersion, Op: op, Body: raw}, files...)
}

// receive reads one answer into out.
func receive(ctx context.Context, conn *net.UnixConn, op string, out any) ([]*os.File, error) {
	resp := response{Body: out}
	files, err := readFrame(conn, maxFrame, &resp)
	if err != nil {
		return nil, callError(ctx, op, err)
	}
	if resp.Error != nil {
		closeFiles(files...)
		return nil, resp.Error.toError()
	}
	return files, nil
}

var errBroken = errors.New("connection broke")

func callError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &runtime.Error{
		Op: "ask the supervisor to " + op, Err: fmt.Errorf("%w: %w", errBroken, err), Reason: runtime.ReasonSupervisorLost,
		Hint: "it ended meanwhile, and another one takes its place: this is tried again soon",
	}
}

func (c *Client) call(ctx context.Context, op string, body, out any) error {
	conn, done, err := c.send(ctx, op, body)
	if err != nil {
		return err
	}
	defer done()
	files, err := receive(ctx, conn, op, out)
	closeFiles(files...)
	return err
}

// Expect says that a Start is coming, so that the supervisor can have the kernel get ready meanwhile. Nothing depends on it,
// and one of an earlier release does not know it.
func (c *Client) Expect(ctx context.Context) error { return c.call(ctx, opExpect, struct{}{}, nil) }

// Stop sends signal (empty: the container's own) and, after grace, kills every process of the container. It returns
// once the exit is recorded, also where that was before. The supervisor keeps the time: it goes on if the caller dies or
// ctx ends. A second call may shorten the grace, never lengthen it. A grace of zero or less kills at once.
func (c *Client) Stop(ctx context.Context, id runtime.ID, signal string, grace time.Duration) (Exit, error) {
	var e Exit
	err := c.call(ctx, opStop, stopBody{ID: id, Signal: signal, Grace: grace}, &e)
	return e, err
}

// Signal sends a signal, such as "SIGHUP", "HUP" or "1", to process 1 of a running container.
func (c *Client) Signal(ctx context.Context, id runtime.ID, signal string) error {
	return c.call(ctx, opSignal, signalBody{ID: id, Signal: signal}, nil)
}

// Delete forgets a container: its libcontainer state, cgroup and FIFOs go; what runs is killed. Output and exit.json
// stay. Deleting what is not known does nothing.
func (c *Client) Delete(ctx context.Context, id runtime.ID) error {
	return c.call(ctx, opDelete, deleteBody{ID: id}, nil)
}

// DeleteSeen is Delete for a container that was not started after seen. One that was, by a call whose caller is dead, stays,
// whether it still runs or not, and the error wraps ErrStarted.
func (c *Client) DeleteSeen(ctx context.Context, id runtime.ID, seen time.Time) error {
	return c.call(ctx, opDelete, deleteBody{ID: id, Seen: seen}, nil)
}

// Update changes the limits of a running container and the bounds of its kept output. On one that has exited it does
// nothing: the next start brings its own.
func (c *Client) Update(ctx context.Context, id runtime.ID, limits runtime.Resources, logs runtime.Logs) error {
	return c.call(ctx, opUpdate, updateBody{ID: id, Limits: limits, Logs: logs}, nil)
}

// List returns every container that was started and not deleted, sorted by ID.
func (c *Client) List(ctx context.Context) ([]State, error) {
	var s []State
	err := askAgain(func() error { return c.call(ctx, opList, struct{}{}, &s) })
	return s, err
}

// Find returns what List says of one container; false: nothing.
func (c *Client) Find(ctx context.Context, id runtime.ID) (State, bool, error) {
	var found []State
	err := askAgain(func() error { return c.call(ctx, opList, listBody{ID: id}, &found) })
	for _, s := range found { // all, by a supervisor of an earlier release
		if s.ID == id {
			return s, true, err
		}
	}
	return State{}, false, err
}

// Watch returns hints of starts and exits until ctx ends; the channel is closed then. After EventLost the supervisor is
// gone or hints were dropped: List tells the truth. Events have no Name.
func (c *Client) Watch(ctx context.Context) (<-chan runtime.Event, error) {
	conn, done, err := c.send(ctx, opWatch, struct{}{})
	if err != nil {
		return nil, err
	}
	// The first answer says that the watch stands: whatever happens after Watch returned is seen.
	if _, err := receive(ctx, conn, opWatch, nil); err != nil {
		done()
		return nil, err
	}
	events := make(chan runtime.Event, 16)
	go func() {
		defer close(events)
		defer done()
		for {
			var e runtime.Event
			_, err := receive(ctx, conn, opWatch, &e)
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				e = runtime.Event{Type: runtime.EventLost, Time: time.Now()}
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return events, nil
}

// Shutdown ends the supervisor and, with killContainers, every container first. It returns when the process is gone.
func (c *Client) Shutdown(ctx context.Context, killContainers bool) error {
	conn, done, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer done()
	pidfd, err := peerPidfd(conn) // first: on a busy server it is gone before we go on after asking
	if err != nil {
		return callError(ctx, opShutdown, err)
	}
	defer func() { _ = pidfd.Close() }()
	if err = sendOn(conn, opShutdown, shutdownBody{Kill: killContainers}); err != nil {
		return callError(ctx, opShutdown, err)
	}
	if _, err := receive(ctx, conn, opShutdown, nil); err != nil {
		return err
	}
	return waitPidfd(ctx, pidfd)
}

// peerPidfd returns a pidfd of the process that listens on the other side.
func peerPidfd(conn *net.UnixConn) (*os.File, error) {
	cred, err := peerCred(conn)
	if err != nil {
		return nil, err
	}
	return openPidfd(int(cred.Pid))
}

// peerCred returns who is on the other side, as the kernel says.
func peerCred(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(err, cerr)
}

// AskVersion asks whatever supervisor runs what it is, whichever version of the protocol it speaks. Where there is none
// the error is ErrNotRunning.
func AskVersion(ctx context.Context, cfg Config) (Version, error) {
	var v Version
	err := askAgain(func() error {
		var err error
		v, err = (&Client{socket: socketPath(cfg)}).Version(ctx)
		return err
	})
	return v, err
}

// askAgain asks what changes nothing again where a supervisor was killed before it could answer: there may be another.
func askAgain(ask func() error) error {
	err := ask()
	for range 3 {
		if !errors.Is(err, errBroken) {
			break
		}
		err = ask()
	}
	return err
}

// Version says what answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v Version
	err := c.call(ctx, opVersion, struct{}{}, &v)
	return v, err
}
