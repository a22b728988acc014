package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// hangupGrace is how long a command whose caller is gone has to end by itself.
const hangupGrace = 5 * time.Second

// exec runs a command in a container for the caller on conn: first an answer with its pid and, with a terminal, the
// terminal's other end; at last one with the exit code. files are the caller's stdin, stdout and stderr.
func (s *server) exec(ctx context.Context, conn *net.UnixConn, body json.RawMessage, files []*os.File, release func()) {
	var req ExecRequest
	if err := json.Unmarshal(body, &req); err != nil {
		s.reply(conn, nil, fmt.Errorf("bad request: %w", err))
		return
	}
	proc, tty, err := s.startExec(req, files)
	closeFiles(files...) // the command has them; ours would keep the caller's pipes open
	if err != nil {
		s.reply(conn, nil, execFailure(req, err))
		return
	}
	pid, _ := proc.Pid() // it was started
	w := &waiting{op: opExec, conn: conn, pid: pid}
	if w.pidfd, err = openPidfd(pid); err != nil {
		closeFiles(tty)
		_ = proc.Signal(unix.SIGKILL)
		_, _ = proc.Wait()
		s.reply(conn, nil, execFailure(req, err))
		return
	}
	if tty != nil {
		s.reply(conn, execEvent{Pid: pid}, nil, tty)
		_ = tty.Close() // so that the terminal hangs up when the caller's copy goes
	} else {
		s.reply(conn, execEvent{Pid: pid}, nil)
	}
	s.await(w)
	release()
	s.answerExec(ctx, w, proc.Wait)
}

// answerExec waits for the end of a command, which collect collects.
func (s *server) answerExec(ctx context.Context, w *waiting, collect func() (*os.ProcessState, error)) {
	defer closeFiles(w.pidfd)
	exited := make(chan struct{})
	go func() {
		select {
		case <-exited:
		case <-ctx.Done():
			hangUp(w.pid, exited)
		}
	}()
	err := waitPidfd(context.WithoutCancel(ctx), w.pidfd) // it ends, by itself or hung up
	s.records.RLock()                                     // once it is collected, nobody else can know
	defer s.records.RUnlock()
	ps, cerr := collect()
	close(exited)
	if ps == nil {
		s.reply(w.conn, nil, &runtime.Error{Op: "execute in container", Err: errors.Join(err, cerr)})
	} else {
		status, _ := ps.Sys().(syscall.WaitStatus) // on Linux it always is
		code, _, _ := exitCode(unix.WaitStatus(status))
		s.reply(w.conn, execEvent{ExitCode: code}, nil)
	}
	s.answered(w)
}

// hangUp ends a command whose caller is gone: as a closed terminal does, then for good. It leads its own session and
// process group.
func hangUp(pid int, exited <-chan struct{}) {
	_ = unix.Kill(-pid, unix.SIGHUP)
	_ = unix.Kill(-pid, unix.SIGCONT)
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-exited:
	case <-timer.C:
		_ = unix.Kill(-pid, unix.SIGKILL) // with what it started, which ignores being hung up as it does
	}
}

