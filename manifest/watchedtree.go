package manifest

import (
	"io"
	"io/fs"
)

// watchedTree keeps the first error of a tree that says nothing of the commit, and counts how often it was asked.
type watchedTree struct {
	tree       fs.FS
	unreadable func(error) bool
	err        error
	asked      int
}

func (w *watchedTree) watch(err error) error {
	if err != nil && w.err == nil && w.unreadable != nil && w.unreadable(err) {
		w.err = err
	}
	return err
}

// Open implements fs.FS.
func (w *watchedTree) Open(name string) (fs.File, error) {
	w.asked++
	f, err := w.tree.Open(name)
	if w.watch(err) != nil {
		return nil, err
	}
	return &watchedFile{File: f, watch: w.watch}, nil
}

// ReadDir implements fs.ReadDirFS.
func (w *watchedTree) ReadDir(name string) ([]fs.DirEntry, error) {
	w.asked++
	entries, err := fs.ReadDir(w.tree, name)
	return entries, w.watch(err)
}

// Stat implements fs.StatFS.
func (w *watchedTree) Stat(name string) (fs.FileInfo, error) {
	w.asked++
	info, err := fs.Stat(w.tree, name)
	return info, w.watch(err)
}

// watchedFile is a file whose contents are read.
type watchedFile struct {
	fs.File

	watch func(error) error
}

// Read implements fs.File.
func (f *watchedFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if err == io.EOF { //nolint:errorlint // the contract of io.Reader: never wrapped
		return n, err
	}
	return n, f.watch(err)
}
