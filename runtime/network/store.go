package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// machineLock is held while an instance chooses its subnet and makes its bridge, so that no two choose the same.
const machineLock = "/run/reconciler-network.lock"

// store is leases.json and the lock on it.
type store struct {
	dir string
	// undo is told what is recorded where a change failed, which may have come further in the kernel.
	undo func(recorded *state)
}

func (s store) path() string { return filepath.Join(s.dir, "leases.json") }

// change runs fn on the state under the instance's lock and keeps what fn made of it, where fn says so. It must not be
// nested: flock knows no owner but the open file.
func (s store) change(fn func(st *state) (changed bool, err error)) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return locked(filepath.Join(s.dir, "lock"), func() error {
		st, err := s.read()
		if err != nil {
			return err
		}
		changed, err := fn(&st)
		if err == nil && changed {
			err = s.write(st)
		}
		if err != nil {
			if recorded, readErr := s.read(); readErr == nil {
				s.undo(&recorded)
			}
		}
		return err
	})
}

// changeIfMade is change where there may be something to change: looking for what is left makes nothing.
func (s store) changeIfMade(fn func(st *state) (changed bool, err error)) error {
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return s.change(fn)
}

// read returns the state as it is: a file that is replaced whole needs no lock to be read.
func (s store) read() (state, error) {
	data, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return state{Version: stateVersion}, nil
	}
	if err != nil {
		return state{}, err
	}
	var st state
	if err := json.Unmarshal(data, &st); err != nil {
		return state{}, &runtime.Error{
			Op: "read " + s.path(), Err: err, Permanent: true,
			Hint: "move it away and run `reconciler down`: addresses are then given out anew",
		}
	}
	if st.Version != stateVersion {
		return state{}, &runtime.Error{
			Op: "read " + s.path(), Err: fmt.Errorf("version %d is not known to this release", st.Version), Permanent: true,
			Hint: "use the release that wrote it or a later one",
		}
	}
	return st, nil
}

func (s store) write(st state) error {
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	failpoint.Here("leases: not written")
	return atomicfile.WriteDurable(s.path(), append(data, '\n'), 0o600)
}

// remove forgets everything. The lock stays: another process may just wait for it.
func (s store) remove() error {
	failpoint.Here("leases: there, all else gone")
	if err := os.Remove(s.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("leases: gone")
	return nil
}

// locked runs fn while holding the lock at path, which no other process and no other goroutine holds then.
func locked(path string, fn func() error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return fn()
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
