package image

import (
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"
)

// kept is what was made of small files of the store, by their paths, so that a container's start need not read, check
// and parse them again. Callers must not change the values.
//
// A value is used while its file has the inode, size and times that it had before it was read. That is safe beside other
// processes: they replace files by renaming a new inode into place, and whoever writes into one changes its ctime, which
// nobody can set. An inode number that is given out again, or a second write, within one tick of the kernel's clock could
// look the same: so nothing is kept of a file that changed less than settled before it was looked at.
type kept[T any] struct {
	mu     sync.Mutex
	values map[string]keptValue[T]
}

type keptValue[T any] struct {
	of    stamp
	value T
}

// stamp is what tells one state of a file from another.
type stamp struct {
	dev, ino, size, modified, changed int64
}

const (
	// settled is ten ticks of the coarsest clock that Linux has (100 Hz).
	settled = 100 * time.Millisecond
	// maxKept bounds the files that are remembered. More are forgotten all at once: that is rare, and no order needs to be kept.
	maxKept = 1024
)

// get returns what read makes of the file at path, or what it made of it before. An error of read is not kept.
func (k *kept[T]) get(path string, read func() (T, error)) (T, error) {
	var zero T
	info, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			k.forget(path)
		}
		return zero, err
	}
	st := statOf(info)
	if st == nil {
		return read()
	}
	//nolint:unconvert // some of these are narrower on other architectures
	now := stamp{int64(st.Dev), int64(st.Ino), st.Size, info.ModTime().UnixNano(), time.Unix(int64(st.Ctim.Sec), int64(st.Ctim.Nsec)).UnixNano()}
	k.mu.Lock()
	have, ok := k.values[path]
	k.mu.Unlock()
	if ok && have.of == now {
		return have.value, nil
	}
	old := time.Since(time.Unix(0, now.changed)) > settled
	// The stamp is older than what is read: a change in between is seen the next time.
	value, err := read()
	if err != nil || !old {
		k.forget(path)
		return value, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.values == nil || len(k.values) >= maxKept {
		k.values = map[string]keptValue[T]{}
	}
	k.values[path] = keptValue[T]{now, value}
	return value, nil
}

func (k *kept[T]) forget(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.values, path)
}
