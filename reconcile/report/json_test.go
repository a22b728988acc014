package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

var update = flag.Bool("update", false, "write the JSON that the reports give into testdata")

// What scripts rely on, to the byte: every field is there, and null where there is nothing.
func TestJSONGolden(t *testing.T) {
	web, db := workload("web", "sha256:1"), workload("db", "sha256:2")
	exited := status(db, runtime.StateExited)
	code := 137
	exited.ExitCode, exited.OOMKilled, exited.Starts = &code, true, 3
	exited.StartedAt, exited.FinishedAt, exited.ImageDigest = now().Add(-time.Minute), now(), "sha256:abc"
	v := view([]manifest.Workload{web, db}, status(web, runtime.StateRunning), exited)
	v.Source = Source{URL: "https://git.example.com/fleet.git", Branch: "main", Path: "."}
	v.Fetch.Next = now().Add(30 * time.Second)
	v.State.AcceptedRevision.Time = now()
	v.Plan.Held = []plan.Hold{{Name: db.Name, Reason: plan.ReasonCrashLoop, Message: "ran out of memory", Until: now().Add(10 * time.Second)}}
	steps := plan.Plan{
		Revision: manifest.Revision{Commit: "new"},
		Steps: []plan.Step{
			{Op: plan.OpReplace, Name: web.Name, Reason: "image changed: web:1 -> web:2", Changes: []manifest.Change{{Field: "spec.image", From: "web:1", To: "web:2"}}},
			{Op: plan.OpRemove, Name: db.Name, Reason: "not in new any more"},
		},
	}
	blocked := plan.Plan{Blocked: &plan.Block{Reason: plan.BlockEmptying, Message: "approve it"}}
	identified := func(p plan.Plan, id string) Plan { // by what is in it, which may come to be more
		out := PlanOf(p)
		out.ID = id
		return out
	}
	revision := manifest.Revision{Commit: "new", Author: "Ada", Subject: "s"}
	records := []journal.Record{
		{Time: now(), Type: journal.TypeAccepted, Commit: "new", Revision: &revision},
		{Time: now(), Type: journal.TypeResult, Commit: "new", Name: &web.Name, Op: plan.OpCreate, Reason: "new", Result: journal.StepDone, ImageDigest: "sha256:abc", DurationMs: 12},
		{Time: now(), Type: journal.TypeResult, Commit: "new", Name: &db.Name, Op: plan.OpCreate, Reason: "new", Result: journal.StepFailed, Error: "no"},
	}
	for name, value := range map[string]any{
		"ps": Rows(v, false), "ps-empty": Rows(View{}, false), "status": StatusOf(v), "status-empty": StatusOf(View{}),
		"plan": identified(steps, "0123456789abcdef"), "plan-blocked": identified(blocked, ""), "history": HistoryOf(records, nil, plan.Ledger{}), "history-empty": HistoryOf(nil, nil, plan.Ledger{}),
	} {
		got, err := json.MarshalIndent(value, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		file := filepath.Join("testdata", name+".json")
		want, err := os.ReadFile(file)
		if !*update && (err != nil || !bytes.Equal(got, want)) {
			t.Errorf("%s is\n%s\nwant\n%s (%v)", name, got, want, err)
		}
		if *update {
			if err := os.WriteFile(file, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestProgressOfAPull(t *testing.T) {
	w := workload("web", "d1")
	for what, c := range map[string]struct {
		done, total int64
		want        string
	}{
		"begun":      {0, 0, "pull web:1"},
		"no total":   {3 << 20, 0, "pull web:1: 3.0 MiB"},
		"half":       {20 << 20, 40 << 20, "pull web:1: 20.0 MiB of 40.0 MiB, 50 %"},
		"small":      {1, 1025, "pull web:1: 1 KiB of 2 KiB, 0 %"},
		"too much":   {8, 4, "pull web:1: 1 KiB of 1 KiB, 100 %"},
		"not begun ": {0, 4 << 20, "pull web:1: 0 KiB of 4.0 MiB, 0 %"},
	} {
		v := view([]manifest.Workload{w})
		v.Working = map[manifest.Name]Activity{w.Name: {Op: plan.OpCreate, Phase: PhasePreparing, What: "pull web:1", Done: c.done, Total: c.total}}
		if r := Rows(v, false)[0]; r.State != StatePulling || r.Message != c.want {
			t.Errorf("%s: %s %q, want %q", what, r.State, r.Message, c.want)
		}
	}
}
