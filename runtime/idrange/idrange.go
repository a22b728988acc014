package idrange

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// Dir is where the leases of this server are. Nobody but root may write above it either: who made the directory first would say
// who holds what. An instance's run directory can have no such name.
const Dir = "/run/reconciler.ids"

// Size is how many ids a range has: what is 0 to 65535 inside.
const Size = 1 << 16

// The ranges: between what systemd gives to containers (up to 0x6fffffff) and what it keeps for files of other systems
// (from 0x7ffe0000 on), see https://systemd.io/UIDS-GIDS. What adduser and subuid(5) give out stays far below.
const (
	lowest = 0x7000_0000
	count  = (0x7ffd_0000 - lowest) / Size
)

// ErrNoneLeft says that every range of this server is leased.
var ErrNoneLeft = errors.New("every range of user ids of this server is in use")

// Leases are those in one directory. Its methods may be called concurrently, by several processes too.
type Leases struct{ dir string }

// Open returns the leases in dir, such as Dir. It makes nothing.
func Open(dir string) Leases { return Leases{dir: dir} }

// Lease returns the first id of a range that is holder's alone until Release, or until the directory that holder is the
// absolute path of is gone. Before is what an earlier Lease returned, or 0: it is returned again if it is still holder's.
func (l Leases) Lease(holder string, before uint32) (first uint32, err error) {
	if err = os.MkdirAll(l.dir, 0o700); err != nil {
		return 0, fmt.Errorf("lease user ids: %w", err)
	}
	unlock, err := l.lock()
	if err != nil {
		return 0, fmt.Errorf("lease user ids: %w", err)
	}
	defer unlock()
	if l.holder(before) == holder {
		return before, nil
	}
	// Each begins at a place of its own, so that few look at more than one, however many leases there are.
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(holder))
	start := hash.Sum32() % count
	for i := range uint32(count) {
		first = lowest + (start+i)%count*Size
		taken, err := l.take(first, holder)
		if err != nil {
			return 0, fmt.Errorf("lease user ids: %w", err)
		}
		if taken {
			return first, nil
		}
	}
	return 0, ErrNoneLeft
}

// Release gives back the range that begins with first, if it is holder's.
func (l Leases) Release(holder string, first uint32) error {
	unlock, err := l.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		defer unlock()
		failpoint.Here("user ids: not given back")
		if l.holder(first) == holder {
			err = os.Remove(l.path(first))
		}
		failpoint.Here("user ids: given back")
	}
	if err != nil {
		return fmt.Errorf("give back user ids: %w", err)
	}
	return nil
}

// ReleaseAll gives back every range that is holder's, also one of which only this directory knows.
func (l Leases) ReleaseAll(holder string) error {
	all, err := l.Holders()
	errs := []error{err}
	for first, other := range all {
		if other == holder {
			errs = append(errs, l.Release(holder, first))
		}
	}
	return errors.Join(errs...)
}

// Holders returns who holds a range, by its first id, also those that are gone.
func (l Leases) Holders() (map[uint32]string, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list leases of user ids: %w", err)
	}
	holders := map[uint32]string{}
	for _, e := range entries {
		if first, err := strconv.ParseUint(e.Name(), 10, 32); err == nil {
			holders[uint32(first)] = l.holder(uint32(first))
		}
	}
	return holders, nil
}

// take makes a range holder's, unless it is somebody's who is still there.
func (l Leases) take(first uint32, holder string) (bool, error) {
	switch other := l.holder(first); other {
	case holder:
		return true, nil
	case "":
	default:
		if _, err := os.Lstat(other); !errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		failpoint.Here("user ids: of one who is gone") // apart: of a state directory that is gone
		if err := os.Remove(l.path(first)); err != nil {
			return false, err
		}
	}
	failpoint.Here("user ids: not leased")
	if err := os.Symlink(holder, l.path(first)); err != nil {
		return false, err
	}
	failpoint.Here("user ids: leased")
	return true, nil
}

// holder returns who holds a range; empty: nobody.
func (l Leases) holder(first uint32) string {
	to, err := os.Readlink(l.path(first))
	if err != nil {
		return ""
	}
	return to
}

func (l Leases) path(first uint32) string {
	return filepath.Join(l.dir, strconv.FormatUint(uint64(first), 10))
}

func (l Leases) lock() (unlock func(), err error) {
	d, err := os.Open(l.dir)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: l.dir, Err: err}, d.Close())
	}
	return func() { _ = d.Close() }, nil
}
