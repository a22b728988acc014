package source

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// gitTree is the tree of a commit, read from the object store as it is asked for.
type gitTree struct {
	store   *store
	top     plumbing.Hash
	time    time.Time
	kept    *listings   // of the source
	damaged func(error) // told of ErrCorrupt

	mu   sync.Mutex
	dirs map[plumbing.Hash][]node
}

func newGitTree(s *store, c *object.Commit, kept *listings, damaged func(error)) *gitTree {
	kept.turn(c.TreeHash)
	return &gitTree{
		store: s, top: c.TreeHash, time: c.Committer.When.UTC(), kept: kept, damaged: damaged,
		dirs: make(map[plumbing.Hash][]node),
	}
}

func (t *gitTree) root() node         { return node{name: ".", mode: fs.ModeDir | 0o755, hash: t.top} }
func (t *gitTree) modTime() time.Time { return t.time }

func (t *gitTree) check(err error) error {
	if errors.Is(err, ErrCorrupt) {
		t.damaged(err)
	}
	return err
}

func (t *gitTree) list(dir node) ([]node, error) {
	if dir.submodule {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if nodes, ok := t.dirs[dir.hash]; ok {
		return nodes, nil
	}
	nodes, ok := t.kept.find(dir.hash)
	if !ok {
		var err error
		if nodes, err = t.read(dir.hash); err != nil {
			return nil, err
		}
		t.kept.add(dir.hash, nodes)
	}
	t.dirs[dir.hash] = nodes
	return nodes, nil
}

// read lists a directory from the object store.
func (t *gitTree) read(dir plumbing.Hash) ([]node, error) {
	entries, err := t.store.tree(dir)
	if err != nil {
		return nil, t.check(err)
	}
	nodes := make([]node, 0, len(entries))
	for _, e := range entries {
		n, err := nodeOf(e)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	// Git sorts directories as if their names ended in a slash; io/fs by name.
	slices.SortFunc(nodes, func(a, b node) int { return cmp.Compare(a.name, b.name) })
	for i := 1; i < len(nodes); i++ {
		if nodes[i].name == nodes[i-1].name {
			return nil, fmt.Errorf("malformed commit: directory has two entries named %q", nodes[i].name)
		}
	}
	return nodes, nil
}

// nodeOf refuses names that git itself would never write: they would mean another path.
func nodeOf(e object.TreeEntry) (node, error) {
	if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
		return node{}, fmt.Errorf("malformed commit: directory has an entry named %q", e.Name)
	}
	n := node{name: e.Name, hash: e.Hash}
	switch e.Mode {
	case filemode.Dir:
		n.mode = fs.ModeDir | 0o755
	case filemode.Submodule:
		n.mode, n.submodule = fs.ModeDir|0o755, true
	case filemode.Symlink:
		n.mode = fs.ModeSymlink | 0o777
	case filemode.Executable:
		n.mode = 0o755
	case filemode.Regular, filemode.Deprecated:
		n.mode = 0o644
	default:
		return node{}, fmt.Errorf("malformed commit: entry %q has mode %v", e.Name, e.Mode)
	}
	return n, nil
}

func (t *gitTree) size(n node) (int64, error) {
	if n.mode.IsDir() {
		return 0, nil
	}
	size, err := t.store.size(n.hash)
	return size, t.check(err)
}

// key is the hash that go-git checks for collisions as git does.
func (t *gitTree) key(n node) string { return string(n.hash[:]) }

func (t *gitTree) open(n node) (io.ReadCloser, error) {
	size, err := t.size(n)
	if err != nil {
		return nil, err
	}
	r, err := t.store.blob(n.hash)
	if err != nil {
		return nil, t.check(err)
	}
	return &blobReader{ReadCloser: r, tree: t, hash: n.hash, left: size}, nil
}

func (t *gitTree) link(n node) (string, error) {
	r, err := t.open(n)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(io.LimitReader(r, maxLink+1))
	if err == nil && len(b) > maxLink {
		err = fmt.Errorf("target of symbolic link: %w", ErrTooLarge)
	}
	return string(b), err
}

// blobReader turns whatever goes wrong while reading into ErrCorrupt.
type blobReader struct {
	io.ReadCloser

	tree *gitTree
	hash plumbing.Hash
	left int64
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.left -= int64(n)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		err = r.tree.check(fmt.Errorf("%w: object %s: %w", ErrCorrupt, r.hash, err))
	case err != nil && r.left != 0:
		err = r.tree.check(fmt.Errorf("%w: object %s: %d bytes missing", ErrCorrupt, r.hash, r.left))
	}
	return n, err
}
