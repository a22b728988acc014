package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// work is a manifest of the kind with this server's busybox.
func work(kind, name string, more ...string) string {
	text := "apiVersion: reconciler/v1\nkind: " + kind + "\nmetadata: {name: " + name + "}\nspec:\n" +
		"  capture: {paths: [/bin/busybox]}\n  network: none\n  terminationGracePeriodSeconds: 1\n"
	for _, line := range more {
		text += "  " + line + "\n"
	}
	return text
}

// TestScriptJob runs code of the commit in a real container, once: its exit code and output are in history, and neither another
// agent nor the loss of everything below the run directory has it run again.
func TestScriptJob(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{
		"jobs/hello.sh": "#!/bin/busybox sh\necho \"hello from $0\"\n(echo >>\"$0\") 2>/dev/null && exit 3\necho \"args $*\" >&2\n",
		"jobs.yaml": work("Job", "hello", "script: {file: ./jobs/hello.sh}", "args: [one, two]") + "---\n" +
			work("Job", "inline", "command: [/bin/busybox, sh, -e]", "script: {inline: 'echo inline; exit 7'}", "backoffLimit: 0") + "---\n" +
			strings.Replace(busybox("web", forever), "spec:\n", "spec:\n  dependsOn: [{name: hello, condition: Completed}]\n", 1),
	})
	a := s.start("--repo", repo.Bare, "--allow-capture", "/bin")
	r := s.do("sync", "--timeout", patience)
	if r.code != 1 || !strings.Contains(r.err, "BackoffLimitExceeded") {
		t.Fatalf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
	var entries []journal.Entry
	if err := json.Unmarshal([]byte(s.must("history", "hello", "-o", "json")), &entries); err != nil {
		t.Fatal(err)
	}
	step := ran(t, entries)
	if step.Result != "Succeeded" || step.ExitCode == nil || *step.ExitCode != 0 ||
		!strings.Contains(step.Output, "hello from /run/reconciler/script\n") || !strings.Contains(step.Output, "args one two") {
		t.Errorf("%+v", step)
	}
	if text := s.must("history", "inline"); !strings.Contains(text, "exit code 7") || !strings.Contains(text, "| inline") {
		t.Errorf("history:\n%s", text)
	}
	if text := s.must("describe", "inline"); !strings.Contains(text, "Failed") || !strings.Contains(text, "exit code 7") {
		t.Errorf("describe:\n%s", text)
	}
	a.stop(os.Interrupt)
	before := s.rows()["hello"]
	b := s.start("--repo", repo.Bare, "--allow-capture", "/bin")
	s.do("sync", "--timeout", patience)
	if after := s.rows()["hello"]; after.ID != before.ID || after.State != report.StateCompleted || after.Restarts != 0 || s.rows()["web"].State != report.StateRunning {
		t.Errorf("before %+v, after %+v", before, after)
	}
	repo.CommitPush("no jobs", sourcetest.Files{"jobs.yaml": busybox("web", forever)})
	s.must("sync", "--timeout", patience)
	if rows := s.rows(); len(rows) != 1 {
		t.Errorf("%+v", rows)
	}
	b.stop(os.Interrupt)
}

// ran returns the step that tells how a Job ended.
func ran(t *testing.T, entries []journal.Entry) journal.StepEntry {
	t.Helper()
	for _, e := range entries {
		for _, step := range e.Steps {
			if step.Op == journal.OpRun {
				return step
			}
		}
	}
	t.Fatalf("no Job ended: %+v", entries)
	return journal.StepEntry{}
}

// TestCronJob runs real containers by the clock, and the verbs lead to the last of them.
func TestCronJob(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"cron.yaml": work("CronJob", "tick", `schedule: "@every 2s"`, "successfulJobsHistoryLimit: 2",
		"command: [/bin/busybox, sh, -c, 'echo $(hostname) ticks; cat /data/n; echo again >> /data/n']",
		"mounts: [{path: /data, volume: ticks}]")})
	a := s.start("--repo", repo.Bare, "--allow-capture", "/bin")
	s.must("sync", "--timeout", patience)
	row := s.rows()["tick"]
	if row.NextRunAt == nil || row.Kind != "CronJob" {
		t.Errorf("%+v", row)
	}
	f := s.follow("events", "-f", "tick")
	for range 4 {
		f.await("JobSucceeded", "the run of")
	}
	f.stop()
	if text := s.must("ps"); !strings.Contains(text, "next run in") || strings.Contains(text, "#") {
		t.Errorf("ps:\n%s", text)
	}
	if text := s.must("ps", "--all"); !strings.Contains(text, "tick#") {
		t.Errorf("ps --all:\n%s", text)
	}
	if text := s.must("logs", "tick"); !strings.Contains(text, "tick ticks\n") || !strings.Contains(text, "again") {
		t.Errorf("the output of the last run, whose volume is that of the runs before: %q", text)
	}
	if text := s.must("history", "tick"); !strings.Contains(text, "exit code 0") {
		t.Errorf("history:\n%s", text)
	}
	repo.CommitPush("another", sourcetest.Files{"cron.yaml": busybox("web", forever)})
	s.must("approve", repo.Head())
	s.must("sync", "--timeout", patience)
	if rows := s.rows(); len(rows) != 1 || rows["web"].State != report.StateRunning {
		t.Errorf("%+v", rows)
	}
	a.stop(os.Interrupt)
}
