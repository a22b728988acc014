package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
	"reconciler/runtime/idrange"
)

// Device is a device node that a container may use.
type Device struct {
	Path         string // inside
	Source       string // the node to bind there; empty for those of HostDevices
	Type         string // b or c, as in the rules of a cgroup
	Major, Minor int64
	Mode         fs.FileMode // permissions of the node
	UID, GID     uint32
	Permissions  string // letters of rwm
}

// CheckDevices says whether the devices of a container could be given to it now.
func (s *Store) CheckDevices(devices []runtime.Device) error {
	for _, d := range devices {
		if _, err := s.findDevice(d); err != nil {
			return err
		}
	}
	return nil
}

// findDevice looks what a device is now. What its path means later does not matter: nodes are made anew.
func (s *Store) findDevice(d runtime.Device) (Device, error) {
	op := "use device " + d.Path
	if filepath.Clean(d.Path) != d.Path || !strings.HasPrefix(d.Path, "/dev/") {
		return Device{}, permanent(op, runtime.ReasonNotAllowed, errors.New("not a clean path below /dev"), "")
	}
	resolved, err := allowed(op, d.Path, s.opts.AllowDevice, "--allow-device")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = &runtime.Error{Op: op, Err: errors.New("this server has no such device"), Hint: "plug it in, or load its module"}
		}
		return Device{}, err
	}
	fd, err := pin(resolved)
	if err != nil {
		return Device{}, &runtime.Error{Op: op, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err != nil {
		return Device{}, &runtime.Error{Op: op, Err: err}
	}
	found, ok := deviceOf(d.Path, &st)
	if !ok {
		return Device{}, permanent(op, runtime.ReasonNotAllowed, errors.New("neither a character nor a block device"), "mount files with hostPath")
	}
	found.Permissions = d.Permissions
	return found, nil
}

func deviceOf(path string, st *unix.Stat_t) (Device, bool) {
	d := Device{
		Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Mode: fs.FileMode(st.Mode & 0o777), UID: st.Uid, GID: st.Gid, Permissions: "rwm",
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	}
	return d, d.Type != ""
}

// makeDevices makes the nodes of a container's devices on a file system of their own: that of the bundle has no devices, and
// a node of the server's belongs to root there, who is nobody inside a container with user ids of its own.
func (s *Store) makeDevices(root *Root, devices []runtime.Device, ids *mapper) error {
	if len(devices) == 0 {
		return nil
	}
	dir := filepath.Join(root.Bundle, "devices")
	failpoint.Here("devices: no directory")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	options := fmt.Sprintf("mode=0711,size=64k,nr_inodes=%d", len(devices)+16)
	if err := unix.Mount("reconciler", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount a file system for devices: %w", err)
	}
	failpoint.Here("devices: a file system for them")
	for i, d := range devices {
		node, err := s.findDevice(d)
		if err != nil {
			return err
		}
		node.Source = filepath.Join(dir, fmt.Sprint(i))
		if err = makeNode(node, ids); err != nil {
			return &runtime.Error{Op: "use device " + d.Path, Err: err}
		}
		root.Devices = append(root.Devices, node)
	}
	return nil
}

func makeNode(d Device, ids *mapper) error {
	kind := uint32(unix.S_IFCHR)
	if d.Type == "b" {
		kind = unix.S_IFBLK
	}
	failpoint.Here("devices: no node")
	if err := unix.Mknod(d.Source, kind|0o600, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
		return &fs.PathError{Op: "mknod", Path: d.Source, Err: err}
	}
	failpoint.Here("devices: a node of root")
	if err := os.Lchown(d.Source, ids.shown(d.UID), ids.shown(d.GID)); err != nil {
		return err
	}
	return os.Chmod(d.Source, d.Mode) // not by mknod: the umask counts there
}

// shown is who an id of this server is to be, for a file that shows the same id inside. An id that is none inside is root.
func (m *mapper) shown(id uint32) int {
	switch {
	case m == nil:
		return int(id)
	case id >= idrange.Size:
		return m.first
	}
	return m.first + int(id)
}

// HostDevices are all the devices of this server, for a container that nothing is kept from: those below /dev but for
// terminals and what every container has of its own.
func HostDevices() ([]Device, error) {
	var found []Device
	err := filepath.WalkDir("/dev", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return nil // unplugged meanwhile, or somebody's mount
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{"/dev/pts", "/dev/shm", "/dev/mqueue"}, path):
			return fs.SkipDir
		case path == "/dev/console" || path == "/dev/ptmx":
			return nil
		}
		var st unix.Stat_t
		if err = unix.Lstat(path, &st); err != nil {
			return nil //nolint:nilerr // unplugged meanwhile
		}
		if d, ok := deviceOf(path, &st); ok {
			found = append(found, d)
		}
		return nil
	})
	return found, err
}
