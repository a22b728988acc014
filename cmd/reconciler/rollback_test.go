package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/image/imagetest"
)

// instances returns every container of a name, first the one that serves.
func (s *server) instances(name string) []report.Row {
	s.t.Helper()
	var all, rows []report.Row
	if err := json.Unmarshal([]byte(s.must("ps", "--all", "-o", "json")), &all); err != nil {
		s.t.Fatal(err)
	}
	for _, r := range all {
		if r.Name == name {
			rows = append(rows, r)
		}
	}
	return rows
}

// An update that fails ends where it began, with a registry that was never there: the old spec runs, status says RolledBack,
// sync ends with 4, and the output of what failed can be read.
func TestFailedUpdateIsRolledBack(t *testing.T) {
	s := newServer(t)
	const ref = "127.0.0.1:1/shop/app:1" // nothing listens there
	box := imagetest.Busybox(t, v1.Config{Entrypoint: []string{"/bin/sh", "-c", "echo up; exec sleep 100000"}})
	s.must("image", "load", imagetest.Archive(t, ref, box))
	app := func(more string) string {
		return "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: app}\nspec:\n  image: " + ref +
			"\n  network: none\n  init: true\n  terminationGracePeriodSeconds: 1\n  mounts: [{path: /data, volume: app}]\n" + more
	}
	port := freePort(t)
	files := sourcetest.Files{"page.yaml": page, "web.yaml": webServer("web", port, "strategy: {type: StartFirst}"), "app.yaml": app("")}
	repo := repository(t, files)
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	s.follow("logs", "-f", "web").await("serving")
	before := s.rows()

	dies := "echo last words; exit 3"
	repo.CommitPush("both crash", sourcetest.Files{
		"web.yaml": strings.Replace(files["web.yaml"], "busybox httpd", dies+"; busybox httpd", 1),
		"app.yaml": app(fmt.Sprintf("  command: [/bin/sh, -c, %q]\n", dies)),
	})
	if r := s.do("sync", "--timeout", patience); r.code != 4 || !strings.Contains(r.err, "RolledBack") || !strings.Contains(r.err, "exited with code 3") {
		t.Errorf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
	wantPage(t, port)
	for name, was := range before {
		now := s.rows()[name]
		if now.ID != was.ID || now.State != report.StateRunning || now.Reason != "RolledBack" || now.Health != report.Degraded || !strings.Contains(now.Message, "exited with code 3") {
			t.Errorf("%s: %+v", name, now)
		}
		if name == "web" && now.Pid != was.Pid {
			t.Errorf("%s was stopped: pid %d, was %d", name, now.Pid, was.Pid)
		}
		if out := s.do("logs", "--previous", name); !strings.Contains(out.out, "last words") {
			t.Errorf("logs --previous %s: %q %q", name, out.out, out.err)
		}
		if all := s.instances(name); len(all) != 2 || all[1].State != report.StateExited {
			t.Errorf("%s: %+v", name, all)
		}
	}
	if st := s.status(); st.Sync != report.OutOfSync || st.Health != report.Degraded || st.Reason != "RolledBack" {
		t.Errorf("status: %+v", st)
	}
	var history []journal.Entry
	if err := json.Unmarshal([]byte(s.must("history", "-o", "json")), &history); err != nil || history[0].Result != journal.ResultRolledBack {
		t.Errorf("history: %+v, %v", history, err)
	}

	// What cannot run is known before anything is stopped.
	repo.CommitPush("no such command", sourcetest.Files{"web.yaml": files["web.yaml"], "app.yaml": app("  command: [/no/such/program]\n")})
	if r := s.do("sync", "--timeout", patience); r.code != 4 || !strings.Contains(r.err, "/no/such/program") {
		t.Errorf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
	if now := s.rows()["app"]; now.ID != before["app"].ID || now.State != report.StateRunning || now.Reason != "RolledBack" {
		t.Errorf("app: %+v", now)
	}
	if now := s.rows()["web"]; now.Pid != before["web"].Pid || now.Health != report.Healthy || len(s.instances("web")) != 1 {
		t.Errorf("web is reverted: %+v", now)
	}
	repo.CommitPush("a fix", sourcetest.Files{"app.yaml": app("  env: {A: b}\n")})
	s.must("sync", "--timeout", patience)
	if all := s.instances("app"); len(all) != 1 || all[0].ID == before["app"].ID || all[0].Revision != repo.Head() {
		t.Errorf("app: %+v", all)
	}
}

// awaitRows waits until ok says so of all containers of a name.
func (s *server) awaitRows(name, what string, ok func([]report.Row) bool) []report.Row {
	s.t.Helper()
	var rows []report.Row
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if rows = s.instances(name); ok(rows) {
			return rows
		}
	}
	s.t.Fatalf("%s: not %s: %+v", name, what, rows)
	return nil
}

// An agent that is killed in the middle of an update leaves both containers as they are, and the next one goes on; a fix that is
// pushed meanwhile ends the attempt at once.
func TestKilledInTheMiddleOfAnUpdate(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	version := func(n, ready int) string {
		return webServer("web", port, fmt.Sprintf("strategy: {type: StartFirst, minReadySeconds: %d}", ready), fmt.Sprintf("env: {VERSION: %d}", n))
	}
	repo := repository(t, sourcetest.Files{"page.yaml": page, "web.yaml": version(1, 0)})
	agent := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	first := s.rows()["web"]
	two := func(rows []report.Row) bool {
		return len(rows) == 2 && rows[0].State == report.StateRunning && rows[1].State == report.StateRunning && rows[0].ID != first.ID
	}

	repo.CommitPush("one that has to stay for long", sourcetest.Files{"web.yaml": version(2, 3600)})
	second := s.awaitRows("web", "switched to the new one", two)
	agent.stop(syscall.SIGKILL)
	if now := s.instances("web"); !two(now) || now[0].Pid != second[0].Pid || now[1].Pid != first.Pid {
		t.Errorf("without an agent: %+v", now)
	}
	s.start("--repo", repo.Bare)
	s.awaitRows("web", "in progress", func(rows []report.Row) bool { return two(rows) && rows[0].Health == report.Progressing })
	if now := s.instances("web"); now[0].Pid != second[0].Pid || now[1].Pid != first.Pid {
		t.Errorf("the next agent: %+v", now)
	}
	repo.CommitPush("a fix", sourcetest.Files{"web.yaml": version(3, 1)})
	s.must("sync", "--timeout", patience)
	if now := s.instances("web"); len(now) != 1 || now[0].Revision != repo.Head() || now[0].ID == second[0].ID {
		t.Errorf("after a fix: %+v", now)
	}
	s.follow("logs", "-f", "web").await("serving")
	wantPage(t, port)
}

// What is never ready never serves: the ports stay with the old container, and the update is rolled back; one that becomes ready
// takes them over without the old one being stopped before.
func TestReadinessDecidesAnUpdate(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	version := func(n int, path string) string {
		return webServer("web", port, fmt.Sprintf("env: {VERSION: %d}", n), "strategy: {progressDeadlineSeconds: 3}",
			fmt.Sprintf("readinessProbe: {httpGet: {path: %s, port: http}, periodSeconds: 1}", path))
	}
	repo := repository(t, sourcetest.Files{"page.yaml": page, "web.yaml": version(1, "/")})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	wantPage(t, port)
	first := s.rows()["web"]

	repo.CommitPush("never ready", sourcetest.Files{"web.yaml": version(2, "/nothing")})
	if r := s.do("sync", "--timeout", patience); r.code != 4 || !strings.Contains(r.err, "not ready within 3s") || !strings.Contains(r.err, "404") {
		t.Errorf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
	wantPage(t, port)
	if now := s.instances("web"); len(now) != 2 || now[0].Pid != first.Pid || now[0].Reason != "RolledBack" || now[1].State != report.StateExited {
		t.Errorf("ps: %+v", now)
	}
	repo.CommitPush("ready", sourcetest.Files{"web.yaml": version(3, "/index.html")})
	s.must("sync", "--timeout", patience)
	wantPage(t, port)
	if now := s.instances("web"); len(now) != 1 || now[0].ID == first.ID || now[0].Revision != repo.Head() {
		t.Errorf("ps: %+v", now)
	}
	if out := s.must("history", "web"); !strings.Contains(out, "switch") {
		t.Errorf("history has no switch:\n%s", out)
	}
}
