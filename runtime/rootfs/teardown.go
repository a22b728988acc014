package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// Teardown takes away what Setup made for a container: its mounts, its writable layer, its secrets. Volumes stay. It does
// nothing where nothing is. Its processes must be gone.
func (s *Store) Teardown(id runtime.ID) error {
	if err := checkID(id); err != nil {
		return err
	}
	s.counted.Delete(id)
	failpoint.Here("teardown: not begun")
	if err := unmountBundle(s.Bundle(id)); err != nil {
		return err
	}
	failpoint.Here("teardown: unmounted")
	err := os.RemoveAll(s.Bundle(id))
	failpoint.Here("teardown: no bundle, the layer there")
	err = errors.Join(err, os.RemoveAll(s.snapshot(id)))
	failpoint.Here("teardown: done")
	return err
}

// IDs returns every id that something of Setup is left of.
func (s *Store) IDs() ([]runtime.ID, error) {
	var ids []runtime.ID
	for _, dir := range []string{s.memoryDir(), filepath.Join(s.opts.StateDir, "snapshots")} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if checkID(runtime.ID(e.Name())) == nil {
				ids = append(ids, runtime.ID(e.Name()))
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Close unmounts the file system in memory and takes its directory away. Every container must be torn down. It may be
// called again, and Setup may follow.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.memoryDir()
	if err := unmountBelow(dir); err != nil {
		return err
	}
	failpoint.Here("memory: unmounted")
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("memory: gone")
	return nil
}

// unmountBundle is unmountBelow for the few files of a bundle, each of which is asked whether something is mounted on it: the
// list of all mounts has those of every other container too. Mounts that are in use, or that others lie below, are left to
// unmountBelow.
func unmountBundle(bundle string) error {
	err := filepath.WalkDir(bundle, func(path string, _ fs.DirEntry, err error) error {
		if path == bundle && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for range 8 { // mounts may lie on top of each other
			mounted, err := isMountRoot(path)
			if err != nil || !mounted {
				return err
			}
			if err = unmountOnce(path); err != nil {
				return err
			}
		}
		return errKeepsComing
	})
	if err != nil {
		return unmountBelow(bundle)
	}
	return nil
}

var errKeepsComing = errors.New("mounts keep coming back")

// unmountBelow unmounts everything on dir and below, the last mounted first, and makes sure of it: whoever removes the
// directory next must not reach through a mount that stayed.
func unmountBelow(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// The kernel gives paths without links in them.
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	for range 8 { // mounts may lie on top of each other
		mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
			return i.Mountpoint != dir && !strings.HasPrefix(i.Mountpoint, dir+"/"), false
		})
		if err != nil {
			return fmt.Errorf("read mountinfo: %w", err)
		}
		if len(mounts) == 0 {
			return nil
		}
		for _, m := range slices.Backward(mounts) {
			if err := unmount(m.Mountpoint); err != nil {
				return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
			}
		}
	}
	return fmt.Errorf("unmount %s: %w", dir, errKeepsComing)
}

// unmount waits a little for a mount that is still in use: the kernel takes the mounts of a dead container's namespace
// away after its last process is gone. Then it detaches.
func unmount(path string) error {
	for deadline := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		err := unmountOnce(path)
		switch {
		case !errors.Is(err, unix.EBUSY):
			return err
		case time.Now().After(deadline):
			// no failpoint: the one before is that of the first try
			return unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
	}
}

func unmountOnce(path string) error {
	failpoint.Here("unmount: not yet")
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // gone, or not a mount any more
	}
	if err == nil {
		failpoint.Here("unmount: one mount less")
	}
	return err
}
