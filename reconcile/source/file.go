package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"reconciler/manifest"
)

// fileInfo describes a node. The size is filled in where somebody asks for it: in a pack it may cost an inflation.
type fileInfo struct {
	fsys *treeFS
	node node
	name string
	len  int64
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return i.len }
func (i *fileInfo) Mode() fs.FileMode  { return i.node.mode }
func (i *fileInfo) ModTime() time.Time { return i.fsys.tree.modTime() }
func (i *fileInfo) IsDir() bool        { return i.node.mode.IsDir() }
func (i *fileInfo) Sys() any           { return nil }

func (f *treeFS) info(n node, name string) *fileInfo { return &fileInfo{fsys: f, node: n, name: name} }

func (f *treeFS) sized(op, name string, n node) (fs.FileInfo, error) {
	info := f.info(n, path.Base(name))
	size, err := f.tree.size(n)
	if err != nil {
		return nil, pathError(op, name, err)
	}
	info.len = size
	return info, nil
}

var _ manifest.Keyed = (*dirEntry)(nil)

type dirEntry struct {
	fsys *treeFS
	node node
	dir  string
}

func (e *dirEntry) Name() string      { return e.node.name }
func (e *dirEntry) IsDir() bool       { return e.node.mode.IsDir() }
func (e *dirEntry) Type() fs.FileMode { return e.node.mode.Type() }
func (e *dirEntry) String() string    { return fs.FormatDirEntry(e) }

// ContentKey implements manifest.Keyed.
func (e *dirEntry) ContentKey() string {
	if !e.node.mode.IsRegular() {
		return ""
	}
	return e.fsys.tree.key(e.node)
}

func (e *dirEntry) Info() (fs.FileInfo, error) {
	return e.fsys.sized("stat", path.Join(e.dir, e.node.name), e.node)
}

// openFile is a regular file; its content is opened at the first Read.
type openFile struct {
	info   *fileInfo
	name   string
	r      io.ReadCloser
	closed bool
}

func (f *openFile) Stat() (fs.FileInfo, error) {
	if f.closed {
		return nil, pathError("stat", f.name, fs.ErrClosed)
	}
	return f.info.fsys.sized("stat", f.name, f.info.node)
}

func (f *openFile) Read(p []byte) (int, error) {
	if f.closed {
		return 0, pathError("read", f.name, fs.ErrClosed)
	}
	if f.r == nil {
		r, err := f.info.fsys.tree.open(f.info.node)
		if err != nil {
			return 0, pathError("read", f.name, err)
		}
		f.r = r
	}
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = pathError("read", f.name, err)
	}
	return n, err
}

func (f *openFile) Close() error {
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	if f.r == nil {
		return nil
	}
	return f.r.Close()
}

// openDir is a directory that is being listed.
type openDir struct {
	fsys       *treeFS
	info       *fileInfo
	name, real string
	offset     int
	closed     bool
}

func (d *openDir) Stat() (fs.FileInfo, error) {
	if d.closed {
		return nil, pathError("stat", d.name, fs.ErrClosed)
	}
	return d.info, nil
}

func (d *openDir) Read([]byte) (int, error) {
	return 0, pathError("read", d.name, fmt.Errorf("is a directory: %w", fs.ErrInvalid))
}

func (d *openDir) Close() error {
	if d.closed {
		return pathError("close", d.name, fs.ErrClosed)
	}
	d.closed = true
	return nil
}

func (d *openDir) ReadDir(count int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, pathError("readdir", d.name, fs.ErrClosed)
	}
	nodes, err := d.fsys.entries(d.info.node, d.real)
	if err != nil {
		return nil, pathError("readdir", d.name, err)
	}
	nodes = nodes[d.offset:]
	if count > 0 {
		if len(nodes) == 0 {
			return nil, io.EOF
		}
		nodes = nodes[:min(count, len(nodes))]
	}
	d.offset += len(nodes)
	out := make([]fs.DirEntry, len(nodes))
	for i, n := range nodes {
		out[i] = &dirEntry{fsys: d.fsys, node: n, dir: d.name}
	}
	return out, nil
}
