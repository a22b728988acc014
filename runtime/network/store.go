package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

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

	changing sync.Mutex // in this process, before the lock that other processes see
	encoder  encoder    // under changing

	reading sync.Mutex
	// last is what was read or written last, and lastFile the file that it was in. Everybody replaces the file whole, so that
	// another file is there once something else is recorded. Nobody changes last: who may change what it gets gets a copy.
	last     state
	lastFile identity
}

// identity tells one content of a file from others.
type identity struct {
	ino          uint64
	size         int64
	mtime, ctime unix.Timespec
}

func identify(st *unix.Stat_t) identity {
	return identity{ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

func (s *store) path() string { return filepath.Join(s.dir, "leases.json") }

// change runs fn on the state under the instance's lock and keeps what fn made of it, where fn says so. It must not be
// nested.
func (s *store) change(fn func(st *state) (changed bool, err error)) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return locked(filepath.Join(s.dir, "lock"), func() error {
		recorded, err := s.read()
		if err != nil {
			return err
		}
		st := recorded
		st.Leases, st.Resting = slices.Clone(recorded.Leases), slices.Clone(recorded.Resting)
		changed, err := fn(&st)
		if err == nil && changed {
			err = s.write(st)
		}
		if err != nil {
			s.undo(&recorded)
		}
		return err
	})
}

// changeIfMade is change where there may be something to change: looking for what is left makes nothing.
func (s *store) changeIfMade(fn func(st *state) (changed bool, err error)) error {
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return s.change(fn)
}

// read returns the state as it is, which the caller must not change: a file that is replaced whole needs no lock to be read.
func (s *store) read() (state, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	var file unix.Stat_t
	if err := unix.Stat(s.path(), &file); err == nil && s.lastFile == identify(&file) {
		return s.last, nil
	}
	f, err := os.Open(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return state{Version: stateVersion}, nil
	}
	if err != nil {
		return state{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(f)
	if err != nil {
		return state{}, err
	}
	st, err := parse(s.path(), data)
	if err == nil && unix.Fstat(int(f.Fd()), &file) == nil {
		s.last, s.lastFile = st, identify(&file)
	}
	return st, err
}

func parse(path string, data []byte) (st state, err error) {
	if err = json.Unmarshal(data, &st); err != nil {
		return state{}, &runtime.Error{
			Op: "read " + path, Err: err, Permanent: true,
			Hint: "move it away and run `reconciler down`: addresses are then given out anew",
		}
	}
	if st.Version != stateVersion {
		return state{}, &runtime.Error{
			Op: "read " + path, Err: fmt.Errorf("version %d is not known to this release", st.Version), Permanent: true,
			Hint: "use the release that wrote it or a later one",
		}
	}
	return st, nil
}

// write records st, which nobody changes any more.
func (s *store) write(st state) error {
	data, err := s.encoder.encode(st)
	if err != nil {
		return err
	}
	failpoint.Here("leases: not written")
	if err := atomicfile.WriteDurable(s.path(), data, 0o600); err != nil {
		return err
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	var file unix.Stat_t
	if unix.Stat(s.path(), &file) == nil { // under the lock: it is the one just written
		s.last, s.lastFile = st, identify(&file)
	}
	return nil
}

// remove forgets everything. The lock stays: another process may just wait for it.
func (s *store) remove() error {
	failpoint.Here("leases: there, all else gone")
	if err := os.Remove(s.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("leases: gone")
	return nil
}

// locked runs fn while holding the lock at path, which no other process and no other goroutine holds then: flock knows no
// owner but the open file.
func locked(path string, fn func() error) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	for {
		err := unix.Flock(fd, unix.LOCK_EX)
		if err == nil {
			return fn()
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", path, err)
		}
	}
}
