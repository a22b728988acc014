package source

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

const (
	maxDepth   = 64      // directories below each other
	maxLinks   = 40      // symbolic links on the way to one file, as in Linux
	maxLink    = 4096    // bytes of a symbolic link's target
	maxEntries = 250_000 // files and directories that one FS lists: a few objects can describe billions
)

// node is one entry of a tree.
type node struct {
	name      string
	mode      fs.FileMode
	submodule bool
	hash      plumbing.Hash // in a Git tree
	file      *snapshotFile // in a directory's snapshot
}

// tree is what an FS is made of; gitTree and snapshot are trees.
type tree interface {
	root() node
	list(dir node) ([]node, error) // sorted by name
	open(file node) (io.ReadCloser, error)
	link(symlink node) (string, error)
	size(n node) (int64, error)
	key(file node) string // of its content: equal only where that is
	modTime() time.Time
}

// treeFS presents a tree as a file system. It follows symbolic links that stay inside.
type treeFS struct {
	tree tree

	mu     sync.Mutex
	listed map[string]bool // directories counted in entries
	count  int
}

var (
	_ fs.ReadDirFS  = (*treeFS)(nil)
	_ fs.ReadFileFS = (*treeFS)(nil)
	_ fs.StatFS     = (*treeFS)(nil)
	_ fs.ReadLinkFS = (*treeFS)(nil)
)

func newFS(t tree) *treeFS { return &treeFS{tree: t, listed: make(map[string]bool)} }

// walk finds name; with follow, a symbolic link at its end is resolved too. It also returns the path without links.
func (f *treeFS) walk(op, name string, follow bool) (node, string, error) {
	bad := func(err error) (node, string, error) {
		return node{}, "", pathError(op, name, err)
	}
	if !fs.ValidPath(name) {
		return bad(fs.ErrInvalid)
	}
	todo := split(name)
	way := []node{f.tree.root()}
	links := 0
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == ".." { // only from a link
			if len(way) == 1 {
				return bad(fmt.Errorf("%w: it leaves the tree", ErrSymlink))
			}
			way = way[:len(way)-1]
			continue
		}
		dir := way[len(way)-1]
		switch {
		case dir.submodule:
			return bad(&missing{fmt.Errorf("%w (%q)", ErrSubmodule, joined(way))})
		case !dir.mode.IsDir():
			return bad(fs.ErrNotExist)
		case len(way) > maxDepth:
			return bad(fmt.Errorf("more than %d directories deep: %w", maxDepth, ErrTooLarge))
		}
		entries, err := f.tree.list(dir)
		if err != nil {
			return bad(err)
		}
		i, ok := slices.BinarySearchFunc(entries, part, func(n node, s string) int { return strings.Compare(n.name, s) })
		if !ok {
			return bad(fs.ErrNotExist)
		}
		next := entries[i]
		if next.mode&fs.ModeSymlink == 0 || len(todo) == 0 && !follow {
			way = append(way, next)
			continue
		}
		if links++; links > maxLinks {
			return bad(fmt.Errorf("%w: more than %d links on the way", ErrSymlink, maxLinks))
		}
		target, err := f.tree.link(next)
		switch {
		case err != nil:
			return bad(err)
		case target == "" || strings.HasPrefix(target, "/"):
			return bad(fmt.Errorf("%w: it leaves the tree, to %q", ErrSymlink, target))
		}
		todo = append(split(target), todo...)
	}
	return way[len(way)-1], joined(way), nil
}

// missing is an error that is fs.ErrNotExist too.
type missing struct{ error }

func (m *missing) Unwrap() []error { return []error{m.error, fs.ErrNotExist} }

// pathError is an fs.PathError whose text is fit for printing, whatever is in the path.
func pathError(op, name string, err error) error {
	if quoted := strconv.Quote(name); quoted[1:len(quoted)-1] != name {
		name = quoted
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

func split(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

func joined(way []node) string {
	names := make([]string, 0, len(way))
	for _, n := range way {
		names = append(names, n.name)
	}
	return path.Join(names...)
}

// entries lists a directory, within the budget.
func (f *treeFS) entries(n node, real string) ([]node, error) {
	nodes, err := f.tree.list(n)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.listed[real] {
		f.listed[real] = true
		f.count += 1 + len(nodes)
	}
	if f.count > maxEntries {
		return nil, fmt.Errorf("more than %d files and directories: %w", maxEntries, ErrTooLarge)
	}
	return nodes, nil
}

// Open opens a file or directory.
func (f *treeFS) Open(name string) (fs.File, error) {
	n, real, err := f.walk("open", name, true)
	if err != nil {
		return nil, err
	}
	info := f.info(n, path.Base(name))
	if n.mode.IsDir() {
		return &openDir{fsys: f, info: info, name: name, real: real}, nil
	}
	return &openFile{info: info, name: name}, nil
}

// Stat returns what is at name, with symbolic links followed.
func (f *treeFS) Stat(name string) (fs.FileInfo, error) { return f.stat("stat", name, true) }

// Lstat returns what is at name; a symbolic link at its end is not followed.
func (f *treeFS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, false) }

func (f *treeFS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	n, _, err := f.walk(op, name, follow)
	if err != nil {
		return nil, err
	}
	return f.sized(op, name, n)
}

// ReadLink returns the target of a symbolic link.
func (f *treeFS) ReadLink(name string) (string, error) {
	n, _, err := f.walk("readlink", name, false)
	if err != nil {
		return "", err
	}
	if n.mode&fs.ModeSymlink == 0 {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	target, err := f.tree.link(n)
	if err != nil {
		return "", pathError("readlink", name, err)
	}
	return target, nil
}

// ReadDir lists a directory, sorted by name.
func (f *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, real, err := f.walk("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !n.mode.IsDir() {
		return nil, pathError("readdir", name, fmt.Errorf("not a directory: %w", fs.ErrInvalid))
	}
	nodes, err := f.entries(n, real)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	out, all := make([]fs.DirEntry, len(nodes)), make([]dirEntry, len(nodes))
	for i, e := range nodes {
		all[i] = dirEntry{fsys: f, node: e, dir: name}
		out[i] = &all[i]
	}
	return out, nil
}

// ReadFile returns the content of a file of at most MaxReadFile bytes, a copy that the caller may change.
func (f *treeFS) ReadFile(name string) ([]byte, error) {
	n, _, err := f.walk("readfile", name, true)
	if err != nil {
		return nil, err
	}
	bad := func(err error) ([]byte, error) {
		return nil, pathError("readfile", name, err)
	}
	if n.mode.IsDir() {
		return bad(fmt.Errorf("is a directory: %w", fs.ErrInvalid))
	}
	size, err := f.tree.size(n)
	switch {
	case err != nil:
		return bad(err)
	case size > MaxReadFile:
		return bad(fmt.Errorf("%d bytes, more than %d: %w", size, MaxReadFile, ErrTooLarge))
	}
	r, err := f.tree.open(n)
	if err != nil {
		return bad(err)
	}
	defer func() { _ = r.Close() }()
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return bad(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what the end of the stream has to say
		return bad(err)
	}
	return b, nil
}
