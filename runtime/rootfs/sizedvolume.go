package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// volumeImage is where the content of a volume with a size is.
func volumeImage(dir string) string { return filepath.Join(dir, "disk.img") }

// mayResize is the rule of sizes: a volume keeps having one or none, shrinks to no less than what it holds, and keeps its
// size as long as somebody mounts it.
func mayResize(dir string, rec volumeRecord, namespace string, v runtime.Volume) error {
	refuse := func(why, hint string) error {
		return permanent("mount volume "+namespace+"/"+v.Name, runtime.ReasonVolumeConflict, errors.New(why), hint)
	}
	const another = "leave it as it was, use another name, or take it away with its content: `reconciler volume rm`"
	switch {
	case rec.Size == v.Size:
		return nil
	case rec.Size == 0:
		return refuse("it was made without a size", another)
	case v.Size == 0:
		return refuse("it was made with a size of "+mib(rec.Size), another)
	case v.Size > rec.Size:
		return nil
	}
	used, err := volumeUse(volumeImage(dir))
	if err != nil {
		return &runtime.Error{Op: "look into volume " + namespace + "/" + v.Name, Err: err}
	}
	if used > v.Size {
		return refuse(fmt.Sprintf("it holds %s, more than the new size of %s", mib(used), mib(v.Size)), "make it larger, or take something out of it first")
	}
	return nil
}

// volumeUse returns how many bytes of the file system in image are in use. What is mounted knows it better than the image.
func volumeUse(image string) (int64, error) {
	dev, err := findLoop(image)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // not made yet
	}
	if err != nil {
		return 0, err
	}
	if dev != nil {
		defer func() { _ = dev.Close() }()
		var target string
		if target, err = mountOf(dev); err != nil {
			return 0, err
		}
		if target != "" {
			var st unix.Statfs_t
			if err = unix.Statfs(target, &st); err != nil {
				return 0, &fs.PathError{Op: "statfs", Path: target, Err: err}
			}
			return int64(st.Blocks-st.Bfree) * st.Bsize, nil //nolint:gosec // no disk has 2^63 blocks
		}
	}
	now, err := readExt4(image)
	return now.used, err
}

// mounted says which process of this server sees the file system on a block device mounted, and where; empty: none.
func mounted(dev *os.File) (string, error) {
	device, err := deviceNumbers(dev)
	if err != nil {
		return "", err
	}
	tables, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		return "", err
	}
	for _, path := range tables {
		table, _ := os.ReadFile(path) // nothing where that process has ended
		for line := range strings.Lines(string(table)) {
			// Fields 3 and 5: the device, and where it is mounted; see proc_pid_mountinfo(5).
			if fields := strings.Fields(line); len(fields) > 4 && fields[2] == device {
				pid := filepath.Base(filepath.Dir(path))
				name, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "comm"))
				return fmt.Sprintf("process %s (%s) on %s", pid, strings.TrimSpace(string(name)), fields[4]), nil
			}
		}
	}
	return "", nil
}

// deviceNumbers returns those of a block device as mountinfo has them, major:minor.
func deviceNumbers(dev *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dev.Fd()), &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: dev.Name(), Err: err}
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

// mountOf returns a path where the file system on a block device is mounted; empty: nowhere in sight.
func mountOf(dev *os.File) (string, error) {
	device, err := deviceNumbers(dev)
	if err != nil {
		return "", err
	}
	infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		same := fmt.Sprintf("%d:%d", m.Major, m.Minor) == device
		return !same, same
	})
	if err != nil || len(infos) == 0 {
		return "", err
	}
	return infos[0].Mountpoint, nil
}

// mountVolume mounts the file system of the volume in dir on target, made or resized to size bytes before where it is not
// yet. Nobody else may do the same meanwhile: two loop devices on one image would ruin it.
func mountVolume(ctx context.Context, dir, target string, rec volumeRecord, size int64) error {
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	image := volumeImage(dir)
	_, err = os.Lstat(image)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		failpoint.Here("sized volume: no image")
		err = makeImage(ctx, image, size, journalFor(size))
	case err == nil && rec.Size != size:
		failpoint.Here("sized volume: of the size before")
		err = resizeImage(ctx, lock, image, size)
	}
	if err == nil && rec.Size != size {
		failpoint.Here("sized volume: resized, not recorded")
		rec.Size = size
		err = writeVolume(dir, rec)
	}
	if err == nil {
		failpoint.Here("sized volume: not mounted")
		err = mountImageAgain(image, target)
	}
	if err != nil {
		return err
	}
	failpoint.Here("sized volume: mounted")
	return settleExt4(target)
}

// journalFor returns the blocks of the journal for a volume of size bytes, which is not taken from size: what mke2fs takes
// for file systems of that size, and never less than the kernel accepts.
func journalFor(size int64) int64 {
	const least, usual = 4 << 20 / blockSize, 32 << 20 / blockSize
	if size < 1<<30 {
		return least
	}
	return usual
}

// letGo is how long the kernel may take to take the mounts of a container that has ended away, which writes what is not
// yet written: seconds on a slow disk.
const letGo = 30 * time.Second

// resizeImage gives the file system in an image that is not mounted another size.
func resizeImage(ctx context.Context, lock *os.File, image string, size int64) error {
	dev, err := findLoop(image)
	holder := ""
	// No event says that the loop device has gone with the last of those mounts.
	for end := time.Now().Add(letGo); err == nil && dev != nil && holder == "" && time.Now().Before(end) && ctx.Err() == nil; {
		if holder, err = mounted(dev); err == nil && holder == "" {
			time.Sleep(20 * time.Millisecond)
		}
		if err = errors.Join(err, dev.Close()); err == nil {
			dev, err = findLoop(image)
		}
	}
	if err != nil {
		return err
	}
	if dev != nil {
		why := "the kernel has not let go of it since it was unmounted"
		if holder != "" {
			why = "another container has it mounted with another size: " + holder
		}
		return errors.Join(&runtime.Error{
			Op: "give it a size of " + mib(size), Err: errors.New(why),
			Reason: runtime.ReasonVolumeConflict, Hint: "give it the same size in every manifest that mounts it",
		}, dev.Close())
	}
	now, err := readExt4(image)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	blocks := now.shape.blocks(size)
	failpoint.Here("resize: not begun")
	if err = reserve(f, blocks*blockSize); err != nil {
		return err
	}
	failpoint.Here("resize: room reserved")
	if err = resizeExt4(ctx, lock, image, blocks); err != nil {
		return err
	}
	failpoint.Here("resize: the file system, not the file")
	err = f.Truncate(blocks * blockSize)
	failpoint.Here("resize: done")
	return err
}
