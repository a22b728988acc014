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

// NotMappableError says that files cannot be shown with user ids of a container's own.
type NotMappableError struct {
	What string // such as the path of the files
	Err  error
}

// Error returns "what: why".
func (e *NotMappableError) Error() string { return e.What + ": " + e.Err.Error() }

// Unwrap returns why.
func (e *NotMappableError) Unwrap() error { return e.Err }

// mapper shows files of this server with a container's own ids: what is root's on disk is root's inside, and first's on
// the server. A nil one leaves the ids as they are.
type mapper struct {
	first  int
	userns *os.File // a user namespace with that mapping, for mount_setattr(2)
}

// newMapper returns a mapper for the range of ids that begins with first; nil for 0.
func newMapper(first uint32) (*mapper, error) {
	if first == 0 {
		return nil, nil
	}
	userns, err := newUserNamespace(int(first))
	if err != nil {
		return nil, &NotMappableError{What: "make a user namespace", Err: err}
	}
	return &mapper{first: int(first), userns: userns}, nil
}

func (m *mapper) close() {
	if m != nil {
		_ = m.userns.Close()
	}
}

// apply maps the ids of a tree of mounts that is not attached yet.
func (m *mapper) apply(tree int, path string, flags uint) error {
	if m == nil {
		return nil
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(m.userns.Fd())}
	if err := unix.MountSetattr(tree, "", flags|unix.AT_EMPTY_PATH, &attr); err != nil {
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%s cannot show them so (%w)", fileSystemOf(path), err)
		}
		return &NotMappableError{What: path, Err: err}
	}
	return nil
}

// fileSystemOf names what path is on, for a message.
func fileSystemOf(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "its file system"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
		unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs",
		unix.F2FS_SUPER_MAGIC: "f2fs", unix.FUSE_SUPER_MAGIC: "fuse",
	}
	if name := names[st.Type]; name != "" {
		return "the " + name + " of this kernel"
	}
	return fmt.Sprintf("its file system (type %#x)", st.Type)
}

// layers attaches a copy at dir of the directory that all layers are in, with the ids mapped, and returns the layers as
// they are found there. Detach takes the copy away again, which an overlay does not need once it is mounted: it has its own.
func (m *mapper) layers(layers []string, dir string) (mapped []string, detach func(), err error) {
	if m == nil {
		return layers, func() {}, nil
	}
	common := filepath.Dir(layers[0])
	for _, layer := range layers {
		for common != "/" && !strings.HasPrefix(layer, common+"/") {
			common = filepath.Dir(common)
		}
	}
	if err = m.attach(common, dir); err != nil {
		return nil, nil, err
	}
	for _, layer := range layers {
		mapped = append(mapped, filepath.Join(dir, strings.TrimPrefix(layer, common)))
	}
	return mapped, func() { detachMount(dir) }, nil
}

// attach makes the directory at and attaches a copy of path there, with the ids mapped.
func (m *mapper) attach(path, at string) error {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	failpoint.Here("mapped: not attached")
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(tree) }()
	if err = m.apply(tree, path, 0); err != nil {
		return err
	}
	if err = unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: at, Err: err}
	}
	failpoint.Here("mapped: attached")
	return nil
}

// try says whether the files of path could be shown with the ids mapped.
func (m *mapper) try(path string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(tree) }()
	return m.apply(tree, path, unix.AT_RECURSIVE)
}

// give makes files that were just written as root's those of root inside.
func (m *mapper) give(path string) error {
	if m == nil {
		return nil
	}
	return give(path, m.first)
}

// give makes a tree of files the owner's.
func give(path string, owner int) error {
	return filepath.WalkDir(path, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, owner, owner)
	})
}

var errClosed = errors.New("only root may pass, and who has user ids of its own is not root there")

// openWay lets everybody pass through the run directory to what they know the name of: process 1 goes to its root file
// system with its own ids. What is not to be seen there has a mode of its own. It fails where a directory above is closed.
func (s *Store) openWay() error {
	st, err := os.Stat(s.opts.RunDir)
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o001 == 0 {
		if err := os.Chmod(s.opts.RunDir, st.Mode().Perm()|0o011); err != nil {
			return err
		}
	}
	return passable(filepath.Dir(s.opts.RunDir))
}

// passable says whether everybody may come to dir.
func passable(dir string) error {
	for at := dir; at != "/"; at = filepath.Dir(at) {
		if st, err := os.Stat(at); err == nil && st.Mode().Perm()&0o001 == 0 {
			return &NotMappableError{What: at, Err: errClosed}
		}
	}
	return nil
}

// Mappable says whether a container with these mounts could have user ids of its own here; a *NotMappableError says what is
// in the way. Nothing changes.
func (s *Store) Mappable(mounts []runtime.Mount) error {
	if err := passable(filepath.Dir(s.opts.RunDir)); err != nil {
		return err
	}
	m, err := newMapper(tryID)
	if err != nil {
		return err
	}
	defer m.close()
	paths := []string{s.opts.StateDir} // layers and volumes
	for _, mount := range mounts {
		if mount.HostPath != "" {
			paths = append(paths, mount.HostPath)
		}
	}
	for _, path := range paths {
		if err := m.try(path); err != nil {
			return err
		}
	}
	return nil
}

// tryID is the first of a range that nobody is ever given: it only shows whether mapping works.
const tryID = 1 << 30
