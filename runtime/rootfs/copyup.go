package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	securejoin "github.com/cyphar/filepath-securejoin"
	archive "github.com/moby/go-archive"
	"golang.org/x/sys/unix"

	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// fillVolume makes the content of a new volume: what the image has at the path where it is mounted, with its owner and
// mode, as Docker does for named volumes. An image that runs as an ordinary user has made that directory its own, and
// could not write to an empty one of root's. Where the image has nothing there, the volume is empty, root's, 0755.
//
// The content is copied beside data and renamed, so that data is whole once it is there. Nobody else writes to the root
// file system meanwhile: its container has not started.
func fillVolume(root, target, data string) error {
	tmp := data + ".new"
	failpoint.Here("volume content: none")
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	failpoint.Here("volume content: an empty directory")
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	source, err := securejoin.SecureJoin(root, target)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(source)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return os.Rename(tmp, data)
	case err != nil:
		return err
	}
	failpoint.Here("volume content: nothing copied")
	if err := copyAttributes(source, tmp); err != nil {
		return err
	}
	if len(entries) > 0 {
		if err := archive.NewDefaultArchiver().CopyWithTar(source, tmp); err != nil {
			return err
		}
		if err := syncFS(tmp); err != nil {
			return err
		}
	}
	failpoint.Here("volume content: whole beside")
	if err := os.Rename(tmp, data); err != nil {
		return err
	}
	failpoint.Here("volume content: in place")
	return atomicfile.SyncDir(filepath.Dir(data))
}

// syncFS returns once everything of dir's file system has reached the disk.
func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
