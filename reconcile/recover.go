package reconcile

import (
	"reconciler/manifest"
	"reconciler/runtime"
)

// recoverAccepted makes the set in force from what is on this server, where the file that kept it was lost: each
// container holds the workload that it was made from. So it is kept alive until the source can be read.
func (l *loop) recoverAccepted() {
	if l.state.Accepted != nil || l.candidate != nil {
		return
	}
	set := manifest.Set{
		Revision: l.state.AcceptedRevision, Node: manifest.Node{Name: l.state.Node}, NodeKnown: true,
	}
	if set.Node.Name == "" {
		set.Node.Name = l.cfg.Node
	}
	var newest runtime.Status
	known := map[manifest.Name]bool{}
	for i, o := range l.observed { // sorted by name, then by creation
		if len(o.Spec.Origin) == 0 {
			continue
		}
		if i+1 < len(l.observed) && l.observed[i+1].Spec.Name == o.Spec.Name && (!o.Serving || l.observed[i+1].Serving) {
			continue
		}
		if n := len(set.Workloads); n > 0 && set.Workloads[n-1].Name == manifest.Name(o.Spec.Name) {
			continue // the one that serves came before
		}
		w, err := manifest.DecodeWorkload(o.Spec.Origin)
		if err != nil || known[w.Name] { // the latter: runs of one CronJob
			continue
		}
		known[w.Name] = true
		set.Workloads = append(set.Workloads, w)
		if o.CreatedAt.After(newest.CreatedAt) {
			newest = o
		}
	}
	if len(set.Workloads) == 0 {
		return
	}
	if set.Revision.Commit == "" {
		set.Revision.Commit = newest.Spec.Revision
	}
	l.log.Warn("the kept set was lost: going on with what the containers were made from", "containers", len(set.Workloads))
	l.state.Accepted, l.state.AcceptedRevision = &set, set.Revision
	l.dirty = true
}
