package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/rootfs"
)

// The way of a commit from a bare repository to a container and away again, with the real program.
func TestTheWayOfACommit(t *testing.T) {
	s := newServer(t)
	sourcetest.WriteTree(t, s.secret, sourcetest.Files{"web/token": "s3cr3t-canary"})
	repo := repository(t, sourcetest.Files{
		"web.yaml": busybox("web", `echo "$GREETING from $NODE"; echo to stderr >&2; cat /etc/web/app.conf; while true; do sleep 3600; done`,
			"env: {GREETING: hello, NODE: {node: name}}",
			"mounts: [{path: /etc/web, config: web}, {path: /data, volume: data}, {path: /run/secrets/web, secret: web}]"),
		"config.yaml": fmt.Sprintf("apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: web}\ndata: {app.conf: \"workers = 4\\n\"}\n"+
			"---\napiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: web}\nspec: {fromDirectory: %s/web}\n", s.secret),
	})
	agent := s.start("--repo", repo.Bare, "--node", "n1")
	s.must("sync", "--timeout", patience)

	web := s.rows()["web"]
	if web.State != "Running" || web.Health != "Healthy" || web.Pid == 0 || web.Revision != repo.Head() {
		t.Fatalf("ps: %+v", web)
	}
	if out := s.must("logs", "web"); out != "hello from n1\nworkers = 4\n" {
		t.Errorf("logs on stdout: %q", out)
	}
	if r := s.do("logs", "web"); r.err != "to stderr\n" {
		t.Errorf("logs on stderr: %q", r.err)
	}
	if out := s.must("exec", "web", "--", "/bin/busybox", "hostname"); out != "web\n" {
		t.Errorf("hostname inside: %q", out)
	}
	if out := s.must("exec", "web", "--", "/bin/busybox", "cat", "/run/secrets/web/token"); out != "s3cr3t-canary" {
		t.Errorf("secret inside: %q", out)
	}
	if r := s.do("exec", "web", "--", "/bin/busybox", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("exec: status %d, want the command's 7", r.code)
	}
	if r := s.doWith(strings.NewReader("through\n"), "exec", "-i", "web", "--", "/bin/busybox", "cat"); r.out != "through\n" {
		t.Errorf("exec -i: %q %q", r.out, r.err)
	}
	if r := s.do("exec", "web", "--", "/no/such/program"); r.code != 127 && r.code != 125 {
		t.Errorf("exec of what is not there: status %d\n%s", r.code, r.err)
	}
	describe := s.must("describe", "web")
	for _, want := range []string{"web.yaml:1", repo.Head()[:12], "Ada Lovelace <ada@example.com>", "Running"} {
		if !strings.Contains(describe, want) {
			t.Errorf("describe has no %q:\n%s", want, describe)
		}
	}
	if st := s.status(); st.Sync != report.Synced || st.Applied == nil || st.Applied.Commit != repo.Head() {
		t.Errorf("status: %+v", st)
	}

	// What needs no agent works without one, and the container goes on.
	agent.stop(syscall.SIGKILL)
	if again := s.rows()["web"]; again.Pid != web.Pid || again.State != "Running" {
		t.Errorf("ps without an agent: %+v", again)
	}
	for _, args := range [][]string{{"logs", "web"}, {"describe", "web"}, {"history"}, {"exec", "web", "--", "/bin/busybox", "true"}, {"events"}, {"status"}} {
		if r := s.do(args...); r.code != 0 || (len(r.out) == 0 && args[0] != "exec") {
			t.Errorf("%v without an agent: status %d\n%s", args, r.code, r.err)
		}
	}
	if r := s.do("restart", "web"); r.code != 1 || !strings.Contains(r.err, "hint: start it with `reconciler agent`") {
		t.Errorf("restart without an agent: status %d\n%s", r.code, r.err)
	}
	if out := s.must("plan", "--repo", repo.Bare, "--node", "n1", "--allow-capture", "/bin", "--allow-secret-path", s.secret, "--detailed-exitcode"); !strings.Contains(out, "nothing to do") {
		t.Errorf("plan without an agent: %q", out)
	}

	// The next agent finds what runs and goes on.
	s.start("--repo", repo.Bare, "--node", "n1")
	s.must("sync", "--timeout", patience)
	if again := s.rows()["web"]; again.Pid != web.Pid {
		t.Errorf("the next agent replaced what ran: pid %d, was %d", again.Pid, web.Pid)
	}
	s.leaksNoSecret("s3cr3t-canary")
}

