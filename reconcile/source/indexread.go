package source

import (
	"bufio"
	"path/filepath"

	"github.com/go-git/go-billy/v5"
)

// buffering is a file system on which go-git reads the indexes of packs by the page: it asks for their first kilobyte four
// bytes at a time, of each pack after each fetch.
type buffering struct{ billy.Filesystem }

// Open implements billy.Basic.
func (b buffering) Open(name string) (billy.File, error) {
	f, err := b.Filesystem.Open(name)
	if err != nil || filepath.Ext(name) != ".idx" {
		return f, err
	}
	return bufferedFile{f, bufio.NewReader(f)}, nil
}

// bufferedFile is read from its beginning to its end.
type bufferedFile struct {
	billy.File

	ahead *bufio.Reader
}

// Read implements io.Reader.
func (f bufferedFile) Read(p []byte) (int, error) { return f.ahead.Read(p) }
