package report

import (
	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// maxDescribeEvents is how many of the last events describe shows.
const maxDescribeEvents = 20

// Description is one container with all that is known of it.
type Description struct {
	Row
	Labels      map[string]string  `json:"labels"`
	Annotations map[string]string  `json:"annotations"`
	Source      *manifest.Position `json:"source"` // file and line; null where it is not meant to be here
	// DesiredCommit is the commit in force; MadeFrom the one that what runs was made from, which last changed it.
	DesiredCommit *Revision `json:"desiredCommit"`
	MadeFrom      *Revision `json:"madeFrom"`
	// Spec is as the manifest says, with this release's defaults; RunningSpec what runs was made from, where that differs.
	Spec        *manifest.Spec    `json:"spec"`
	RunningSpec *manifest.Spec    `json:"runningSpec"`
	Limits      runtime.Resources `json:"limits"`
	// Requests are what is set aside for it; null where it is not meant to be here.
	Requests *manifest.Requests `json:"requests"`
	IPv6     string             `json:"ipv6"`
	// FirstID is the first of the 65,536 user ids of the server that are the container's own; 0: it has the server's.
	FirstID  uint32   `json:"firstID"`
	Warnings []string `json:"warnings"`
	// Pending is what is to be done for it; Working how far that is; Held why nothing is done now.
	Pending  *PlanStep  `json:"pending"`
	Working  *Working   `json:"working"`
	Held     *plan.Hold `json:"held"`
	Failures int        `json:"failures"`
	Hint     string     `json:"hint"`
	// Runs are those of a Job or CronJob that are remembered, the last one first.
	Runs []JobRun `json:"runs"`
	// Others are further instances of the name.
	Others []Row   `json:"others"`
	Events []Event `json:"events"`
}

// Working is how far a step is.
type Working struct {
	Op    plan.Op `json:"op"`
	Phase Phase   `json:"phase"`
	What  string  `json:"what"`
	Done  int64   `json:"done"`
	Total int64   `json:"total"`
}

// Describe tells all that is known of name; false where nothing is.
func Describe(v View, records []journal.Record, name manifest.Name) (Description, bool) {
	var s *subject
	for _, candidate := range subjects(v) {
		if candidate.name == name {
			s = candidate
		}
	}
	if s == nil {
		return Description{}, false
	}
	d := Description{
		Row: s.row(v), Labels: map[string]string{}, Annotations: map[string]string{}, Warnings: []string{},
		Held: s.hold, Failures: s.history.Failures, Hint: s.history.Hint, Others: []Row{}, Runs: []JobRun{},
	}
	events := EventsOf(records, &name)
	d.Events = events[max(0, len(events)-maxDescribeEvents):]
	s.describeWanted(v, &d)
	s.describeRunning(records, &d)
	for _, r := range s.runs {
		d.Runs = append(d.Runs, jobRun(r.name, r.record))
	}
	if s.step != nil {
		d.Pending = &PlanOf(plan.Plan{Steps: []plan.Step{*s.step}}).Steps[0]
	}
	if w := s.working; w != nil {
		d.Working = &Working{Op: w.Op, Phase: w.Phase, What: w.What, Done: w.Done, Total: w.Total}
	}
	for _, r := range Rows(v, true) {
		if plan.Owner(r.FullName()) == name && r.ID != d.ID {
			d.Others = append(d.Others, r)
		}
	}
	return d, true
}

func (s *subject) describeWanted(v View, d *Description) {
	if s.want == nil {
		return
	}
	d.Labels, d.Annotations = orEmpty(s.want.Labels), orEmpty(s.want.Annotations)
	d.Source = &s.want.Source
	d.DesiredCommit = revisionOrNil(v.State.Accepted.Revision)
	spec := manifest.DefaultedFor(s.want.Kind, s.want.Spec)
	if spec.Script != nil && spec.Script.File != "" {
		spec.Script = &manifest.Script{File: spec.Script.File} // whose content is no field of the manifest
	}
	d.Spec = &spec
	requests := spec.Requested()
	d.Requests = &requests
}

func (s *subject) describeRunning(records []journal.Record, d *Description) {
	if s.shown == nil {
		return
	}
	d.Limits, d.FirstID, d.IPv6 = s.shown.Spec.Limits, s.shown.FirstID, s.shown.IPv6
	d.Warnings = append(d.Warnings, s.shown.Warnings...)
	if commit := s.shown.Spec.Revision; commit != "" {
		d.MadeFrom = &Revision{Commit: commit}
		for _, r := range records {
			if r.Revision != nil && r.Revision.Commit == commit {
				d.MadeFrom = revisionOrNil(*r.Revision)
			}
		}
	}
	if w, err := manifest.DecodeWorkload(s.shown.Spec.Origin); err == nil && !s.current() {
		d.RunningSpec = &w.Spec
		if d.Source == nil {
			d.Source = &w.Source
		}
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
