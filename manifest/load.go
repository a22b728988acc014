package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// Loader reads manifests. The zero value reads the whole tree.
type Loader struct {
	// Path is the directory below which manifests are read, slash-separated and relative to the tree's root. The tree
	// is always the whole repository: relative paths in manifests may lead outside of Path, not outside of the tree,
	// and positions are paths of the repository. Empty or ".": the root.
	Path string
	// Unreadable reports whether an error of the tree says nothing of the commit, such as one of a damaged disk. Load
	// then fails with that error and no Problem. Nil: every error is a mistake in the commit.
	Unreadable func(error) bool
	// Cache, if not nil, keeps what files came to from one Load to the next. LoadAll does not use it.
	Cache *Cache
}

// Load returns what tree asks of node. See Loader.Load.
func Load(tree fs.FS, rev Revision, node Node) (Set, error) { return Loader{}.Load(tree, rev, node) }

// LoadAll returns what tree asks of each of its nodes. See Loader.LoadAll.
func LoadAll(tree fs.FS, rev Revision, fallback Node) ([]Set, error) {
	return Loader{}.LoadAll(tree, rev, fallback)
}

// Load returns what tree asks of node. Where the repository has Node manifests, node's labels are those of the one
// with its name; else those given. But for what Unreadable speaks of, an error is a *multierror.Error of Problems, sorted by position, with everything
// that is wrong (see Problems); the Set is then of no use but for its Warnings.
func (l Loader) Load(tree fs.FS, rev Revision, node Node) (Set, error) {
	sets, err := l.load(tree, rev, l.Cache, func(known []nodeManifest) []*target {
		if len(known) == 0 {
			return []*target{{node: node, known: true}}
		}
		for _, m := range known {
			if m.node.Name == node.Name {
				return []*target{m.target()}
			}
		}
		return []*target{{node: node}}
	})
	return sets[0], err
}

// LoadAll returns what tree asks of every node that it has a Node manifest for, sorted by name, or of fallback where
// it has none. Each file is decoded once. The error is as Load's.
func (l Loader) LoadAll(tree fs.FS, rev Revision, fallback Node) ([]Set, error) {
	return l.load(tree, rev, nil, func(known []nodeManifest) []*target {
		if len(known) == 0 {
			return []*target{{node: fallback, known: true}}
		}
		var all []*target
		for _, m := range known {
			all = append(all, m.target())
		}
		slices.SortFunc(all, func(a, b *target) int { return strings.Compare(a.node.Name, b.node.Name) })
		return all
	})
}

// loading is one pass over a tree, for one node or for all.
type loading struct {
	tree     *watchedTree
	cache    *Cache
	fresh    map[string]*kept // what the files that were decoded came to, by name
	now      *kept            // of the file that is being decoded
	problems *problems
	types    typeCache
	nodes    []nodeManifest
	targets  []*target
	configs  map[Name]*config
	secrets  map[Name]*secret
	profiles map[string]profile // by file
	// contents bounds what is read besides YAML.
	contents int64
	// values is how many more may be decoded; see spend.
	values int
	// hints is how many suggestions are still looked for; see decoder.
	hints int
	// partial says that something could not be read: what is missing may stand there.
	partial bool
	// origins holds the files of the nodes of Nodes' defaults, which appear in workloads of other files.
	origins map[*yaml.Node]string
}

// nodeManifest is a Node of the repository.
type nodeManifest struct {
	node     Node
	key      string // of its file's content; see Keyed
	defaults *yaml.Node
	size     int // of the document, in values
	unknown  []Problem
}

// target is a node that a Set is made for.
type target struct {
	node     Node
	defaults *yaml.Node
	size     int // of the document of defaults, in values
	known    bool
	selected []*variant
}

func (m nodeManifest) target() *target {
	return &target{node: m.node, defaults: m.defaults, size: m.size, known: true}
}

func (l Loader) load(tree fs.FS, rev Revision, cache *Cache, choose func([]nodeManifest) []*target) ([]Set, error) {
	ld := &loading{
		tree: &watchedTree{tree: tree, unreadable: l.Unreadable}, cache: cache, fresh: make(map[string]*kept),
		problems: newProblems(), types: make(typeCache),
		configs: make(map[Name]*config), secrets: make(map[Name]*secret), profiles: make(map[string]profile),
		origins: make(map[*yaml.Node]string), values: maxValues, hints: 2 * maxProblems,
	}
	all := files(ld.tree, l.Path, cache, ld.problems)
	ld.partial = len(ld.problems.errors) > 0
	for i := range all {
		ld.nodesOf(&all[i])
	}
	ld.targets = choose(ld.nodes)
	ld.useCache(all)
	ld.values = maxValues * max(1, len(ld.targets))
	ld.checkNodes()
	ld.documents(all)
	sets := ld.sets(rev)
	if ld.tree.err != nil {
		return sets, ld.tree.err
	}
	err := ld.problems.err()
	if err == nil {
		ld.keep(all)
	}
	return sets, err
}