// leaksNoSecret looks for the secret in everything that is kept on disk, and in what verbs say.
func (s *server) leaksNoSecret(canary string) {
	s.t.Helper()
	err := filepath.WalkDir(s.state(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what goes away meanwhile holds nothing
		}
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), canary) {
			s.t.Errorf("the secret is in %s", path)
		}
		return nil
	})
	if err != nil {
		s.t.Error(err)
	}
	for _, args := range [][]string{{"describe", "web", "-o", "json"}, {"history", "-o", "json"}, {"events"}, {"plan", "-o", "json"}, {"ps", "-o", "yaml"}} {
		if r := s.do(args...); strings.Contains(r.out+r.err, canary) {
			s.t.Errorf("%v tells the secret", args)
		}
	}
}

func TestChangesAndRemovals(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{
		"a.yaml": busybox("a", forever, "resources: {limits: {memory: 32Mi}}"),
		"b.yaml": busybox("b", forever, "mounts: [{path: /data, volume: b}]"),
	})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	before := s.rows()

	// A limit is changed on what runs; another command replaces; what did not change is left alone.
	repo.CommitPush("limit", sourcetest.Files{"a.yaml": busybox("a", forever, "resources: {limits: {memory: 48Mi}}")})
	s.must("sync", "--timeout", patience)
	if a := s.rows()["a"]; a.Pid != before["a"].Pid || a.Revision != repo.Head() {
		t.Errorf("a limit was changed: pid %d, was %d; revision %s", a.Pid, before["a"].Pid, a.Revision)
	}
	repo.CommitPush("command", sourcetest.Files{"a.yaml": busybox("a", "echo second; "+forever)})
	if out := s.must("sync", "--timeout", patience); !strings.Contains(out, "converged at "+repo.Head()[:12]) {
		t.Errorf("sync: %q", out)
	}
	after := s.rows()
	if after["a"].Pid == before["a"].Pid || after["b"].Pid != before["b"].Pid {
		t.Errorf("before %v after %v", before, after)
	}

	// Restart, and the process that is killed: both come back with another pid.
	s.must("restart", "a")
	s.awaitEvent([]string{"a"}, "Done", "restart took")
	if err := syscall.Kill(after["b"].Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.awaitEvent([]string{"b"}, "Done", "restart took")
	if b := s.rows()["b"]; b.Pid == after["b"].Pid || b.Restarts != 1 || b.State != "Running" {
		t.Errorf("killed and back: %+v", b)
	}

	// One goes, its volume stays as an orphan.
	repo.CommitPush("b goes", sourcetest.Files{"b.yaml": sourcetest.Removed})
	s.must("sync", "--timeout", patience)
	if _, still := s.rows()["b"]; still {
		t.Error("b is still here")
	}
	var volumes []rootfs.Volume
	if err := json.Unmarshal([]byte(s.must("volume", "ls", "-o", "json")), &volumes); err != nil || len(volumes) != 1 || !volumes[0].Orphan {
		t.Errorf("volumes: %v %+v", err, volumes)
	}
	s.must("volume", "rm", "b")

	// Suspended, nothing is followed; resumed, it is.
	s.must("suspend")
	repo.CommitPush("while suspended", sourcetest.Files{"a.yaml": busybox("a", "echo third; "+forever)})
	if r := s.do("sync", "--timeout", "20s"); r.code != 1 || !strings.Contains(r.err, "reconciler resume") {
		t.Errorf("sync while suspended: status %d\n%s", r.code, r.err)
	}
	s.must("resume")
	s.must("sync", "--timeout", patience)
	if out := s.must("logs", "a"); !strings.Contains(out, "third") {
		t.Errorf("after resume: %q", out)
	}

	// Down under a running agent stays down, until it is resumed.
	s.must("down")
	if r := s.do("sync", "--timeout", "20s"); r.code != 1 {
		t.Errorf("sync after down: status %d", r.code)
	}
	for name, row := range s.rows() {
		if row.Pid != 0 {
			t.Errorf("after down %s runs: %+v", name, row)
		}
	}
	s.must("resume")
	s.must("sync", "--timeout", patience)
	if a := s.rows()["a"]; a.State != "Running" {
		t.Errorf("after down and resume: %+v", a)
	}
	if out := s.must("history", "-o", "json"); !strings.Contains(out, `"result": "Applied"`) || strings.Count(out, `"revision"`) < 5 {
		t.Errorf("history:\n%s", out)
	}
}

