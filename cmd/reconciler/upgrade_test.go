package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"reconciler/reconcile/source/sourcetest"
)

// nextRelease builds the program as another release.
func (s *server) nextRelease(name string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, "reconciler-"+name)
	cmd := exec.CommandContext(s.t.Context(), "go", "build", "-tags", "seccomp", "-ldflags", "-X main.version="+name, "-o", path, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// supervisor returns what `version` says of this server's supervisor.
func (s *server) supervisor() supervisorReport {
	s.t.Helper()
	var v versionReport
	if err := json.Unmarshal([]byte(s.must("version", "-o", "json")), &v); err != nil {
		s.t.Fatal(err)
	}
	for _, one := range v.Supervisors {
		if one.Instance == s.instance {
			return one
		}
	}
	return supervisorReport{}
}

// A new agent's binary takes over: the supervisor executes it in place, and no container is touched. What they say comes
// on, names are answered, commands run, and a command that runs goes on.
func TestNewReleaseTakesOver(t *testing.T) {
	s := newServer(t)
	next := s.nextRelease("v9.9.9")
	counter := "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done"
	asker := "until busybox nslookup count >/dev/null 2>&1; do busybox sleep 0.1; done; echo asking; while true; do busybox nslookup count >/dev/null 2>&1 || echo not known; done"
	repo := repository(t, sourcetest.Files{
		"count.yaml": strings.Replace(busybox("count", counter), "network: none", "network: bridge", 1),
		"asker.yaml": strings.Replace(busybox("asker", asker), "network: none", "network: bridge", 1),
		"other.yaml": strings.Replace(busybox("other", forever), "network: none", "network: bridge", 1),
	})
	old := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	before, was := s.rows(), s.supervisor()
	if was.Running != 3 || was.Binary == "v9.9.9" {
		t.Fatalf("before: %+v", was)
	}
	session := s.follow("exec", "other", "--", "/bin/busybox", "sh", "-c", "echo began; while [ ! -e /tmp/go ]; do busybox sleep 0.1; done; echo went on")
	session.await("began")
	s.follow("logs", "-f", "asker").await("asking")

	old.stop(syscall.SIGKILL)
	s.bin = next
	if out := s.must("version"); !strings.Contains(out, "another release") {
		t.Errorf("version says nothing of another release:\n%s", out)
	}
	s.start("--repo", repo.Bare)
	now := s.supervisor()
	for deadline := time.Now().Add(time.Minute); now.Binary != "v9.9.9" && time.Now().Before(deadline); now = s.supervisor() {
		time.Sleep(50 * time.Millisecond)
	}
	if now.Binary != "v9.9.9" || now.Pid != was.Pid || now.Running != 3 {
		t.Errorf("the supervisor was %+v, is %+v", was, now)
	}
	s.must("sync", "--timeout", patience)
	for name, row := range s.rows() {
		if b := before[name]; row.Pid != b.Pid || row.Restarts != b.Restarts {
			t.Errorf("%s was pid %d with %d restarts, is %d with %d", name, b.Pid, b.Restarts, row.Pid, row.Restarts)
		}
	}
	if out := s.must("logs", "asker"); !strings.HasSuffix(out, "asking\n") {
		t.Errorf("a name that is there all the time:\n%s", out)
	}
	s.must("exec", "other", "--", "/bin/busybox", "touch", "/tmp/go")
	session.await("went on")
	s.must("exec", "count", "--", "/bin/busybox", "true")
	lines := strings.Split(strings.TrimSpace(s.must("logs", "count")), "\n")
	for i, line := range lines {
		if !strings.Contains(line, fmt.Sprint("line ", i+1)) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
}