// documents takes in every document of the files.
func (ld *loading) documents(all []file) {
	next, stop := parseAhead(all)
	defer stop()
	count := 0
	for i := range all {
		f := &all[i]
		if f.kept != nil && count+f.kept.documents <= maxManifests && ld.replay(f) {
			count += f.kept.documents
			continue
		}
		var docs []*yaml.Node
		var err error
		switch {
		case f.early != nil:
			docs, err = f.early.docs, f.early.err
			*f.early = parsed{} // garbage once it is decoded
		case f.kept == nil:
			p := next()
			docs, err = p.docs, p.err
		default:
			ld.readAgain(f)
			docs, err = parseDocuments(f.data)
		}
		if err != nil {
			ld.skip(syntaxProblem(*f, err))
			continue
		}
		if count += len(docs); count > maxManifests {
			ld.skip(Problem{Position: Position{File: f.name}, Message: fmt.Sprintf("the repository holds more than %d manifests", maxManifests)})
			return
		}
		ld.now = &kept{key: f.key, size: len(f.data), documents: len(docs)}
		asked, values := ld.tree.asked, ld.values
		for _, doc := range docs {
			size, err := resolveAliases(doc)
			if bad, ok := errors.AsType[*nodeError](err); ok {
				ld.skip(Problem{Position: positionOf(f.name, bad.at), Message: bad.message + "; if this is not a manifest, " + ignoreHint(f.name)})
				continue
			}
			if !ld.spend(size, positionOf(f.name, doc)) {
				return
			}
			ld.document(f.name, doc, size)
		}
		if ld.now.values = values - ld.values; ld.tree.asked == asked {
			ld.fresh[f.name] = ld.now
		}
	}
}

// skip tells why something is left out.
func (ld *loading) skip(p Problem) {
	ld.partial = true
	ld.problems.add(p)
}

// spend counts values that are decoded or merged: a few lines of aliases, overrides or defaults of a Node can ask for
// any number. It reports false where there were too many.
func (ld *loading) spend(values int, at Position) bool {
	if ld.values -= values; ld.values >= 0 {
		return true
	}
	ld.skip(Problem{Position: at, Message: fmt.Sprintf(
		"up to here the manifests hold more than %d values for a node, with aliases, overrides and defaults applied", maxValues)})
	return false
}

func positionOf(file string, n *yaml.Node) Position {
	return Position{File: file, Line: n.Line, Column: n.Column}
}

func (ld *loading) document(file string, doc *yaml.Node, size int) {
	switch kind := ld.kindOf(file, doc); kind {
	case kindConfig:
		ld.config(file, doc)
	case kindSecret:
		ld.secret(file, doc)
	case kindNode:
		if !slices.ContainsFunc(ld.nodes, func(m nodeManifest) bool { return m.node.Source == positionOf(file, doc) }) {
			ld.problems.add(Problem{Position: positionOf(file, child(doc, "kind")), Field: "kind", Message: "write Node without escapes"})
		}
	case "":
		ld.partial = true
	default:
		ld.workload(file, doc, size, Kind(kind))
	}
}

// sets makes each target's Set of what was selected there.
func (ld *loading) sets(rev Revision) []Set {
	out := make([]Set, 0, len(ld.targets))
	for _, t := range ld.targets {
		set := Set{Revision: rev, Node: t.node, NodeKnown: t.known, Workloads: make([]Workload, 0, len(t.selected))}
		slices.SortStableFunc(t.selected, func(a, b *variant) int { return a.workload.Name.Compare(b.workload.Name) })
		ld.checkTarget(t)
		var fresh []int
		for i, v := range t.selected {
			set.Workloads = append(set.Workloads, ld.complete(v, t.node))
			if !v.whole {
				fresh = append(fresh, i)
			}
		}
		digestAll(set.Workloads, fresh)
		for _, i := range fresh {
			ld.completed(t.selected[i], set.Workloads[i])
		}
		out = append(out, set)
	}
	slices.SortFunc(ld.problems.warnings, compareProblems)
	for i := range out {
		out[i].Warnings = slices.Clone(ld.problems.warnings)
	}
	return out
}
