// Package fleet says what commits ask of all nodes of a repository, from manifests alone.
//
// It is pure: it is given the trees of commits, and knows no server, no repository and no agent. It owns what may be said
// without them: whether a commit could be applied on every node, and what it would change there, by the same decisions
// (package plan) as an agent's.
//
// Start reading at Repository in fleet.go, then Diff in diff.go.
package fleet
