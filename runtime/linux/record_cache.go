package linux

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// recordCache keeps what was read of each container as long as its directory is the same, and of each of its files as long
// as that is.
type recordCache struct {
	entries              sync.Map // *cachedEntry by runtime.ID
	records, runs, turns cacheOfFiles
}

type cachedEntry struct {
	at    stamp
	entry *entry
}

// stamp is what changes of a directory with each file in it that is made, replaced or removed.
type stamp struct {
	ino          uint64
	mtime, ctime unix.Timespec
}

// stampOf returns the stamp of a container's directory. The error wraps runtime.ErrNotFound where there is none.
func stampOf(dir string) (stamp, error) {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return stamp{}, runtime.ErrNotFound
	}
	if err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return stamp{ino: st.Ino, mtime: st.Mtim, ctime: st.Ctim}, nil
}

// settling is how long a directory is not taken to be the same by its times: two changes may be closer to each other than
// the file system can tell.
const settling = 2 * time.Second

// entry returns what was read of a container when its directory had this stamp; nil: nothing. Our files are replaced, never
// written to, so that none has changed since.
func (c *recordCache) entry(id runtime.ID, at stamp) *entry {
	old, _ := c.entries.Load(id)
	if kept, ok := old.(*cachedEntry); ok && kept.at == at {
		return kept.entry
	}
	return nil
}

// keep notes what was read of a container after its directory had this stamp.
func (c *recordCache) keep(id runtime.ID, at stamp, e *entry) {
	if time.Since(time.Unix(at.mtime.Unix())) > settling {
		c.entries.Store(id, &cachedEntry{at, e})
	}
}

func (c *recordCache) forget(id runtime.ID, dir string) {
	c.entries.Delete(id)
	c.records.Delete(filepath.Join(dir, specFile))
	c.runs.Delete(filepath.Join(dir, runFile))
	c.turns.Delete(filepath.Join(dir, turnFile))
}

// cacheOfFiles maps a path to what is cached of it.
type cacheOfFiles struct{ sync.Map }

type cached struct {
	ino   uint64
	mtime unix.Timespec
	size  int64
	value any
}

// readCached decodes a JSON file of our own, or returns what it was when it was last read. A file is replaced, never
// written to, so the same inode, size and time mean the same content.
func readCached[T any](cache *cacheOfFiles, path string, version func(T) int) (T, error) {
	var zero, value T
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return zero, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if old, ok := cache.Load(path); ok {
		c, ok := old.(cached)
		if v, same := c.value.(T); ok && same && c.ino == st.Ino && c.mtime == st.Mtim && c.size == st.Size {
			return v, nil
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return zero, err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return zero, &damagedError{path, err}
	}
	if v := version(value); v != recordVersion {
		return zero, fmt.Errorf("%s: version %d is not known to this release", path, v)
	}
	// If the file was replaced between the two, the next reader sees that its inode is another.
	cache.Store(path, cached{ino: st.Ino, mtime: st.Mtim, size: st.Size, value: value})
	return value, nil
}
