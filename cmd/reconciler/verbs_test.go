package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// badLine is a command line that has to fail, and words of what it says then.
type badLine struct {
	args string
	want []string
}

// mustFail runs command lines that cannot go well: each ends with 1 (exec with 125), says why, and prints nothing else.
func (s *server) mustFail(t *testing.T, lines []badLine) {
	t.Helper()
	for _, line := range lines {
		want := 1
		if strings.HasPrefix(line.args, "exec ") {
			want = 125
		}
		r := s.do(strings.Fields(line.args)...)
		if r.code != want || r.out != "" {
			t.Errorf("%s: status %d, want %d; stdout %q", line.args, r.code, want, r.out)
		}
		for _, word := range line.want {
			if !strings.Contains(r.err, word) {
				t.Errorf("%s: no %q in:\n%s", line.args, word, r.err)
			}
		}
		asJSON := s.do(append([]string{"-o", "json"}, strings.Fields(line.args)...)...)
		var told errorReport
		if err := json.Unmarshal([]byte(asJSON.err), &told); err != nil || told.Error.Message == "" {
			t.Errorf("%s -o json: %v\n%s", line.args, err, asJSON.err)
		}
	}
}

// What a container wrote: of which start, since when, how much of it, and as it comes.
func TestLogs(t *testing.T) {
	s := newServer(t)
	script := `echo "start of $$"; echo more >&2; while [ ! -e /tell ]; do sleep 0.02; done; echo told; while true; do sleep 3600; done`
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", script)})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	follow := s.follow("logs", "a", "-f", "--timestamps")
	line := follow.await("start of ")
	if _, err := time.Parse(time.RFC3339Nano, strings.Fields(line)[0]); err != nil {
		t.Errorf("--timestamps: %q: %v", line, err)
	}
	s.mustFail(t, []badLine{{"logs a --previous", []string{"a: no start before the present one"}}})
	s.must("exec", "a", "--", "/bin/busybox", "touch", "/tell")
	follow.await("told")
	afterFirst := time.Now().UTC()
	s.must("restart", "a")
	follow.await("start of ") // the output of a restarted container goes on in the same place
	if out := s.must("logs", "a", "--previous"); strings.Count(out, "start of") != 1 || !strings.Contains(out, "told") {
		t.Errorf("--previous: %q", out)
	}
	if out := s.must("logs", "a"); strings.Count(out, "start of") != 2 || !strings.Contains(out, "told") {
		t.Errorf("all: %q", out)
	}
	if out := s.must("logs", "a", "--since", afterFirst.Format(time.RFC3339Nano)); strings.Count(out, "start of") != 1 || strings.Contains(out, "told") {
		t.Errorf("--since a time: %q", out)
	}
	if out := s.must("logs", "a", "--since", "1h"); strings.Count(out, "start of") != 2 {
		t.Errorf("--since 1h: %q", out)
	}
	if r := s.do("logs", "a", "--stream", "stderr"); r.out != "" || strings.Count(r.err, "more") != 2 {
		t.Errorf("--stream stderr: %q %q", r.out, r.err)
	}
	if out := s.must("logs", "a", "--tail", "1", "--stream", "stdout"); strings.Count(out, "\n") != 1 {
		t.Errorf("--tail 1: %q", out)
	}
	s.mustFail(t, []badLine{
		{"logs b", []string{"b: no such container here", "hint: "}},
		{"logs a -n shop", []string{"shop/a: no such container here"}},
		{"logs a --since yesterday", []string{`--since "yesterday": want a duration`}},
		{"logs a --stream stdin", []string{`--stream "stdin": want stdout or stderr`}},
	})
}

