package report

import (
	"cmp"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// Kept is what is known of a node where no agent answers: what the last one kept, and what runs.
type Kept struct {
	Instance string
	Node     string // where none was kept
	Snapshot journal.Snapshot
	Observed []runtime.Status
	Facts    plan.Facts
}

// View returns the view of now. What the administrator allows only an agent knows: nothing is said to be refused for it.
func (k Kept) View(now time.Time) View {
	v := View{
		Node: cmp.Or(k.Snapshot.State.Node, k.Node), Instance: k.Instance, State: k.Snapshot.State, Observed: k.Observed,
		Health: k.Snapshot.State.Health, Warnings: k.Snapshot.Notes, Now: now,
	}
	accepted := v.State.Accepted
	if accepted == nil {
		return v
	}
	v.Plan = plan.Compute(plan.Input{
		Desired: *accepted, Accepted: accepted, Observed: v.Observed, Health: v.Health, History: v.State.Histories,
		ImageDigests: v.State.ImageDigests, KeptNode: v.State.Node, Now: now, Ledger: v.State.Ledger,
		Facts: k.Facts, Policy: plan.Unrestricted(100),
	})
	return v
}
