package fleet

import (
	"io/fs"
	"slices"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
)

// AnyNode is the name of the node that a repository without Node manifests is for, where nobody names one.
const AnyNode = "any"

// Repository is how the commits of one are read.
type Repository struct {
	// Path is the directory with the manifests, in the repository.
	Path string
	// Fallback is the node that a commit without Node manifests is for.
	Fallback manifest.Node
}

// Commit is what one commit asks of every node.
type Commit struct {
	Revision manifest.Revision
	Sets     []manifest.Set // one for each Node manifest, or one for the fallback

	tree fs.FS
}

// Load reads a commit for every node. What is wrong with its manifests, for a runtime too, is told apart from an error
// of the tree.
func (r Repository) Load(tree fs.FS, rev manifest.Revision) (Commit, []manifest.Problem, error) {
	sets, err := manifest.Loader{Path: r.Path}.LoadAll(tree, rev, r.Fallback)
	if problems := manifest.Problems(err); len(problems) > 0 {
		return Commit{}, problems, nil
	}
	if err != nil {
		return Commit{}, nil, err
	}
	return Commit{Revision: rev, Sets: sets, tree: tree}, unlowerable(sets), nil
}

// unlowerable returns a problem for each workload that no runtime could run.
func unlowerable(sets []manifest.Set) []manifest.Problem {
	var problems []manifest.Problem
	for _, set := range sets {
		for _, w := range set.Workloads {
			if _, err := plan.Lower(w); err != nil {
				p := manifest.Problem{Position: w.Source, Message: err.Error()}
				if !slices.Contains(problems, p) {
					problems = append(problems, p)
				}
			}
		}
	}
	return problems
}

// of returns what c asks of a node. One that has no manifest of it says that it does not know it.
func (r Repository) of(c Commit, node string) (manifest.Set, error) {
	for _, set := range c.Sets {
		if set.Node.Name == node {
			return set, nil
		}
	}
	return manifest.Loader{Path: r.Path}.Load(c.tree, c.Revision, manifest.Node{Name: node, Labels: r.Fallback.Labels})
}
