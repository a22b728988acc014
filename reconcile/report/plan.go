package report

import (
	"reconciler/manifest"
	"reconciler/reconcile/plan"
)

// Plan is what would be done, as plan shows it.
type Plan struct {
	Revision string      `json:"revision"`
	ID       string      `json:"id"`
	Blocked  *plan.Block `json:"blocked"`
	Steps    []PlanStep  `json:"steps"`
	Held     []plan.Hold `json:"held"`
}

// PlanStep is one step of a Plan.
type PlanStep struct {
	Op      plan.Op           `json:"op"`
	Name    manifest.Name     `json:"name"`
	Reason  string            `json:"reason"`
	Changes []manifest.Change `json:"changes"`
	After   []manifest.Name   `json:"after,omitempty"`
}

// PlanOf turns p into what users see.
func PlanOf(p plan.Plan) Plan {
	out := Plan{
		Revision: p.Revision.Commit, ID: p.ID(), Blocked: p.Blocked,
		Steps: []PlanStep{}, Held: append([]plan.Hold{}, p.Held...),
	}
	for _, s := range p.Steps {
		out.Steps = append(out.Steps, PlanStep{
			Op: s.Op, Name: s.Name, Reason: s.Reason, Changes: append([]manifest.Change{}, s.Changes...), After: s.After,
		})
	}
	return out
}
