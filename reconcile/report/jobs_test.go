package report

import (
	"strings"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

func TestRowsOfJobs(t *testing.T) {
	job := workload("seed", "d1")
	job.Kind = manifest.KindJob
	three := 3
	for _, c := range []struct {
		name                   string
		record                 plan.JobRecord
		here                   bool
		hold                   string
		state, health, message string
		settled                bool
	}{
		{"not begun", plan.JobRecord{}, false, "", StatePending, Progressing, "", false},
		{"runs", plan.JobRecord{Digest: "d1", Starts: 1}, true, plan.ReasonProgressing, StateRunning, Progressing, "yet to end", false},
		{"done, and gone", plan.JobRecord{Digest: "d1", Result: plan.JobSucceeded}, false, "", StateCompleted, Healthy, "", true},
		{"skipped", plan.JobRecord{Digest: "d1", Result: plan.JobSkipped, Message: "new server"}, false, "", StateCompleted, Healthy, "new server", true},
		{"failed, and gone", plan.JobRecord{Digest: "d1", Result: plan.JobFailed, ExitCode: &three}, false, plan.ReasonBackoffLimit, StateFailed, Degraded, "", true},
		{"of another spec", plan.JobRecord{Digest: "d0", Result: plan.JobSucceeded}, false, "", StatePending, Progressing, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := view([]manifest.Workload{job})
			if c.here {
				v.Observed = []runtime.Status{status(job, runtime.StateRunning)}
			}
			if c.record.Digest != "" {
				v.State.Ledger.Jobs = map[manifest.Name]plan.JobRecord{job.Name: c.record}
			}
			if c.hold != "" {
				v.Plan.Held = []plan.Hold{{Name: job.Name, Reason: c.hold, Message: "it has yet to end"}}
			}
			r := Rows(v, false)[0]
			if r.State != c.state || r.Health != c.health || !strings.Contains(r.Message, c.message) || r.Kind != "Job" {
				t.Errorf("%+v", r)
			}
			if s := StatusOf(v); (s.Sync == Synced) != c.settled {
				t.Errorf("%s %s: %s", s.Sync, s.Reason, s.Message)
			}
		})
	}
}

// TestRowsOfCronJobs shows a CronJob as one row that leads to its last run, and is Degraded as long as that failed.
func TestRowsOfCronJobs(t *testing.T) {
	cron := workload("tick", "d1")
	cron.Kind = manifest.KindCronJob
	v := view([]manifest.Workload{cron})
	next := now().Add(time.Minute)
	v.State.Ledger = plan.Ledger{Jobs: map[manifest.Name]plan.JobRecord{}, Crons: map[manifest.Name]plan.CronRecord{cron.Name: {Next: next}}}
	for i, result := range []plan.JobResult{plan.JobFailed, plan.JobSucceeded, plan.JobReplaced} {
		at := now().Add(time.Duration(i-3) * time.Minute)
		run := plan.RunName(cron.Name, at)
		v.State.Ledger.Jobs[run] = plan.JobRecord{Digest: "d1", Scheduled: at, Result: result, Message: string(result), Output: "out " + string(result)}
		o := status(cron, runtime.StateExited)
		o.Spec.Name, o.ID, o.CreatedAt = runtime.Name(run), runtime.ID(result), at
		v.Observed = append(v.Observed, o)
	}
	rows := Rows(v, false)
	if len(rows) != 1 || rows[0].State != StateScheduled || rows[0].Health != Healthy || rows[0].ID != "Replaced" || !rows[0].NextRunAt.Equal(next) {
		t.Fatalf("%+v", rows)
	}
	if all := Rows(v, true); len(all) != 3 || !strings.HasPrefix(all[1].Name, "tick#") || all[1].NextRunAt != nil {
		t.Errorf("%+v", all)
	}
	if s := StatusOf(v); s.Sync != Synced || s.Health != Healthy {
		t.Errorf("%+v", s)
	}
	if d, ok := Describe(v, nil, cron.Name); !ok || len(d.Runs) != 3 || d.Runs[0].Result != "Replaced" || len(d.Others) != 2 {
		t.Errorf("%+v", d)
	}
	if list := Instances(v.Observed, cron.Name); len(list) != 3 || list[0].ID != "Replaced" {
		t.Errorf("%+v", list)
	}
	at := now().Add(-2 * time.Minute)
	records := []journal.Record{
		{Type: journal.TypeAccepted, Commit: "new", Revision: &manifest.Revision{Commit: "new"}},
		{Type: journal.TypeRan, Commit: "new", Name: &cron.Name, Result: "Succeeded", ExitCode: new(0), Run: &at},
	}
	if h := HistoryOf(records, &cron.Name, v.State.Ledger); len(h) != 1 || h[0].Steps[0].Output != "out Succeeded" || *h[0].Steps[0].ExitCode != 0 {
		t.Errorf("%+v", h)
	}
	delete(v.State.Ledger.Jobs, plan.RunName(cron.Name, at))
	delete(v.State.Ledger.Jobs, plan.RunName(cron.Name, now().Add(-time.Minute)))
	if r := Rows(v, false)[0]; r.Health != Degraded || !strings.Contains(r.Message, "failed") {
		t.Errorf("%+v", r)
	}
	// What runs by the clock is no reason to wait.
	v.Plan.Steps = []plan.Step{{Name: plan.RunName(cron.Name, now()), Op: plan.OpCreate}}
	if done, _, _ := Converged(v); !done {
		t.Error("waits for a run")
	}
}
