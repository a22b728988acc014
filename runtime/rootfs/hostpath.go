package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// allowed resolves every link of path and says whether what it leads to lies below one of the directories allowed.
// What is allowed is compared after links too: a link below an allowed directory lets nothing else in.
func allowed(op, path string, prefixes []string, flag string) (resolved string, err error) {
	if !filepath.IsAbs(path) {
		return "", permanent(op, runtime.ReasonNotAllowed, fmt.Errorf("%s: not an absolute path", path), "")
	}
	refused := func(path string) error {
		return permanent(op, runtime.ReasonNotAllowed, fmt.Errorf("%s is not below what this server allows", path),
			fmt.Sprintf("start the agent with %s %s", flag, path))
	}
	// Asked before the disk is: whether a path exists that is not allowed is nobody's business.
	path = filepath.Clean(path)
	if !below(path, prefixes) {
		return "", refused(path)
	}
	resolved, err = filepath.EvalSymlinks(path)
	if err != nil {
		return "", &runtime.Error{Op: op, Err: err, Hint: "make " + path + " on this server"}
	}
	real := make([]string, 0, len(prefixes))
	for _, prefix := range prefixes {
		if r, err := filepath.EvalSymlinks(prefix); err == nil {
			real = append(real, r)
		}
	}
	if !below(resolved, real) {
		return "", refused(resolved)
	}
	return resolved, nil
}

func below(path string, prefixes []string) bool {
	for _, prefix := range prefixes {
		prefix = filepath.Clean(prefix)
		if path == prefix || prefix == "/" || strings.HasPrefix(path, prefix+"/") {
			return true
		}
	}
	return false
}

// checkHostPath says whether a host path could be mounted.
func (s *Store) checkHostPath(m runtime.Mount) error {
	fd, _, err := s.openHostPath(m)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// pin opens a path that has no links, and fails if one has taken the place of a directory since it was resolved.
// (openat2, Linux 5.6.)
func pin(resolved string) (fd int, err error) {
	fd, err = unix.Openat2(unix.AT_FDCWD, resolved, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: resolved, Err: err}
	}
	return fd, nil
}

// openHostPath pins what a host path means now. Whoever can write to a directory on the way could make it mean something
// else later (CVE-2021-25741), so from here on only the descriptor is used.
func (s *Store) openHostPath(m runtime.Mount) (fd int, isDir bool, err error) {
	op := "mount host path " + m.HostPath + " on " + m.Path
	resolved, err := allowed(op, m.HostPath, s.opts.AllowHostPath, "--allow-host-path")
	if err != nil {
		return -1, false, err
	}
	if resolved == "/" {
		return -1, false, permanent(op, runtime.ReasonNotAllowed, errors.New("the server's whole root file system"), "mount the directories that are needed")
	}
	for _, own := range []string{s.opts.StateDir, s.opts.RunDir} {
		if r, linkErr := filepath.EvalSymlinks(own); linkErr == nil {
			own = r
		}
		if below(resolved, []string{own}) || below(own, []string{resolved}) {
			return -1, false, permanent(op, runtime.ReasonNotAllowed,
				fmt.Errorf("it would show the agent's own directory %s", own), "mount a directory beside it")
		}
	}
	if fd, err = pin(resolved); err != nil {
		return -1, false, &runtime.Error{Op: op, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, false, &runtime.Error{Op: op, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK, unix.S_IFCHR:
		_ = unix.Close(fd)
		return -1, false, permanent(op, runtime.ReasonNotAllowed, errors.New("a device"), "")
	}
	return fd, st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// stageHostPath clones the mount that a host path is in, with what is mounted below, and attaches it at stage, where no
// container can reach it, with the ids mapped. The clone is private: unmounting it later never unmounts anything of the
// server's.
func (s *Store) stageHostPath(stage string, m runtime.Mount, ids *mapper) (source string, err error) {
	fd, isDir, err := s.openHostPath(m)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	failpoint.Here("host path: not staged")
	if err = os.MkdirAll(filepath.Dir(stage), 0o700); err != nil {
		return "", err
	}
	if isDir {
		err = os.Mkdir(stage, 0o700)
	} else {
		err = writeNew(stage, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	failpoint.Here("host path: a place to attach it")
	if err := cloneMount(fd, m.HostPath, stage, m.ReadOnly, ids); err != nil {
		return "", &runtime.Error{Op: "mount host path " + m.HostPath + " on " + m.Path, Err: err}
	}
	return stage, nil
}

// cloneMount attaches a copy of what fd is, which is called name, on target. It needs Linux 5.12 (mount_setattr) to make a
// whole tree of mounts private and read-only in one step.
func cloneMount(fd int, name, target string, readOnly bool, ids *mapper) error {
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer func() { _ = unix.Close(tree) }()
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	if err := ids.apply(tree, name, unix.AT_RECURSIVE); err != nil {
		return err
	}
	failpoint.Here("host path: cloned")
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	failpoint.Here("host path: attached")
	return nil
}
