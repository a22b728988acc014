package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// mountDisk mounts a fresh file system of at most size bytes for the writable layer, and returns a directory in it. Detach
// takes the mount out of sight, which an overlay on it does not need: it has its own, and with it the file system, the
// loop device and the room of the image go.
func (s *Store) mountDisk(ctx context.Context, id runtime.ID, size int64) (dir string, detach func(), err error) {
	op := "make a disk of " + mib(size) + " for the writable layer"
	image, target := filepath.Join(s.snapshot(id), "disk.img"), filepath.Join(s.Bundle(id), "disk")
	if err = makeImage(ctx, image, size, 0); err == nil {
		failpoint.Here("disk: made, not mounted")
		err = mountImage(image, target)
	}
	if err == nil {
		failpoint.Here("disk: mounted, not settled")
		err = settleExt4(target)
	}
	if err != nil {
		return "", nil, diskError(op, err, "lower resources.limits.disk")
	}
	return target, func() { detachMount(target) }, nil
}

func detachMount(target string) {
	failpoint.Here("disk: in sight")
	_ = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	failpoint.Here("disk: out of sight")
}

// diskError keeps what err knows about a cure, if it knows one.
func diskError(op string, err error, instead string) error {
	hint, reason, forGood := runtime.HintOf(err), "", runtime.IsPermanent(err)
	if known, ok := errors.AsType[*runtime.Error](err); ok {
		reason = known.Reason
	}
	if errors.Is(err, unix.ENOSPC) {
		hint = "free space (`reconciler image prune` takes away images that nothing needs), or " + instead
	}
	return &runtime.Error{Op: op, Err: err, Hint: hint, Reason: reason, Permanent: forGood}
}

// makeImage makes a file with a file system for size bytes. It is whole once it has its name.
func makeImage(ctx context.Context, image string, size, journal int64) error {
	shape := newExt4(size, journal)
	half := image + ".new"
	failpoint.Here("disk image: none")
	if err := os.RemoveAll(half); err != nil {
		return err
	}
	f, err := os.OpenFile(half, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	failpoint.Here("disk image: empty")
	if err = reserve(f, shape.blocks(size)*blockSize); err == nil {
		failpoint.Here("disk image: reserved, not formatted")
		err = shape.format(ctx, f, size)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		failpoint.Here("disk image: whole beside")
		err = os.Rename(half, image)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(half))
	}
	failpoint.Here("disk image: in place")
	return nil
}

// reserve makes f size bytes long with all of it on the disk: what is written to it later needs no more room, however full
// the disk is by then. It fails where there is not enough, and before it takes the last of it from others.
func reserve(f *os.File, size int64) error {
	var file unix.Stat_t
	var disk unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &file), unix.Fstatfs(int(f.Fd()), &disk)); err != nil {
		return fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	failpoint.Here("room: not reserved")
	need, free := size-file.Blocks*512, int64(disk.Bavail)*disk.Bsize //nolint:gosec // no disk has 2^63 blocks
	err := error(unix.ENOSPC)
	if need <= free {
		err = unix.EINTR
		for errors.Is(err, unix.EINTR) {
			err = unix.Fallocate(int(f.Fd()), 0, 0, size)
		}
	}
	failpoint.Here("room: reserved")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%s are needed and %s are free on the disk of %s: %w", mib(need), mib(free), filepath.Dir(f.Name()), err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return &runtime.Error{
			Op: "reserve " + mib(size), Err: fmt.Errorf("%s cannot do that: %w", fileSystemOf(f.Name()), err),
			Reason: runtime.ReasonIncompatible, Permanent: true, Hint: "put --state-dir on ext4 or xfs, or leave the limit of the disk out",
		}
	}
	return &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
}

// settleExt4 makes a file system that was just mounted as large inside as it was asked for: it takes away lost+found, and
// halves what the kernel keeps back for its own structures, which is 2 % else. That is kept by nothing but the mount.
func settleExt4(target string) error {
	failpoint.Here("ext4: lost+found there")
	err := unix.Rmdir(filepath.Join(target, "lost+found"))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove lost+found: %w", err)
	}
	failpoint.Here("ext4: lost+found gone")
	var st unix.Statfs_t
	var at unix.Stat_t
	if err = errors.Join(unix.Statfs(target, &st), unix.Stat(target, &at)); err != nil {
		return err
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(at.Dev), unix.Minor(at.Dev)))
	if err != nil {
		return err
	}
	kept := min(4096, st.Blocks/100) // 4096 is the most that the kernel keeps by itself
	name := filepath.Join("/sys/fs/ext4", filepath.Base(device), "reserved_clusters")
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(strconv.AppendUint(nil, kept, 10))
	return errors.Join(err, f.Close())
}

// CheckDisk says whether this server could ever set size bytes aside and has what is needed to keep the limit. Whether they
// are free is known at the start alone: a container that is replaced gives its own back before.
func (s *Store) CheckDisk(size int64) error {
	if err := checkTools(); err != nil {
		return err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(s.opts.StateDir, &disk); err != nil {
		return &fs.PathError{Op: "statfs", Path: s.opts.StateDir, Err: err}
	}
	if all := int64(disk.Blocks) * disk.Bsize; size > all { //nolint:gosec // no disk has 2^63 blocks
		return permanent("set "+mib(size)+" aside", runtime.ReasonIncompatible,
			fmt.Errorf("the disk of %s has %s in all", s.opts.StateDir, mib(all)), "ask for less, or put --state-dir on a larger one")
	}
	return nil
}

func checkTools() error {
	for _, name := range []string{"mkfs.ext4", "e2fsck", "resize2fs"} {
		if _, err := tool(name); err != nil {
			return err
		}
	}
	control, err := openLoopControl()
	if err != nil {
		return err
	}
	return control.Close()
}

// TryDisk makes a small limited disk in a temporary directory below dir and takes it away again. It needs root.
func TryDisk(ctx context.Context, dir string) error {
	if err := checkTools(); err != nil {
		return err
	}
	return inScratch(dir, func(tmp string) error {
		image, target := filepath.Join(tmp, "disk.img"), filepath.Join(tmp, "disk")
		if err := makeImage(ctx, image, 4<<20, 0); err != nil {
			return err
		}
		if err := mountImage(image, target); err != nil {
			return err
		}
		return settleExt4(target)
	})
}

// mib shows a size to people.
func mib(n int64) string { return strconv.FormatFloat(float64(n)/(1<<20), 'f', -1, 64) + " MiB" }
