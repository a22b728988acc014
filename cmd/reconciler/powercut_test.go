package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/reconcile/source/sourcetest"
)

// powerCut ends everything of the server at once, and leaves of each file that nobody waited for to reach the disk its name
// and nothing in it.
func (s *server) powerCut(agent *agent) {
	s.t.Helper()
	pids := []int{s.supervisorPid()}
	for _, row := range s.rows() {
		pids = append(pids, row.Pid)
	}
	agent.stop(syscall.SIGKILL)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Fatal(err)
		}
	}
	for _, pid := range pids {
		for deadline := time.Now().Add(time.Minute); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				s.t.Fatalf("process %d does not end", pid)
			}
		}
	}
	for _, mount := range s.mounts() {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			s.t.Fatalf("%s: %v", mount, err)
		}
	}
	if err := os.RemoveAll(s.run()); err != nil {
		s.t.Fatal(err)
	}
	for _, pattern := range []string{"*/reconciler/%s/*", "*/reconciler/%s", "reconciler/%s/*", "reconciler/%s"} {
		groups, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", fmt.Sprintf(pattern, s.instance)))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, group := range groups {
			_ = unix.Rmdir(group) // one hierarchy may be there under two names; and files are no groups
		}
	}
	torn := 0
	for _, pattern := range []string{"containers/*/*.json", "containers/*/index*", "containers/*/std*", "layers/*/layer.json"} {
		files, err := filepath.Glob(filepath.Join(s.state(), pattern))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, file := range files {
			torn++
			if err := os.Truncate(file, 0); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	if torn == 0 {
		s.t.Fatal("no file was found to tear")
	}
}

// mounts returns the mounts of this server, the innermost first.
func (s *server) mounts() []string {
	s.t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if at := strings.Fields(lines.Text())[4]; strings.HasPrefix(at, s.dir+"/") {
			found = append(found, at)
		}
	}
	slices.Reverse(found)
	return found
}

// After a power cut that tore all that is not synced, and with the repository out of reach, everything comes back from what
// was accepted, volumes with what was in them.
func TestPowerCut(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{
		"a.yaml": busybox("a", "cat /data/kept; echo kept >/data/kept; echo written; "+forever, "mounts: [{path: /data, volume: data}]"),
		"b.yaml": busybox("b", forever),
	})
	agent := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	said := s.follow("logs", "-f", "a")
	said.await("written")
	said.stop()
	s.powerCut(agent)
	if err := os.Rename(repo.Bare, repo.Bare+".gone"); err != nil {
		t.Fatal(err)
	}
	s.start("--repo", repo.Bare)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		rows := s.rows()
		if len(rows) == 2 && rows["a"].State == "Running" && rows["b"].State == "Running" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not everything came back: %+v", rows)
		}
	}
	s.follow("logs", "-f", "a").await("kept") // what was in the volume
	if st := s.status(); st.LastFetch.OK || st.Accepted == nil || st.Accepted.Commit != repo.Head() {
		t.Errorf("status: %+v", st)
	}
}
