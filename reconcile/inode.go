package reconcile

import (
	"io/fs"
	"syscall"
)

// inode tells two files of the same size and time apart, as when one was renamed over the other.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
