package reconcile

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

func jobFile(kind, name, spec string, command ...string) map[string]string {
	return map[string]string{name + ".yaml": fmt.Sprintf("apiVersion: reconciler/v1\nkind: %s\nmetadata: {name: %s}\nspec:\n  image: registry.example.com/x:1\n  network: none\n  command: [%s]\n%s",
		kind, name, strings.Join(command, ", "), spec)}
}

// starts returns how often a container of the name was started; for a CronJob, of any of its runs.
func (w *world) starts(name string) int {
	n := 0
	for _, c := range w.rt.Calls() {
		if base, _, _ := strings.Cut(c.Name.Name, "#"); c.Op == fake.OpStart && base == name {
			n++
		}
	}
	return n
}

func (w *world) wantStarts(name string, want int) {
	w.t.Helper()
	if got := w.starts(name); got != want {
		w.t.Fatalf("%s was started %d times, want %d", name, got, want)
	}
}

func TestJobIsRemembered(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(merge(jobFile("Job", "seed", "  ttlSecondsAfterFinished: 60\n", "print", "seeded"), containers("", "web")))
		w.start()
		w.wantRunning("web")
		if r := w.row("seed"); r.State != report.StateCompleted || r.Health != report.Healthy {
			t.Fatalf("%+v", r)
		}
		output := func() string {
			t.Helper()
			v := w.view()
			records, err := w.agent.Records()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range report.HistoryOf(records, nil, v.State.Ledger) {
				for _, s := range e.Steps {
					if s.Op == journal.OpRun && s.Result == string(plan.JobSucceeded) && s.ExitCode != nil && *s.ExitCode == 0 {
						return s.Output
					}
				}
			}
			t.Fatal("history does not know that it ran")
			return ""
		}
		if got := output(); got != "seeded" {
			t.Errorf("output %q", got)
		}
		w.stop()
		w.rt.Reboot()
		w.start()
		defer w.stop()
		w.wantRunning("web")
		w.wantStarts("seed", 1)
		after(2 * time.Minute)
		if got := output(); got != "" {
			t.Errorf("output is kept after the ttl: %q", got)
		}
		if v := w.view(); len(v.Observed) != 1 {
			t.Errorf("%d containers", len(v.Observed))
		}
		if s := w.status(); s.Sync != report.Synced || s.Health != report.Healthy {
			t.Errorf("%+v", s)
		}
		w.wantStarts("seed", 1)
	})
}

// TestAgentDiesBetweenRecordAndRun has the agent end while a run waits for its image: the next one starts it, once.
func TestAgentDiesBetweenRecordAndRun(t *testing.T) {
	run(t, func(_ *testing.T, w *world) {
		release := w.rt.Pause(fake.OpPrepare, runtime.Name{Namespace: "default", Name: fmt.Sprintf("tick#%d", time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC).Unix())})
		w.push(jobFile("CronJob", "tick", "  schedule: '@hourly'\n", "exit", "0"))
		w.start()
		after(time.Hour + time.Minute)
		w.wantStarts("tick", 0)
		w.stop()
		release()
		w.start()
		defer w.stop()
		after(time.Minute)
		w.wantStarts("tick", 1)
		after(time.Hour)
		w.wantStarts("tick", 2)
	})
}

func TestJobVerbs(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(merge(jobFile("Job", "seed", "  backoffLimit: 0\n", "exit", "3"), jobFile("CronJob", "tick", "  schedule: '@hourly'\n", "exit", "0")))
		w.start()
		defer w.stop()
		r := w.row("seed")
		if r.State != report.StateFailed || r.Health != report.Degraded || r.Reason != plan.ReasonBackoffLimit {
			t.Fatalf("%+v", r)
		}
		if err := w.agent.Retry(t.Context(), r.FullName()); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		w.wantStarts("seed", 2)
		tick := w.row("tick")
		if tick.State != report.StateScheduled || tick.NextRunAt == nil || !tick.NextRunAt.Equal(time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC)) {
			t.Errorf("%+v", tick)
		}
		if err := w.agent.Restart(t.Context(), tick.FullName()); err != nil {
			t.Fatal(err)
		}
		after(time.Second)
		w.wantStarts("tick", 1)
		if d, ok := report.Describe(w.view(), nil, tick.FullName()); !ok || len(d.Runs) != 1 || d.Runs[0].Result != "Succeeded" || d.ID == "" {
			t.Errorf("%+v", d)
		}
	})
}

// TestSyncWaitsForJobs and not for what runs by the clock, which may never rest.
func TestSyncWaitsForJobs(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(merge(jobFile("Job", "seed", "", "run"), jobFile("CronJob", "tick", "  schedule: '@every 1s'\n", "run")))
		w.start()
		defer w.stop()
		after(10 * time.Second)
		answer := make(chan SyncResult, 1)
		go func() {
			r, err := w.agent.Sync(t.Context())
			if err != nil {
				t.Error(err)
			}
			answer <- r
		}()
		after(10 * time.Second)
		if len(answer) != 0 || w.history()[0].Result != journal.ResultProgressing {
			t.Fatalf("did not wait: %+v", w.history()[0])
		}
		w.rt.Exit(w.idOf("seed"), 0)
		if r := <-answer; r.Outcome != SyncConverged {
			t.Fatalf("%+v", r)
		}
		after(time.Second)
		if h := w.history()[0]; h.Result != journal.ResultApplied {
			t.Errorf("%+v", h)
		}
	})
}

// TestEveryRunOfManyCronJobs has 50 CronJobs run every second for a minute: none is missed and none runs twice.
func TestEveryRunOfManyCronJobs(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		files := map[string]string{}
		for i := range 50 {
			maps.Copy(files, jobFile("CronJob", fmt.Sprintf("tick-%d", i), "  schedule: '@every 1s'\n", "exit", "0"))
		}
		w.push(files)
		w.start()
		defer w.stop()
		after(time.Minute + time.Second/2)
		runs := map[string]int{}
		for _, c := range w.rt.Calls() {
			if c.Op == fake.OpStart {
				runs[c.Name.Name]++
			}
		}
		for name, n := range runs {
			if n != 1 {
				t.Errorf("%s was started %d times", name, n)
			}
		}
		if len(runs) != 50*60 {
			t.Errorf("%d runs, want 3000", len(runs))
		}
		if v := w.view(); len(v.Observed) != 150 || len(v.State.Ledger.Jobs) != 150 {
			t.Errorf("%d containers and %d records are kept", len(v.Observed), len(v.State.Ledger.Jobs))
		}
		if h := w.history(); len(h) != 1 || len(h[0].Steps) > 200 {
			t.Errorf("history grows with every run: %d steps", len(h[0].Steps))
		}
	})
}
