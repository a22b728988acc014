package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// Options say where a Store keeps its things and which of the server's files containers may have.
type Options struct {
	StateDir, RunDir string // absolute
	// AllowHostPath and AllowSecretPath are the directories below which host paths and secrets may be. Empty: nowhere.
	AllowHostPath, AllowSecretPath []string
	// AllowDevice are devices, or directories of devices, that containers may use. Empty: none.
	AllowDevice []string
}

// Store makes root file systems. Its methods may be called concurrently, for different containers; calls for the same
// container are the caller's to serialise.
type Store struct {
	opts    Options
	mu      sync.Mutex // memory
	volumes sync.Mutex
	counted sync.Map // counted by runtime.ID
}

// Open returns a Store. It makes and mounts nothing.
func Open(o Options) (*Store, error) {
	for _, dir := range []string{o.StateDir, o.RunDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("directory %q: not an absolute path", dir)
		}
	}
	o.StateDir, o.RunDir = filepath.Clean(o.StateDir), filepath.Clean(o.RunDir)
	return &Store{opts: o}, nil
}

// Bundle is the directory in memory of a container, its own and root's alone: what its runnable config.json and secrets are
// kept in while it is set up. It exists from Setup to Teardown.
func (s *Store) Bundle(id runtime.ID) string { return filepath.Join(s.memoryDir(), string(id)) }

// Path is where the root file system of a container is mounted.
func (s *Store) Path(id runtime.ID) string { return filepath.Join(s.Bundle(id), "rootfs") }

func (s *Store) snapshot(id runtime.ID) string {
	return filepath.Join(s.opts.StateDir, "snapshots", string(id))
}

func (s *Store) memoryDir() string { return filepath.Join(s.opts.RunDir, "containers") }

var errBadID = errors.New("not a container's id")

// checkID keeps a path that is made of an id inside its directory.
func checkID(id runtime.ID) error {
	if id == "" || strings.ContainsAny(string(id), "/\x00") || id[0] == '.' {
		return fmt.Errorf("%q: %w", id, errBadID)
	}
	return nil
}

// mountMemory makes sure that containers/ in the run directory is a file system in memory of our own: secrets live
// there, and what the run directory is on may be a disk, or may be swapped to one.
func (s *Store) mountMemory() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.memoryDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return err
	}
	// Another process may be about to do the same: the second one must see the mount of the first.
	lock, err := lockDir(s.opts.RunDir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	if mounted, err = isMountPoint(dir); err != nil || mounted {
		return err
	}
	failpoint.Here("root: nothing in memory mounted")
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	// Everybody may pass, to what they know the name of, and each Bundle is its container's alone: process 1 goes there with
	// its own user ids.
	err = unix.Mount("reconciler", dir, "tmpfs", flags, "mode=0711,noswap")
	if errors.Is(err, unix.EINVAL) { // before Linux 6.4 a tmpfs is swapped, a ramfs never
		err = unix.Mount("reconciler", dir, "ramfs", flags, "mode=0711")
	}
	if err != nil {
		return fmt.Errorf("mount a file system in memory on %s: %w", dir, err)
	}
	failpoint.Here("root: memory mounted")
	return nil
}

// lockDir keeps other processes away that do the same, until the file is closed.
func lockDir(dir string) (*os.File, error) {
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return lock, nil
}

// isMountPoint is isMountRoot, and false of what is not there. Before Linux 5.8 it compares the devices of dir and its
// parent, which is enough for a tmpfs.
func isMountPoint(dir string) (bool, error) {
	mounted, err := isMountRoot(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		return mounted, err
	}
	var own, parent unix.Stat_t
	if err = errors.Join(unix.Lstat(dir, &own), unix.Stat(filepath.Dir(dir), &parent)); err != nil {
		return false, fmt.Errorf("compare %s with where it is: %w", dir, err)
	}
	return own.Dev != parent.Dev, nil
}

// isMountRoot asks the kernel whether path is the root of the mount that it is in. Before Linux 5.8 the error wraps
// errors.ErrUnsupported.
func isMountRoot(path string) (bool, error) {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &stx); err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if stx.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, &fs.PathError{Op: "statx", Path: path, Err: errors.ErrUnsupported}
	}
	return stx.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