func TestGuardAndApproval(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever), "b.yaml": busybox("b", forever)})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	before := s.rows()
	repo.CommitPush("empty", sourcetest.Files{"a.yaml": sourcetest.Removed, "b.yaml": sourcetest.Removed})
	if r := s.do("sync", "--timeout", patience); r.code != 3 || !strings.Contains(r.err, "Blocked") {
		t.Fatalf("sync of an emptied repository: status %d\n%s", r.code, r.err)
	}
	if st := s.status(); st.Sync != report.Blocked || st.Reason != "Emptying" {
		t.Errorf("status: %+v", st)
	}
	if after := s.rows(); after["a"].Pid != before["a"].Pid || after["b"].Pid != before["b"].Pid {
		t.Errorf("touched while blocked: %+v", after)
	}
	if r := s.do("plan", "--detailed-exitcode"); r.code != 2 || !strings.Contains(r.out, "blocked (Emptying)") {
		t.Errorf("plan: status %d\n%s", r.code, r.out)
	}
	if r := s.do("approve", "abcdef0"); r.code != 1 || !strings.Contains(r.err, "hint: ") {
		t.Errorf("approve of a commit that nobody saw: status %d\n%s", r.code, r.err)
	}
	s.must("approve", repo.Head()[:10])
	s.must("sync", "--timeout", patience)
	if rows := s.rows(); len(rows) != 0 {
		t.Errorf("approved, and still here: %+v", rows)
	}
}

// sync needs no agent where the repository is named.
func TestSyncAlone(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	if r := s.do("sync"); r.code != 1 || !strings.Contains(r.err, "--repo") {
		t.Errorf("without agent and repository: status %d\n%s", r.code, r.err)
	}
	args := []string{"sync", "--repo", repo.Bare, "--allow-capture", "/bin", "--timeout", patience}
	s.must(args...)
	first := s.rows()["a"]
	if first.State != "Running" {
		t.Fatalf("ps: %+v", first)
	}
	s.must(args...)
	if again := s.rows()["a"]; again.Pid != first.Pid {
		t.Errorf("a second sync touched it: %+v", again)
	}
	// What cannot be started is no success, and touches nothing else.
	repo.CommitPush("no such program", sourcetest.Files{"b.yaml": strings.Replace(busybox("b", "x"), "command: [/bin/busybox", "command: [/bin/bsybox", 1)})
	if r := s.do(args...); r.code != 1 || !strings.Contains(r.err, "b: ") || !strings.Contains(r.err, "/bin/bsybox") {
		t.Errorf("sync with a program that is not there: status %d\n%s%s", r.code, r.out, r.err)
	}
	if again := s.rows()["a"]; again.Pid != first.Pid {
		t.Errorf("its neighbour was touched: %+v", again)
	}
}
