package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

const (
	handoverEnv     = "RECONCILER_SUPERVISOR_HANDOVER" // number of the descriptor that a handover is read from
	handoverVersion = 1
)

// handover is what a supervisor leaves to the release that is executed in its process. Numbers are those of open file
// descriptors. What is not here is in the records on disk, as after a crash.
type handover struct {
	Version  int          `json:"version"`
	Detached bool         `json:"detached"` // started by Ensure
	Since    time.Time    `json:"since"`
	Lock     int          `json:"lock"` // of the run directory
	Listener int          `json:"listener"`
	Runs     []handedRun  `json:"runs"`
	Waits    []handedWait `json:"waits"`
	Files    []int        `json:"files"` // those of Config.Files
}

// handedRun is a container that runs.
type handedRun struct {
	Run runRef `json:"run"`
	FDs []int  `json:"fds"` // as those that come with lent
}

// handedWait is a call that waits.
type handedWait struct {
	Op    string     `json:"op"`
	Conn  int        `json:"conn"`
	ID    runtime.ID `json:"id,omitempty"`    // of a stop
	Pid   int        `json:"pid,omitempty"`   // of a command
	Pidfd int        `json:"pidfd,omitempty"` // of a command
}

// handOver collects everything. fds are copies of all that is handed over, closed where it comes to nothing.
func (s *server) handOver() (h handover, fds []int, err error) {
	h = handover{Version: handoverVersion, Detached: s.detached, Since: s.since}
	dup := func(c syscall.Conn) int {
		fd, derr := dupFD(c)
		if derr != nil {
			err = derr
			return -1
		}
		fds = append(fds, fd)
		return fd
	}
	h.Lock, h.Listener = dup(s.dirLock), dup(s.listener)
	if s.cfg.Files != nil {
		for _, f := range s.cfg.Files() {
			h.Files = append(h.Files, dup(f))
			_ = f.Close()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if m, own, ok := c.lend(); ok {
			h.Runs = append(h.Runs, handedRun{m.Run, own})
			fds = append(fds, own...)
		}
	}
	for w := range s.waits {
		hw := handedWait{Op: w.op, Conn: dup(w.conn), ID: w.id, Pid: w.pid}
		if w.pidfd != nil {
			hw.Pidfd = dup(w.pidfd)
		}
		h.Waits = append(h.Waits, hw)
	}
	return h, fds, err
}

// write puts a handover into a file that is nowhere but in this process.
func (h handover) write() (fd int, err error) {
	data, err := json.Marshal(h)
	if err != nil {
		return -1, err
	}
	if fd, err = unix.MemfdCreate("handover", unix.MFD_CLOEXEC); err != nil {
		return -1, err
	}
	if _, err = unix.Pwrite(fd, data, 0); err != nil {
		_ = unix.Close(fd)
	}
	return fd, err
}

// takeHandover returns nil where this process did not run another release before.
func takeHandover() (*handover, error) {
	fd, err := strconv.Atoi(os.Getenv(handoverEnv))
	if err != nil || fd < 3 {
		return nil, nil //nolint:nilnil // that is none, and no error
	}
	_ = os.Unsetenv(handoverEnv)
	f := os.NewFile(uintptr(fd), "handover")
	defer func() { _ = f.Close() }()
	h, err := readHandover(f)
	if err != nil {
		return nil, fmt.Errorf("take over from another release: %w", err)
	}
	for _, fd := range h.fds() { // before anything is executed
		unix.CloseOnExec(fd)
	}
	return &h, nil
}

func readHandover(f *os.File) (h handover, err error) {
	st, err := f.Stat()
	if err != nil {
		return h, err
	}
	data := make([]byte, st.Size())
	if _, err = f.ReadAt(data, 0); err != nil {
		return h, err
	}
	if err = json.Unmarshal(data, &h); err != nil {
		return h, err
	}
	if h.Version > handoverVersion {
		return h, fmt.Errorf("it hands over in format %d, this reconciler reads up to %d", h.Version, handoverVersion)
	}
	return h, nil
}

func (h *handover) fds() []int {
	fds := append([]int{h.Lock, h.Listener}, h.Files...)
	for _, r := range h.Runs {
		fds = append(fds, r.FDs...)
	}
	for _, w := range h.Waits {
		fds = append(fds, w.Conn)
		if w.Pid != 0 {
			fds = append(fds, w.Pidfd)
		}
	}
	return fds
}

// socket is the one that the release before listened on.
func (h *handover) socket() (*net.UnixListener, error) {
	f := os.NewFile(uintptr(h.Listener), "listener")
	defer func() { _ = f.Close() }()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("listen: not a unix socket"), l.Close())
	}
	ul.SetUnlinkOnClose(true)
	return ul, ul.SetDeadline(time.Time{})
}

// belongings are those of all runs.
func (h *handover) belongings() map[runtime.ID]belongings {
	all := make(map[runtime.ID]belongings, len(h.Runs))
	for _, r := range h.Runs {
		all[r.Run.ID] = takeFiles(r.Run, r.FDs)
	}
	return all
}

// goOn answers a call that waited when this release was executed.
func (s *server) goOn(ctx context.Context, hw handedWait) {
	f := os.NewFile(uintptr(hw.Conn), "caller")
	c, err := net.FileConn(f)
	_ = f.Close()
	conn, ok := c.(*net.UnixConn)
	if err != nil || !ok {
		s.log.Error("a call was lost in the upgrade", "call", hw.Op, "err", err)
		return
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := whileCalled(ctx, conn)
	defer cancel()
	w := &waiting{op: hw.Op, conn: conn, id: hw.ID, pid: hw.Pid}
	switch hw.Op {
	case opUpgrade:
		s.reply(conn, s.version(), nil)
	case opStop:
		c, err := s.get("stop container", hw.ID)
		if err != nil {
			s.reply(conn, nil, err)
			return
		}
		s.await(w)
		s.answerStop(ctx, w, c)
	case opExec:
		w.pidfd = os.NewFile(uintptr(hw.Pidfd), "pidfd")
		s.await(w)
		s.answerExec(ctx, w, func() (*os.ProcessState, error) { return waitChild(hw.Pid) })
	}
}

// waitChild collects a child of ours that an earlier release started: the number is its own until then.
func waitChild(pid int) (*os.ProcessState, error) {
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	return p.Wait()
}
