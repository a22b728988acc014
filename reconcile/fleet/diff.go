package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// Diff is what a range of commits changes on nodes.
type Diff struct {
	Base    manifest.Revision `json:"base"`
	Head    manifest.Revision `json:"head"`
	Nodes   []string          `json:"nodes"` // that were looked at
	Changes []Change          `json:"changes"`
	Blocked []Block           `json:"blocked"` // nodes on which a guard would say no
}

// Change is one step that is the same on all of Nodes.
type Change struct {
	Name    manifest.Name     `json:"name"`
	Op      plan.Op           `json:"op"`
	Reason  string            `json:"reason"`
	Changes []manifest.Change `json:"changes"`
	Nodes   []string          `json:"nodes"`
	Of      int               `json:"of"` // nodes that have or had a container of the name
}

// Block is one guard that would say no on all of Nodes.
type Block struct {
	plan.Block

	Nodes []string `json:"nodes"`
}

// Diff returns what head changes on every node where base is in force, or on the one that is named.
func (r Repository) Diff(base, head Commit, only string) (Diff, error) {
	d := Diff{Base: base.Revision, Head: head.Revision, Nodes: []string{}, Changes: []Change{}, Blocked: []Block{}}
	groups := map[string]*Change{}
	blocks := map[plan.Block][]string{}
	has := map[manifest.Name]map[string]bool{}
	for _, node := range nodesOf(base, head) {
		if only != "" && node != only {
			continue
		}
		d.Nodes = append(d.Nodes, node)
		before, err := r.of(base, node)
		if err != nil {
			return d, err
		}
		after, err := r.of(head, node)
		if err != nil {
			return d, err
		}
		for _, w := range slices.Concat(before.Workloads, after.Workloads) {
			if has[w.Name] == nil {
				has[w.Name] = map[string]bool{}
			}
			has[w.Name][node] = true
		}
		steps, block, err := follow(before, after)
		if err != nil {
			return d, err
		}
		if block != nil {
			blocks[*block] = append(blocks[*block], node)
		}
		for _, s := range steps {
			key, err := json.Marshal([]any{s.Name, s.Op, s.Reason, s.Changes})
			if err != nil {
				return d, err
			}
			if groups[string(key)] == nil {
				groups[string(key)] = &Change{Name: s.Name, Op: s.Op, Reason: s.Reason, Changes: append([]manifest.Change{}, s.Changes...)}
			}
			groups[string(key)].Nodes = append(groups[string(key)].Nodes, node)
		}
	}
	if only != "" && len(d.Nodes) == 0 {
		return d, fmt.Errorf("no Node manifest is named %q in either commit", only)
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		g.Of = len(has[g.Name])
		d.Changes = append(d.Changes, *g)
	}
	slices.SortStableFunc(d.Changes, func(a, b Change) int { return a.Name.Compare(b.Name) })
	for block, nodes := range blocks {
		d.Blocked = append(d.Blocked, Block{Block: block, Nodes: nodes})
	}
	slices.SortFunc(d.Blocked, func(a, b Block) int {
		return cmp.Or(slices.Compare(a.Nodes, b.Nodes), cmp.Compare(a.Message, b.Message))
	})
	return d, nil
}

// nodesOf returns the names of the nodes of either commit, sorted.
func nodesOf(base, head Commit) []string {
	names := map[string]bool{}
	for _, set := range slices.Concat(base.Sets, head.Sets) {
		names[set.Node.Name] = true
	}
	if len(names) > 1 {
		// A commit without Node manifests answers for any node: where the other one names some, they are all there are.
		delete(names, AnyNode)
	}
	return slices.Sorted(maps.Keys(names))
}

// follow returns what an agent would do on a node where everything that before asks for runs, when after comes. Where a
// guard would stop it, the steps are those that it would take once it is let through.
func follow(before, after manifest.Set) ([]plan.Step, *plan.Block, error) {
	in := plan.Input{Desired: after, KeptNode: after.Node.Name, Now: time.Unix(0, 0).UTC(), Policy: plan.Unrestricted(50)}
	if before.NodeKnown && before.Revision.Commit != "" {
		in.Accepted = &before
	}
	for _, w := range before.Workloads {
		if w.Kind == manifest.KindCronJob {
			continue // has no container until it is due: see cronSteps
		}
		spec, err := plan.Lower(w)
		if err != nil {
			return nil, nil, err
		}
		spec.Revision = before.Revision.Commit
		in.Observed = append(in.Observed, runtime.Status{
			ID: runtime.ID(w.Name.Namespace + "." + w.Name.Name), Spec: spec, State: runtime.StateRunning, Starts: 1, Pid: 1,
			Hostname: spec.Hostname, Serving: true, Ran: ranLong,
		})
	}
	p := plan.Compute(in)
	steps := p.Steps
	switch {
	case p.Blocked == nil:
	case p.Blocked.Reason == plan.BlockUnknownNode:
		return steps, p.Blocked, nil
	default:
		in.Approved = map[string]bool{after.Revision.Commit: true}
		steps = plan.Compute(in).Steps
	}
	return append(steps, cronSteps(before, after)...), p.Blocked, nil
}

// cronSteps tells what changes of the CronJobs of a node: a plan has nothing to do for them until they are due.
func cronSteps(before, after manifest.Set) []plan.Step {
	old := map[manifest.Name]manifest.Workload{}
	for _, w := range before.Workloads {
		if w.Kind == manifest.KindCronJob {
			old[w.Name] = w
		}
	}
	var steps []plan.Step
	for _, w := range after.Workloads {
		was, known := old[w.Name]
		delete(old, w.Name)
		switch changes := manifest.Diff(was, w); {
		case w.Kind != manifest.KindCronJob:
		case !known:
			steps = append(steps, plan.Step{Op: plan.OpCreate, Name: w.Name, Reason: "new"})
		case len(changes) > 0:
			steps = append(steps, plan.Step{Op: plan.OpUpdate, Name: w.Name, Reason: "its next run is as it says now", Changes: changes})
		}
	}
	for name := range old {
		steps = append(steps, plan.Step{Op: plan.OpRemove, Name: name, Reason: "not in " + after.Revision.Short() + " any more"})
	}
	return steps
}

// ranLong is how long everything is taken to run: long enough to have proved itself.
const ranLong = time.Hour