// What the agent tells while it happens, and keeps.
func TestEventsAndHistory(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever), "b.yaml": busybox("b", forever)})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	first := repo.Head()
	all, ofA := s.follow("events", "-f", "--tail", "0", "-o", "json"), s.follow("events", "a", "-f", "--tail", "0")
	repo.CommitPush("another a", sourcetest.Files{"a.yaml": busybox("a", "echo another; "+forever)})
	var event report.Event
	if err := json.Unmarshal([]byte(all.await("replace took")), &event); err != nil || event.Name == nil || event.Name.Name != "a" {
		t.Errorf("events -f -o json: %v %+v", err, event)
	}
	if line := ofA.await("replace took"); !strings.Contains(line, "a ") {
		t.Errorf("events a -f: %q", line)
	}
	s.must("sync", "--timeout", patience)
	var ofName, whole []journal.Entry
	if err := json.Unmarshal([]byte(s.must("history", "-o", "json")), &whole); err != nil || len(whole) != 2 || whole[0].Revision != repo.Head() {
		t.Errorf("history: %v %+v", err, whole)
	}
	if err := json.Unmarshal([]byte(s.must("history", "b", "-o", "json")), &ofName); err != nil || len(ofName) != 1 || ofName[0].Revision != first {
		t.Errorf("history of what the second commit left alone: %v %+v", err, ofName)
	}
	if out := s.must("history", "a"); !strings.Contains(out, `"another a"`) || !strings.Contains(out, "Ada Lovelace") || strings.Contains(out, " b ") {
		t.Errorf("history a:\n%s", out)
	}
	for _, verb := range []string{"history", "events"} {
		if r := s.do(verb, "nope"); r.code != 0 || r.out != "" || !strings.Contains(r.err, "nope") {
			t.Errorf("%s of a name that nobody knows: status %d, %q %q", verb, r.code, r.out, r.err)
		}
		if out := s.must(verb, "nope", "-o", "json"); out != "[]\n" {
			t.Errorf("%s -o json of a name that nobody knows: %q", verb, out)
		}
	}
	if out := s.must("events", "--tail", "1"); strings.Count(out, "\n") != 1 {
		t.Errorf("events --tail 1: %q", out)
	}
}

// The plan of a commit that is not followed yet, by the agent and without one; and what the other verbs answer.
func TestPlanAndRequests(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever), "b.yaml": busybox("b", "exit 3", "restartBackoff: {initial: 1h, max: 1h}")})
	agent := s.start("--repo", repo.Bare)
	s.awaitEvent([]string{"a"}, "Done", "create took")
	s.must("suspend")
	s.must("suspend") // twice is once
	if st := s.status(); st.Sync != report.Suspended {
		t.Errorf("status: %+v", st)
	}
	repo.CommitPush("change", sourcetest.Files{"a.yaml": busybox("a", "echo two; "+forever), "c.yaml": busybox("c", forever)})
	if r := s.do("sync", "--timeout", "20s", "-o", "json"); r.code != 1 || !json.Valid([]byte(r.out)) || !strings.Contains(r.out, "reconciler resume") {
		t.Errorf("sync while suspended: status %d\n%s%s", r.code, r.out, r.err)
	}
	s.mustFail(t, []badLine{
		{"restart nope", []string{"nope: not found", "hint: "}},
		{"retry nope", []string{"nope: not found", "hint: "}},
		{"restart shop/nope/x", []string{"want NAME or NAMESPACE/NAME"}},
		{"approve zzz", []string{"zzz", "hint: "}},
		{"approve", []string{"wants COMMIT, but was given nothing"}},
		{"exec nope -- true", []string{"nope: no such container here"}},
		{"exec b -- true", []string{"b"}},
		{"describe nope", []string{"nope: not found"}},
	})
	agent.stop(syscall.SIGTERM)
	flags := []string{"plan", "--repo", repo.Bare, "--allow-capture", "/bin", "--detailed-exitcode"}
	r := s.do(flags...)
	if r.code != 2 || !strings.Contains(r.out, "replace  a: ") || !strings.Contains(r.out, "create   c: ") {
		t.Errorf("plan without an agent: status %d\n%s%s", r.code, r.out, r.err)
	}
	var p report.Plan
	if err := json.Unmarshal([]byte(s.must("plan", "--repo", repo.Bare, "--allow-capture", "/bin", "-o", "json")), &p); err != nil || p.Revision != repo.Head() {
		t.Errorf("plan -o json: %v %+v", err, p)
	}
	s.mustFail(t, []badLine{
		{"plan", []string{"the agent of instance " + s.instance + " is not running", "--repo"}},
		{"plan --repo " + repo.Bare + " --branch mian", []string{"there is no branch mian", "main"}},
		{"plan --repo /no/such/place", []string{"/no/such/place", "hint: "}},
		{"suspend", []string{"is not running", "hint: start it with"}},
		{"approve " + repo.Head(), []string{"is not running"}},
		{"events -f", []string{"no agent runs here"}},
	})
	// Suspended is kept: the next agent changes nothing, until it is resumed.
	s.start("--repo", repo.Bare)
	if r := s.do("plan", "--detailed-exitcode"); r.code != 2 && r.code != 0 {
		t.Errorf("plan of the agent: status %d\n%s", r.code, r.err)
	}
	if _, there := s.rows()["c"]; there {
		t.Error("a suspended agent made c")
	}
	s.must("resume")
	s.awaitEvent([]string{"c"}, "Done", "create took")
	s.must("retry", "b")
}