// startExec starts the command; tty is the master side of its terminal, if it has one.
func (s *server) startExec(req ExecRequest, files []*os.File) (proc *libcontainer.Process, tty *os.File, err error) {
	c := s.settled(req.ID)
	if c == nil {
		return nil, nil, runtime.ErrNotFound
	}
	c.mu.Lock()
	lc, started := c.lc, c.rec.Request
	c.mu.Unlock()
	if lc == nil {
		return nil, nil, ErrExited
	}
	if len(req.Args) == 0 {
		return nil, nil, errors.New("no command is given")
	}
	b, _, err := loadSpec(started)
	if err != nil {
		return nil, nil, err
	}
	p := b.spec.Process
	p.Args = req.Args
	p.Env = append(p.Env, req.Env...) // the last of a name counts
	if req.Cwd != "" {
		p.Cwd = req.Cwd
	}
	if req.TTY && !hasEnv(p.Env, "TERM") {
		p.Env = append(p.Env, "TERM=xterm")
	}
	if proc, err = newProcess(p); err != nil {
		return nil, nil, err
	}
	if req.User != "" {
		if proc.UID, proc.GID, err = parseUser(req.User); err != nil {
			return nil, nil, err
		}
		proc.AdditionalGroups = nil
		if c := proc.Capabilities; c != nil && proc.UID == 0 && p.User.UID != 0 {
			// The container's own user has none, so that root would be no more than a name. Nobody gets more than process 1
			// could have had.
			c.Effective, c.Permitted, c.Inheritable, c.Ambient = c.Bounding, c.Bounding, nil, nil
		}
	}
	if !req.TTY {
		if len(files) != 3 {
			return nil, nil, errors.New("three file descriptors are needed")
		}
		if err = lendPipes(&c.config, proc, files); err != nil {
			return nil, nil, err
		}
		proc.Stdin, proc.Stdout, proc.Stderr = files[0], files[1], files[2]
		return proc, nil, s.startIn(c, lc, proc)
	}
	proc.ConsoleWidth, proc.ConsoleHeight = req.Width, req.Height
	tty, err = s.startTTY(c, lc, proc)
	return proc, tty, err
}

// lendPipes makes the pipes of a command its user's: without that it could not open /dev/stdout anew, which is what many
// programs write to. What else the caller may have given, such as a file of its own, is left alone.
func lendPipes(config *configs.Config, proc *libcontainer.Process, files []*os.File) error {
	uid, err := config.HostUID(proc.UID)
	if err != nil {
		return err
	}
	gid, err := config.HostGID(proc.GID)
	if err != nil {
		return err
	}
	for _, f := range files {
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type != unix.PIPEFS_MAGIC {
			continue
		}
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return nil
}

// startIn starts a process in a running container.
func (s *server) startIn(c *container, lc *libcontainer.Container, proc *libcontainer.Process) error {
	s.starts <- struct{}{}
	defer func() { <-s.starts }()
	failpoint.Here("exec: no process yet")
	err := startProcess(lc, proc)
	failpoint.Here("exec: a process")
	if err != nil && (!c.running() || ending(c.state().Pid)) {
		return ErrExited
	}
	return err
}

// startTTY starts a process with a terminal, which libcontainer makes inside the container and sends us.
func (s *server) startTTY(c *container, lc *libcontainer.Container, proc *libcontainer.Process) (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket for terminal: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console")
	defer closeFiles(ours)
	proc.ConsoleSocket = theirs
	err = s.startIn(c, lc, proc)
	closeFiles(theirs)
	if err != nil {
		return nil, err
	}
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(fds[0], buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err == nil {
		var got []int
		if got, err = parseFDs(oob[:oobn]); err == nil && len(got) == 1 {
			return os.NewFile(uintptr(got[0]), "console"), nil
		}
		closeFDs(got...)
	}
	_ = proc.Signal(unix.SIGKILL)
	_, _ = proc.Wait()
	return nil, fmt.Errorf("no terminal came from the container: %w", errors.Join(err))
}

func hasEnv(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

// parseUser reads "uid" or "uid:gid". A user without group gets the group 0, as with Docker.
func parseUser(user string) (uid, gid int, err error) {
	u, g, both := strings.Cut(user, ":")
	uid, err = strconv.Atoi(u)
	if err == nil && both {
		gid, err = strconv.Atoi(g)
	}
	if err != nil || uid < 0 || gid < 0 {
		return 0, 0, fmt.Errorf("user %q is not a number, or two with a colon", user)
	}
	return uid, gid, nil
}

func execFailure(req ExecRequest, err error) error {
	e, ok := startError(StartRequest{ID: req.ID}, err).(*runtime.Error) //nolint:errorlint // always this type
	if !ok {
		return err
	}
	e.Op = "execute in container"
	return e
}
