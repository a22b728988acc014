package dns

import (
	"io/fs"
	"os"
	"sync"
	"syscall"
)

// file is something read from a file, again when that was replaced. To look costs one system call.
type file[T any] struct {
	path  string
	parse func([]byte) (T, error)

	mu    sync.Mutex
	was   identity
	value T
	err   error
}

// identity changes whenever a file is replaced or written.
type identity struct {
	device, inode uint64
	size, changed int64
}

// get returns what is in the file now. An error comes with what was there last, if there ever was something.
func (f *file[T]) get() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if err != nil {
		f.was = identity{}
		return f.value, err
	}
	if now := identify(info); now != f.was || f.was == (identity{}) {
		f.was = now
		f.read()
	}
	return f.value, f.err
}

func (f *file[T]) read() {
	data, err := os.ReadFile(f.path)
	if err == nil {
		var value T
		if value, err = f.parse(data); err == nil {
			f.value = value
		}
	}
	f.err = err
}

func identify(info fs.FileInfo) identity {
	id := identity{size: info.Size(), changed: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id.device, id.inode = st.Dev, st.Ino
		id.changed = st.Ctim.Nano()
	}
	return id
}
