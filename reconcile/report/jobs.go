package report

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// States of work that comes to an end, beyond those of a container.
const (
	StateFailed    = "Failed"
	StateScheduled = "Scheduled" // a CronJob that waits for its next time
	StateSuspended = "Suspended" // a CronJob that waits for nothing
)

// JobRun is one run of a Job or CronJob, as far as it is remembered.
type JobRun struct {
	Name        string     `json:"name"`
	Result      string     `json:"result"` // empty: it has not ended
	Reason      string     `json:"reason"`
	Message     string     `json:"message"`
	Commit      string     `json:"commit"`
	ScheduledAt *time.Time `json:"scheduledAt"` // of a CronJob's run
	StartedAt   *time.Time `json:"startedAt"`
	FinishedAt  *time.Time `json:"finishedAt"`
	DurationMs  int64      `json:"durationMs"`
	Attempts    int        `json:"attempts"`
	ExitCode    *int       `json:"exitCode"` // null: it has not ended, or nobody saw how
	Output      string     `json:"output"`   // the end of what it wrote, as long as that is kept
}

func jobRun(name manifest.Name, r plan.JobRecord) JobRun {
	return JobRun{
		Name: name.Name, Result: string(r.Result), Reason: r.Reason, Message: r.Message, Commit: r.Commit,
		ScheduledAt: timeOrNil(r.Scheduled), StartedAt: timeOrNil(r.Started.Wall), FinishedAt: timeOrNil(r.Finished.Wall),
		DurationMs: r.Took().Milliseconds(), Attempts: r.Attempts(), ExitCode: r.ExitCode, Output: r.Output,
	}
}

// jobs fills in what the ledger says of each subject: of a CronJob its runs, the last one first.
func jobs(v View, byName map[manifest.Name]*subject) {
	for name, r := range v.State.Ledger.Jobs {
		if s := byName[plan.Owner(name)]; s != nil && s.want != nil && s.want.Kind != manifest.KindContainer {
			s.runs = append(s.runs, run{name, r})
		}
	}
	for name, c := range v.State.Ledger.Crons {
		if s := byName[name]; s != nil {
			s.next = c.Next
		}
	}
	for _, s := range byName {
		slices.SortFunc(s.runs, func(a, b run) int {
			return cmp.Or(b.record.Scheduled.Compare(a.record.Scheduled), b.name.Compare(a.name))
		})
	}
}

// run is a Job, or a run of a CronJob, as it is remembered.
type run struct {
	name   manifest.Name
	record plan.JobRecord
}

func (s *subject) isKind(kind manifest.Kind) bool { return s.want != nil && s.want.Kind == kind }

// result is how a Job ended, of what is wanted now; empty: it has not.
func (s *subject) result() plan.JobResult {
	if !s.isKind(manifest.KindJob) || len(s.runs) == 0 || s.runs[0].record.Digest != s.want.Digest {
		return ""
	}
	return s.runs[0].record.Result
}

// jobState is the state of a Job that is over, or of a CronJob; false for everything else.
func (s *subject) jobState() (string, bool) {
	switch {
	case s.spare:
		return "", false
	case s.isKind(manifest.KindCronJob):
		return s.cronState(), true
	}
	switch s.result() {
	case plan.JobSucceeded, plan.JobSkipped:
		return StateCompleted, true
	case plan.JobFailed:
		return StateFailed, true
	default:
		return "", false
	}
}

func (s *subject) cronState() string {
	for _, r := range s.runs {
		if r.record.Result == "" {
			return StateRunning
		}
	}
	if suspend := s.want.Spec.Suspend; suspend != nil && *suspend {
		return StateSuspended
	}
	return StateScheduled
}

// lastEnded is the last run of a CronJob that was not cut short by the next.
func (s *subject) lastEnded() (plan.JobRecord, bool) {
	for _, r := range s.runs {
		if r.record.Result == plan.JobSucceeded || r.record.Result == plan.JobFailed {
			return r.record, true
		}
	}
	return plan.JobRecord{}, false
}

// jobWhy gives the reason of a Job or CronJob that nothing holds back; false where it has none of its own.
func (s *subject) jobWhy() (reason, message string, ok bool) {
	switch {
	case s.spare || s.hold != nil:
		return "", "", false
	case s.isKind(manifest.KindCronJob):
		if s.runHold != nil {
			return s.runHold.Reason, s.runHold.Message, true
		}
		if last, ended := s.lastEnded(); ended && last.Result == plan.JobFailed {
			return last.Reason, fmt.Sprintf("the run of %s failed: %s", last.Scheduled.UTC().Format(time.RFC3339), last.Message), true
		}
		return "", "", true
	}
	if r := s.result(); r == plan.JobSkipped || r == plan.JobSucceeded && s.shown == nil {
		return "", s.runs[0].record.Message, true
	}
	return "", "", false
}

// cronHealth is the health of a CronJob that nothing holds back.
func (s *subject) cronHealth() string {
	last, ended := s.lastEnded()
	if s.hold != nil || ended && last.Result == plan.JobFailed {
		return Degraded
	}
	return Healthy
}

// spareName is what an instance beside the one that is shown is called: a run of a CronJob by its own name.
func (s *subject) spareName(o runtime.Status) manifest.Name {
	if s.isKind(manifest.KindCronJob) {
		return manifest.Name(o.Spec.Name)
	}
	return s.name
}

// withoutRuns leaves out what is about runs of CronJobs, which come and go by the clock: no commit waits for them.
func withoutRuns(v View) View {
	v.Plan.Steps = slices.DeleteFunc(slices.Clone(v.Plan.Steps), func(s plan.Step) bool { return isRun(s.Name) })
	v.Plan.Held = slices.DeleteFunc(slices.Clone(v.Plan.Held), func(h plan.Hold) bool { return isRun(h.Name) })
	working := make(map[manifest.Name]Activity, len(v.Working))
	for name, a := range v.Working {
		if !isRun(name) {
			working[name] = a
		}
	}
	v.Working = working
	return v
}

func isRun(name manifest.Name) bool {
	_, _, ok := plan.RunOf(name)
	return ok
}
