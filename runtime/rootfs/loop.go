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

// mountImage mounts the ext4 in image, which is mounted nowhere, on target. The loop device goes by itself with the last
// mount, and with this process where it dies in between.
func mountImage(image, target string) error {
	dev, err := newLoop(image)
	if err != nil {
		return err
	}
	defer func() { _ = dev.Close() }()
	return mountLoop(dev, image, target)
}

// mountImageAgain is mountImage for an image that may be mounted: both mounts are of one file system then.
func mountImageAgain(image, target string) error {
	dev, err := findLoop(image)
	if err != nil {
		return err
	}
	if dev == nil {
		return mountImage(image, target)
	}
	defer func() { _ = dev.Close() }()
	return mountLoop(dev, image, target)
}

func mountLoop(dev *os.File, image, target string) error {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	// noinit_itable: what is not yet used of the inodes is zeros already, as the whole of a new image is.
	failpoint.Here("loop: not mounted")
	err := unix.Mount(dev.Name(), target, "ext4", unix.MS_NOSUID|unix.MS_NODEV, "noinit_itable")
	if err != nil {
		return &fs.PathError{Op: "mount ext4 of " + image + " on", Path: target, Err: err}
	}
	failpoint.Here("loop: mounted")
	return nil
}

const loopControl = "/dev/loop-control"

// newLoop makes a loop device of image. It is gone once neither this file nor a mount has it open.
func newLoop(image string) (*os.File, error) {
	backing, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = backing.Close() }()
	control, err := openLoopControl()
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	failpoint.Here("loop: no device")
	config := unix.LoopConfig{
		Fd: uint32(backing.Fd()), Size: blockSize,
		// Direct I/O, where image's file system can do it: its pages are not kept in memory twice.
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO},
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], image)
	const tries = 1000 // each time somebody else was faster
	for range tries {
		var n int
		if n, err = unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		var dev *os.File
		if dev, err = os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0); err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(dev.Fd()), &config); err == nil {
			failpoint.Here("loop: a device")
			return dev, nil
		}
		_ = dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	return nil, fmt.Errorf("make a loop device of %s: %w", image, err)
}

func openLoopControl() (*os.File, error) {
	control, err := os.OpenFile(loopControl, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &runtime.Error{
			Op: "make a loop device", Err: err, Reason: runtime.ReasonIncompatible, Permanent: true,
			Hint: "load the module with `modprobe loop`, and name it in /etc/modules-load.d to have it after a reboot",
		}
	}
	return control, err
}

// findLoop returns the loop device that image has already; nil where it has none. It stays as long as the file is open.
func findLoop(image string) (*os.File, error) {
	image, err := filepath.EvalSymlinks(image) // as the kernel names it
	if err != nil {
		return nil, err
	}
	var want unix.Stat_t
	if err = unix.Stat(image, &want); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: image, Err: err}
	}
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		backing, err := os.ReadFile(name)
		if err != nil || strings.TrimSuffix(string(backing), "\n") != image {
			continue // gone meanwhile, or another's
		}
		dev, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(filepath.Dir(name))), os.O_RDONLY, 0)
		if errors.Is(err, unix.ENXIO) {
			continue
		}
		if err != nil {
			return nil, err
		}
		// Asked again now that it cannot go any more.
		info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
		if err == nil && info.Device == want.Dev && info.Inode == want.Ino {
			return dev, nil
		}
		_ = dev.Close()
	}
	return nil, nil
}
