package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// diffReport is what diff -o json says.
type diffReport struct {
	Base    manifest.Revision `json:"base"`
	Head    manifest.Revision `json:"head"`
	Nodes   []string          `json:"nodes"` // that were looked at
	Changes []diffChange      `json:"changes"`
	Blocked []diffBlock       `json:"blocked"` // nodes on which a guard would say no
}

// diffChange is one step that is the same on all of Nodes.
type diffChange struct {
	Name    manifest.Name     `json:"name"`
	Op      plan.Op           `json:"op"`
	Reason  string            `json:"reason"`
	Changes []manifest.Change `json:"changes"`
	Nodes   []string          `json:"nodes"`
	Of      int               `json:"of"` // nodes that have or had a container of the name
}

// diffBlock is one guard that would say no on all of Nodes.
type diffBlock struct {
	plan.Block

	Nodes []string `json:"nodes"`
}

// differ compares what two commits ask of nodes. It is pure: it works on what was loaded.
type differ struct {
	path       string
	fallback   manifest.Node
	base, head side
}

func newDiffer(path string, fallback manifest.Node) *differ {
	return &differ{path: filepath.ToSlash(filepath.Clean(path)), fallback: fallback}
}

// compare returns what head changes on every node, or on the one that is named.
func (d *differ) compare(only string) (diffReport, error) {
	report := diffReport{Base: d.base.rev, Head: d.head.rev, Nodes: []string{}, Changes: []diffChange{}, Blocked: []diffBlock{}}
	groups := map[string]*diffChange{}
	blocks := map[plan.Block][]string{}
	has := map[manifest.Name]map[string]bool{}
	for _, node := range d.nodes() {
		if only != "" && node != only {
			continue
		}
		report.Nodes = append(report.Nodes, node)
		before, after, err := d.sets(node)
		if err != nil {
			return report, err
		}
		for _, w := range append(slices.Clone(before.Workloads), after.Workloads...) {
			if has[w.Name] == nil {
				has[w.Name] = map[string]bool{}
			}
			has[w.Name][node] = true
		}
		desired, block, err := step(before, after)
		if err != nil {
			return report, err
		}
		if block != nil {
			blocks[*block] = append(blocks[*block], node)
		}
		for _, s := range desired {
			key, err := json.Marshal([]any{s.Name, s.Op, s.Reason, s.Changes})
			if err != nil {
				return report, err
			}
			if groups[string(key)] == nil {
				groups[string(key)] = &diffChange{Name: s.Name, Op: s.Op, Reason: s.Reason, Changes: append([]manifest.Change{}, s.Changes...)}
			}
			groups[string(key)].Nodes = append(groups[string(key)].Nodes, node)
		}
	}
	if only != "" && len(report.Nodes) == 0 {
		return report, fmt.Errorf("diff: no Node manifest is named %q in either commit", only)
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		g.Of = len(has[g.Name])
		report.Changes = append(report.Changes, *g)
	}
	slices.SortStableFunc(report.Changes, func(a, b diffChange) int { return a.Name.Compare(b.Name) })
	for block, nodes := range blocks {
		report.Blocked = append(report.Blocked, diffBlock{Block: block, Nodes: nodes})
	}
	slices.SortFunc(report.Blocked, func(a, b diffBlock) int { return slices.Compare(a.Nodes, b.Nodes) })
	return report, nil
}

// nodes returns the names of the nodes of either commit, sorted.
func (d *differ) nodes() []string {
	names := map[string]bool{}
	for _, s := range [][]manifest.Set{d.base.sets, d.head.sets} {
		for _, set := range s {
			names[set.Node.Name] = true
		}
	}
	if len(names) > 1 {
		// A commit without Node manifests answers for any node: where the other one names some, they are all there are.
		delete(names, "any")
	}
	return slices.Sorted(maps.Keys(names))
}

// sets returns what either commit asks of a node. One that has no manifest of it says that it does not know it.
func (d *differ) sets(node string) (before, after manifest.Set, err error) {
	find := func(s side) (manifest.Set, error) {
		for _, set := range s.sets {
			if set.Node.Name == node {
				return set, nil
			}
		}
		return manifest.Loader{Path: d.path}.Load(s.tree, s.rev, manifest.Node{Name: node, Labels: d.fallback.Labels})
	}
	if before, err = find(d.base); err != nil {
		return before, after, err
	}
	after, err = find(d.head)
	return before, after, err
}

// step returns what an agent would do on a node where everything that before asks for runs, when after comes. Where a
// guard would stop it, the steps are those that it would take once it is let through.
func step(before, after manifest.Set) ([]plan.Step, *plan.Block, error) {
	in := plan.Input{
		Desired: after, KeptNode: after.Node.Name, Now: time.Unix(0, 0).UTC(),
		Policy: plan.Policy{
			MaxRemove: 50, AllowPrivileged: true,
			AllowCapture: []string{"/"}, AllowHostPath: []string{"/"}, AllowSecretPath: []string{"/"},
		},
	}
	if before.NodeKnown && before.Revision.Commit != "" {
		in.Accepted = &before
	}
	for _, w := range before.Workloads {
		spec, err := plan.Lower(w)
		if err != nil {
			return nil, nil, err
		}
		spec.Revision = before.Revision.Commit
		in.Observed = append(in.Observed, runtime.Status{
			ID: runtime.ID(w.Name.Namespace + "." + w.Name.Name), Spec: spec, State: runtime.StateRunning, Starts: 1, Pid: 1,
			Hostname: spec.Hostname,
		})
	}
	p := plan.Compute(in)
	if p.Blocked == nil || p.Blocked.Reason == "UnknownNode" {
		return p.Steps, p.Blocked, nil
	}
	in.Approved = map[string]bool{after.Revision.Commit: true}
	return plan.Compute(in).Steps, p.Blocked, nil
}
