package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"reconciler/runtime/failpoint"
)

// SocketName is the name of the agent's socket in the run directory.
const SocketName = "agent.sock"

// SocketPath returns where the agent of a run directory listens.
func SocketPath(runDir string) string { return filepath.Join(runDir, SocketName) }

// newName is the socket's while it is made.
const newName = ".sock"

// Clear takes away the socket that a dead agent left in the run directory. The caller holds the lock of the state directory.
func Clear(runDir string) error {
	failpoint.Here("socket: a dead agent's there")
	var errs []error
	for _, name := range []string{SocketName, newName} {
		if err := os.Remove(filepath.Join(runDir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	failpoint.Here("socket: a dead agent's gone")
	return errors.Join(errs...)
}

// maxSocketPath is the room for a path in sockaddr_un, its final zero apart (unix(7)).
const maxSocketPath = 107

// Listen makes the agent's socket in runDir, mode 0600. One that a dead agent left is taken over; the caller holds the
// lock of the state directory, so that there is no other that lives.
func Listen(runDir string) (net.Listener, error) {
	path := SocketPath(runDir)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket %s: the path is longer than the %d bytes that a socket's may have: use a shorter --run-dir", path, maxSocketPath)
	}
	if err := os.MkdirAll(runDir, 0o700); err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("socket %s: another agent answers on it: give this one its own --run-dir and --instance", path)
	}
	if err := Clear(runDir); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// Under a name that nobody looks for until the mode is right: between bind and chmod others could connect.
	tmp := filepath.Join(runDir, newName)
	failpoint.Here("socket: none there")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	failpoint.Here("socket: without its name")
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), l.Close(), os.Remove(tmp))
	}
	failpoint.Here("socket: there")
	return &socket{UnixListener: l, path: path}, nil
}

// socket takes its file away when it is closed.
type socket struct {
	*net.UnixListener
	path string
}

func (s *socket) Close() error {
	failpoint.Here("socket: to be closed")
	err := s.UnixListener.Close()
	if err == nil {
		_ = os.Remove(s.path)
	}
	failpoint.Here("socket: closed")
	return err
}
