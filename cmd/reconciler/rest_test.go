package main

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/source/sourcetest"
)

// TestRestWritesNothing polls a repository in which nothing changes: not one file of the state directory may become another,
// and neither process may write to a disk.
func TestRestWritesNothing(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	repo := repository(t, sourcetest.Files{
		"alone.yaml": busybox("alone", forever),
		"web.yaml": strings.Replace(busybox("web", "exec busybox httpd -f -p 8080", fmt.Sprintf("ports: [{name: http, containerPort: 8080, hostPort: %d}]", port),
			"readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}", "mounts: [{path: /data, volume: data}]"), "network: none", "network: bridge", 1),
		"job.yaml": work("Job", "job", `command: [/bin/busybox, "true"]`),
	})
	a := s.start("--repo", sourceServer(t, repo), "--interval", "1s")
	s.must("sync", "--timeout", patience)
	supervisor := s.supervisorPid()
	written := func(pid int) string {
		io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`(?m)^write_bytes: .*$`).FindString(string(io))
	}
	look := func() map[string]string {
		all := map[string]string{"the agent": written(a.cmd.Process.Pid), "the supervisor": written(supervisor)}
		maps.Copy(all, filesOf(t, s.state()))
		return all
	}
	// What comes after a commit is still going on when sync returns, such as looking for images that nobody needs.
	before := look()
	for deadline := time.Now().Add(time.Minute); ; {
		time.Sleep(2 * time.Second)
		after := look()
		if reflect.DeepEqual(after, before) || time.Now().After(deadline) {
			break
		}
		before = after
	}
	for range either(20, 200) {
		s.must("sync", "--timeout", patience)
	}
	after := look()
	for name := range after {
		if after[name] != before[name] {
			t.Errorf("%s: %s, was %q", name, after[name], before[name])
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, were %d", len(after), len(before))
	}
	a.stop(os.Interrupt)
}

// filesOf tells what would be another after a file or directory below dir was written, by name.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		all[path] = fmt.Sprintf("inode %d, %d bytes, written %d, changed %d", st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCronEverySecond has CronJobs run real containers every second: each second of a while has its one run of each of them,
// and each run is one start.
func TestCronEverySecond(t *testing.T) {
	s := newServer(t)
	jobs, seconds := either(3, 50), either(8, 60)
	files := func(more string) sourcetest.Files {
		files := sourcetest.Files{}
		for i := range jobs {
			name := fmt.Sprintf("tick-%d", i)
			files[name+".yaml"] = work("CronJob", name, `schedule: "@every 1s"`, "successfulJobsHistoryLimit: 1", more,
				"command: [/bin/busybox, sh, -c, 'echo >>/data/runs']", "mounts: [{path: /data, volume: "+name+"}]")
		}
		return files
	}
	repo := repository(t, files("suspend: false"))
	a := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	begun, used := time.Now(), cpuTime(t, a.cmd.Process.Pid)
	var runs map[string]map[time.Time]int
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		runs = s.runsOf()
		if len(runs) == jobs && !hasGap(runs, seconds) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not every second of %d has its run: %v", seconds, runs)
		}
	}
	t.Logf("%d CronJobs: %v of processor time in %v", jobs, cpuTime(t, a.cmd.Process.Pid)-used, time.Since(begun))
	repo.CommitPush("no more", files("suspend: true"))
	s.must("sync", "--timeout", patience)
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		kept, err := journal.Read(s.state())
		if err != nil {
			t.Fatal(err)
		}
		open := 0
		for _, r := range kept.State.Ledger.Jobs {
			if r.Result == "" {
				open++
			}
		}
		if open == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d runs do not end", open)
		}
	}
	for name, at := range s.runsOf() {
		for when, n := range at {
			if n != 1 {
				t.Errorf("%s: the run of %v ended %d times", name, when, n)
			}
		}
		content, err := os.ReadFile(filepath.Join(s.state(), "volumes", "default", name, "data", "runs"))
		if n := strings.Count(string(content), "\n"); err != nil || n != len(at) {
			t.Errorf("%s: %d runs, %d starts, %v", name, len(at), n, err)
		}
	}
	a.stop(os.Interrupt)
}

// runsOf counts how often each run of each CronJob ended well, by the time at which it was due; others are told as wrong.
func (s *server) runsOf() map[string]map[time.Time]int {
	s.t.Helper()
	kept, err := journal.Read(s.state())
	if err != nil {
		s.t.Fatal(err)
	}
	runs := map[string]map[time.Time]int{}
	for _, r := range kept.Records {
		switch {
		case r.Reason == plan.NoteMissed || r.Reason == plan.NoteSkipped, r.Type == journal.TypeRan && r.Result != string(plan.JobSucceeded):
			s.t.Errorf("%+v", r)
		case r.Type == journal.TypeRan:
			name := r.Name.Name
			if runs[name] == nil {
				runs[name] = map[time.Time]int{}
			}
			runs[name][*r.Run]++
		}
	}
	return runs
}

// hasGap reports whether one of so many seconds after the first has no run of a CronJob.
func hasGap(runs map[string]map[time.Time]int, seconds int) bool {
	for _, at := range runs {
		var first time.Time
		for when := range at {
			if first.IsZero() || when.Before(first) {
				first = when
			}
		}
		for i := range seconds {
			if at[first.Add(time.Duration(i)*time.Second)] == 0 {
				return true
			}
		}
	}
	return false
}
