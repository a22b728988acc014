package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// locked runs fn while holding the store's lock, shared or exclusive. It is held for moments only, never over a
// network, and must not be nested: flock knows no owner but the open file.
func (s *Store) locked(how int, fn func() error) error {
	if err := s.make(); err != nil {
		return err
	}
	return s.lockedAsIs(how, fn)
}

// lockedAsIs needs the directories to be there.
func (s *Store) lockedAsIs(how int, fn func() error) error {
	f, err := os.OpenFile(filepath.Join(s.images, "lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := flock(f, how); err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return fn()
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// temp is a directory of work in progress. The lock on it says that whoever made it lives.
type temp struct {
	dir string
	f   *os.File
}

// newTemp makes a directory for work in progress below parent, which must be images/tmp or layers/tmp.
func (s *Store) newTemp(parent string) (*temp, error) {
	t := &temp{}
	// Under the lock, so that no sweep sees it before it is locked itself.
	err := s.locked(unix.LOCK_SH, func() error {
		failpoint.Here("image: no directory for the work")
		dir, err := os.MkdirTemp(parent, "")
		if err != nil {
			return err
		}
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		failpoint.Here("image: a directory for the work")
		t.dir, t.f = dir, f
		return flock(f, unix.LOCK_EX)
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// remove ends the work, whatever of it was not renamed away.
func (t *temp) remove() {
	failpoint.Here("image: what is left of the work there")
	_ = os.RemoveAll(t.dir)
	failpoint.Here("image: what is left of the work gone")
	_ = t.f.Close()
}

// removeFree removes a file unless somebody has it locked, and keeps it locked until it is gone: whoever waits for it
// sees that it is.
func removeFree(path string) (removed bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil
	}
	failpoint.Here("image: a broken off download there")
	err = os.Remove(path)
	failpoint.Here("image: a broken off download gone")
	return err == nil, err
}

// sweep removes the temporary files, directories and leases of processes that are dead.
func (s *Store) sweep() error {
	return s.lockedAsIs(unix.LOCK_EX, func() error {
		failpoint.Here("image: not swept")
		// The index and what is beside it are written under the lock only, blobs are not.
		if err := atomicfile.Sweep(s.images, 0); err != nil {
			return err
		}
		if err := atomicfile.Sweep(filepath.Join(s.images, "blobs/sha256"), atomicfile.Abandoned); err != nil {
			return err
		}
		layout := filepath.Join(s.images, "oci-layout")
		if _, err := os.Stat(layout); errors.Is(err, fs.ErrNotExist) {
			if err := atomicfile.WriteDurable(layout, []byte(layoutFile), 0o600); err != nil {
				return err
			}
		}
		for _, dir := range []string{filepath.Join(s.images, "tmp"), filepath.Join(s.layers, "tmp"), filepath.Join(s.images, "leases")} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if p := filepath.Join(dir, e.Name()); !held(p) {
					if err := os.RemoveAll(p); err != nil {
						return err
					}
					failpoint.Here("image: a leftover swept")
				}
			}
		}
		return s.sweepAside()
	})
}

// sweepAside removes the layers that were replaced in another boot: nothing runs on them any more.
func (s *Store) sweepAside() error {
	entries, err := os.ReadDir(s.layers)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if boot, ok := strings.CutPrefix(e.Name(), asidePrefix); ok && boot != s.boot {
			failpoint.Here("image: aside since another boot")
			if err := os.RemoveAll(filepath.Join(s.layers, e.Name())); err != nil {
				return err
			}
		}
	}
	failpoint.Here("image: nothing aside since another boot")
	return nil
}

// held reports whether a living process, this one included, has the file locked.
func held(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer func() { _ = f.Close() }()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// lease keeps everything that was made or touched since it began from being swept as unreferenced.
type lease struct {
	f     *os.File
	start time.Time

	mu   sync.Mutex
	read map[v1.Hash]bool
}

// verified notes that all of a blob's content has gone through its digest on the way into the store, by the lease's holder.
func (l *lease) verified(h v1.Hash) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.read == nil {
		l.read = map[v1.Hash]bool{}
	}
	l.read[h] = true
}

// hasVerified reports whether verified was called for a blob.
func (l *lease) hasVerified(h v1.Hash) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.read[h]
}

func (s *Store) newLease() (*lease, error) {
	l := &lease{}
	err := s.locked(unix.LOCK_SH, func() error {
		failpoint.Here("image: no lease")
		f, err := os.CreateTemp(filepath.Join(s.images, "leases"), "")
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			_ = f.Close()
			return err
		}
		failpoint.Here("image: a lease not locked")
		l.f, l.start = f, info.ModTime()
		return flock(f, unix.LOCK_EX)
	})
	if err != nil {
		return nil, fmt.Errorf("begin to use the image store: %w", err)
	}
	return l, nil
}

func (l *lease) end() {
	failpoint.Here("image: a lease there")
	_ = os.Remove(l.f.Name())
	failpoint.Here("image: a lease gone")
	_ = l.f.Close()
}

// touch makes path as young as the lease or younger. It returns fs.ErrNotExist where there is nothing.
func (s *Store) touch(l *lease, path string) error {
	return s.locked(unix.LOCK_SH, func() error {
		now := time.Now()
		if now.Before(l.start) { // the clock was set back
			now = l.start
		}
		return os.Chtimes(path, time.Time{}, now)
	})
}

// oldestLease returns when the oldest living lease began. Call it with the lock held.
func (s *Store) oldestLease() (time.Time, bool, error) {
	dir := filepath.Join(s.images, "leases")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return time.Time{}, false, err
	}
	var oldest time.Time
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !held(filepath.Join(dir, e.Name())) {
			continue
		}
		if oldest.IsZero() || info.ModTime().Before(oldest) {
			oldest = info.ModTime()
		}
	}
	return oldest, !oldest.IsZero(), nil
}
