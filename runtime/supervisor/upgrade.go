package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// upgradePatience is how long an upgrade waits for calls under way: a start may wait for its network, a deletion for the
// end of what it kills. Others wait meanwhile, probes among them, so it is short: an upgrade is tried again.
const upgradePatience = 5 * time.Second

// upgradeBody asks for another binary, whose file comes along, in place of this one.
type upgradeBody struct {
	Args     []string `json:"args"`     // with the program's name
	Handover int      `json:"handover"` // the newest format of a handover that it reads
}

// Upgrade has the supervisor execute the binary self[0], such as /proc/self/exe, with the arguments self[1:] in its place:
// the process stays, and with it every container its child. It returns when the new one answers. Calls under way come to
// their end first; those that wait, for a stop or a command, go on with the new one.
//
// It works with a supervisor that speaks another version of the protocol. If it does not come off, the old one goes on as
// before; if the new one dies at once, containers run on, and the next supervisor adopts them.
func Upgrade(ctx context.Context, cfg Config, self []string) (Version, error) {
	const op = "upgrade the supervisor"
	var v Version
	if len(self) == 0 {
		return v, &runtime.Error{Op: op, Err: errors.New("no command is given for it")}
	}
	binary, err := os.Open(self[0])
	if err != nil {
		return v, &runtime.Error{Op: op, Err: err}
	}
	defer func() { _ = binary.Close() }()
	args := append([]string{programName}, self[1:]...)
	c := &Client{socket: socketPath(cfg)}
	conn, done, err := c.send(ctx, opUpgrade, upgradeBody{Args: args, Handover: handoverVersion}, binary)
	if err != nil {
		return v, err
	}
	defer done()
	if _, err = receive(ctx, conn, opUpgrade, &v); err != nil {
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		e := &runtime.Error{Op: op, Err: err, Hint: "it goes on as it is; containers are not touched"}
		if inner, ok := errors.AsType[*runtime.Error](err); ok {
			e.Err = inner.Err
			if errors.Is(err, errBroken) {
				e.Err = errors.New("the new one ended before it was ready")
				e.Hint = "containers run on, and the next supervisor adopts them; see " + filepath.Join(cfg.StateDir, logFile)
			}
		}
		return v, e
	}
	return v, nil
}

// waiting is a call that another release can go on with: it waits for the end of a container, of a command, or for that
// release itself.
type waiting struct {
	op    string
	conn  *net.UnixConn
	id    runtime.ID // of a stop
	pid   int        // of a command
	pidfd *os.File   // of a command
}

// upgrade executes another release in this process. It returns only if that failed.
func (s *server) upgrade(ctx context.Context, conn *net.UnixConn, body json.RawMessage, files []*os.File) error {
	const op = "upgrade the supervisor"
	var b upgradeBody
	if err := json.Unmarshal(body, &b); err != nil {
		return fmt.Errorf("bad request: %w", err)
	}
	if len(files) != 1 || len(b.Args) == 0 {
		return &runtime.Error{Op: op, Err: errors.New("a file to execute and its arguments are needed"), Permanent: true}
	}
	if b.Handover < handoverVersion {
		return &runtime.Error{
			Op: op, Permanent: true,
			Err:  fmt.Errorf("the other release reads handovers of format %d, this supervisor writes %d", b.Handover, handoverVersion),
			Hint: fmt.Sprintf("end it (kill %d): containers run on, and the next supervisor adopts them", os.Getpid()),
		}
	}
	resume, err := s.quiesce(ctx)
	if err != nil {
		return &runtime.Error{Op: op, Err: err, Hint: "it is tried again; containers are not touched"}
	}
	defer resume()
	me := &waiting{op: opUpgrade, conn: conn}
	s.await(me)
	defer s.answered(me)
	s.log.Info("executing another release in place", "args", b.Args)
	if err = s.become(files[0], b.Args); err != nil {
		s.log.Error("cannot execute another release, going on", "err", err)
		return &runtime.Error{Op: op, Err: err, Hint: "it goes on as it is; containers are not touched"}
	}
	return nil
}

// quiesce lets every call and every record under way come to its end and begins no other. Connections wait meanwhile,
// until resume, and nothing is lost of them if the process executes another program instead.
func (s *server) quiesce(ctx context.Context) (resume func(), err error) {
	if !s.upgrading.TryLock() {
		return nil, errors.New("another upgrade is under way")
	}
	if err = s.listener.SetDeadline(time.Unix(1, 0)); err != nil {
		s.upgrading.Unlock()
		return nil, err
	}
	open := func() {
		_ = s.listener.SetDeadline(time.Time{})
		select {
		case s.accepts <- struct{}{}:
		case <-s.ended:
		}
		s.upgrading.Unlock()
	}
	select {
	case <-s.pauses: // nobody accepts any more
	case <-s.ended:
		s.upgrading.Unlock()
		return nil, errors.New("the supervisor ends")
	}
	wait, cancel := context.WithTimeout(ctx, upgradePatience)
	defer cancel()
	if err = s.busy.Acquire(wait, allCalls); err != nil {
		open()
		return nil, fmt.Errorf("calls under way did not end within %v", upgradePatience)
	}
	s.records.Lock()
	thaw := s.freezeOutput()
	return func() {
		thaw()
		s.records.Unlock()
		s.busy.Release(allCalls)
		open()
	}, nil
}

// freezeOutput writes what is known of all output and moves none until thaw.
func (s *server) freezeOutput() (thaw func()) {
	var logs []*logWriter
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		c.mu.Lock()
		if c.out != nil {
			logs = append(logs, c.out.log)
		}
		c.mu.Unlock()
	}
	for _, l := range logs {
		l.mu.Lock()
		l.settle()
	}
	return func() {
		for _, l := range logs {
			l.mu.Unlock()
		}
	}
}

// await notes a call that a handover has to tell of.
func (s *server) await(w *waiting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waits[w] = struct{}{}
}

// answered takes a call off again. Who answers holds s.records, so that it is either answered or handed over.
func (s *server) answered(w *waiting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waits, w)
}

// become executes the file binary in place of this program.
func (s *server) become(binary *os.File, args []string) error {
	failpoint.Here("upgrade: at rest") // apart: between releases: TestKilledDuringUpgrades
	h, fds, err := s.handOver()
	defer func() { closeFDs(fds...) }()
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	state, err := h.write()
	if err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	fds = append(fds, state)
	// Nothing is being started that could inherit them.
	for _, fd := range fds {
		if _, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("hand over: %w", err)
		}
	}
	env := append(slices.Clone(s.environ), handoverEnv+"="+strconv.Itoa(state))
	failpoint.Here("upgrade: handed over") // apart: between releases: TestKilledDuringUpgrades
	// no failpoint: who comes next passes those of its start
	return &os.PathError{Op: "execute", Path: binary.Name(), Err: unix.Exec("/proc/self/fd/"+strconv.Itoa(int(binary.Fd())), args, env)}
}
