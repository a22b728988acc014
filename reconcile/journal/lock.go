package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// LockedError says that another process works on a state directory.
type LockedError struct {
	Dir string
	Pid int // of the other process, 0 if it did not say
}

// Error names the directory and the process.
func (e *LockedError) Error() string {
	if e.Pid == 0 {
		return fmt.Sprintf("state directory %s: in use by another agent", e.Dir)
	}
	return fmt.Sprintf("state directory %s: in use by another agent (pid %d)", e.Dir, e.Pid)
}

// Hint says what a person can do.
func (e *LockedError) Hint() string {
	return "stop that one, or give this one its own --state-dir, --run-dir and --instance"
}

// Lock takes the state directory without reading it, for who works on the containers where no agent runs: closing gives
// it up. It fails with *LockedError if another process has it.
func Lock(dir string) (io.Closer, error) { return lock(dir) }

// afterDeath is how long the lock of a process that was killed may outlive it: a child that it had just made has it too, until
// that executes something else.
const afterDeath = 2 * time.Second

// lock takes dir/agent.lock with flock(2), which the kernel gives up when the process ends, however it ends.
func lock(dir string) (*os.File, error) {
	failpoint.Here("lock: not taken")
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	var pid int
	for end := time.Now().Add(afterDeath); ; time.Sleep(10 * time.Millisecond) { // no event tells of a lock that is free
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		text, _ := io.ReadAll(io.NewSectionReader(f, 0, 32))
		pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		if pid != 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) && time.Now().Before(end) {
			continue
		}
		break
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = f.Close()
		return nil, &LockedError{Dir: dir, Pid: pid}
	case err != nil:
		_ = f.Close()
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	failpoint.Here("lock: taken, without a name")
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	failpoint.Here("lock: taken")
	return f, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}
