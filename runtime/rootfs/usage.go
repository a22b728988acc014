package rootfs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// counted is what was counted of a writable layer, and until when it is not counted again.
type counted struct {
	bytes int64
	until time.Time
}

// A writable layer without a size of its own is counted file by file. That is not done again for a while, which is longer the
// longer it takes: it costs a hundredth of a processor at most.
const (
	countPause = 10 * time.Second
	countShare = 100
)

// Usage returns how many bytes on the disk the writable layer of a container has, which is set up. One of a limited size is
// asked for it, and so exact; of others the files are counted, at most every 10 seconds, without what was deleted but is
// still open.
func (s *Store) Usage(ctx context.Context, id runtime.ID, limited bool) (int64, error) {
	if err := checkID(id); err != nil {
		return 0, err
	}
	if limited {
		var st unix.Statfs_t
		if err := unix.Statfs(s.Path(id), &st); err != nil { // an overlay answers for its upper directory
			return 0, &fs.PathError{Op: "statfs", Path: s.Path(id), Err: err}
		}
		return int64(st.Blocks-st.Bfree) * st.Bsize, nil //nolint:gosec // no disk has 2^63 blocks
	}
	if known, ok := s.counted.Load(id); ok {
		if u, ok := known.(counted); ok && time.Now().Before(u.until) {
			return u.bytes, nil
		}
	}
	begun := time.Now()
	bytes, err := count(ctx, filepath.Join(s.snapshot(id), "upper"))
	if err != nil {
		return 0, err
	}
	s.counted.Store(id, counted{bytes: bytes, until: time.Now().Add(max(countPause, countShare*time.Since(begun)))})
	return bytes, nil
}

// count adds up the blocks of the files below dir, each once, however many names it has. The container goes on changing
// them: what is gone meanwhile counts nothing, and no link leads out of dir.
func count(ctx context.Context, dir string) (bytes int64, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer func() { _ = root.Close() }()
	seen := map[uint64]bool{}
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[st.Ino] {
			return nil
		}
		if st.Nlink > 1 && !d.IsDir() {
			seen[st.Ino] = true
		}
		bytes += st.Blocks * 512
		return nil
	})
	return bytes, err
}
