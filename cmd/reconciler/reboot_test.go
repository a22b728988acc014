package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/idrange"
	"reconciler/runtime/image/imagetest"
	"reconciler/runtime/network"
)

// After a reboot with neither the remote nor the registry in reach everything of the last accepted commit comes back, what
// others depend on first, with the files in its volumes, from what is on the disk.
func TestRebootOffline(t *testing.T) {
	s := newServer(t)
	shop := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(shop.Close)
	ref := strings.TrimPrefix(shop.URL, "http://") + "/shop/db:1"
	imagetest.Push(t, ref, imagetest.Busybox(t, v1.Config{Entrypoint: []string{"/bin/sh", "-c", "date >>/data/starts; " + forever}}))
	db := "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: db}\nspec: {image: \"" + ref + "\", init: true, network: bridge, " +
		"mounts: [{path: /data, volume: data}], terminationGracePeriodSeconds: 1}\n"
	port := freePort(t)
	repo := repository(t, sourcetest.Files{
		"db.yaml": db, "page.yaml": page,
		"api.yaml": busybox("api", forever, "dependsOn: [db]", "resources: {limits: {disk: 4Mi, memory: 32Mi}}"),
		"web.yaml": webServer("web", port, "dependsOn: [api]"),
	})
	git := sourcetest.GitHTTP(t, repo.Root, sourcetest.HTTPOptions{})
	agent := s.start("--repo", git.Repo("fleet.git"))
	s.must("sync", "--timeout", patience)
	before := s.rows()
	accepted := s.status().Accepted.Commit

	agent.stop(syscall.SIGKILL)
	shop.Close()
	git.CloseClientConnections()
	git.Close()
	s.reboot()
	for name, row := range s.rows() {
		if row.State != report.StateExited || row.Reason != "SupervisorLost" {
			t.Errorf("%s, seen before the agent starts: %+v", name, row)
		}
	}
	s.start("--repo", git.Repo("fleet.git"))
	after := map[string]report.Row{}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		after = s.rows()
		if !slices.ContainsFunc([]string{"db", "api", "web"}, func(name string) bool { return after[name].State != report.StateRunning }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not everything is back:\n%s", s.do("ps").out)
		}
	}
	for _, name := range []string{"db", "api", "web"} {
		if was, is := before[name], after[name]; is.ID != was.ID || is.IP != was.IP || is.ImageDigest != was.ImageDigest || is.Revision != accepted {
			t.Errorf("%s came back as %+v, was %+v", name, is, was)
		}
	}
	if d, a, w := *after["db"].StartedAt, *after["api"].StartedAt, *after["web"].StartedAt; a.Before(d) || w.Before(a) {
		t.Errorf("started at %v, %v, %v: db, api and web depend on each other", d, a, w)
	}
	if out := s.must("exec", "db", "--", "/bin/busybox", "wc", "-l", "/data/starts"); !strings.HasPrefix(out, "2 ") {
		t.Errorf("starts that db's volume tells of: %q", out)
	}
	s.follow("logs", "-f", "web").await("serving")
	wantPage(t, port)
	st := s.status()
	if st.Accepted == nil || st.Accepted.Commit != accepted || st.LastFetch.OK || st.NextFetch == nil {
		t.Errorf("status: %+v", st)
	}
}

// reboot leaves of this server what a power cut would: files of its state directory, which are of another boot now. No agent
// may run.
func (s *server) reboot() {
	t := s.t
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if pid := s.supervisor().Pid; pid != 0 {
		check(unix.Kill(pid, unix.SIGKILL))
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		pids := s.processes()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v do not end", pids)
		}
	}
	below := func(m *mountinfo.Info) (skip, stop bool) { return !strings.HasPrefix(m.Mountpoint, s.dir+"/"), false }
	mounts, err := mountinfo.GetMounts(below)
	check(err)
	for _, m := range slices.Backward(mounts) {
		check(unix.Unmount(m.Mountpoint, unix.MNT_DETACH))
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/reconciler/" + s.instance + "/*")
	check(err)
	unified, err := filepath.Glob("/sys/fs/cgroup/reconciler/" + s.instance + "/*")
	check(err)
	for _, dir := range append(cgroups, unified...) {
		if info, statErr := os.Lstat(dir); statErr == nil && info.IsDir() {
			check(os.Remove(dir))
		}
	}
	leases := filepath.Join(s.state(), "network", "leases.json")
	kept, err := os.ReadFile(leases)
	check(err)
	check(network.Open(network.Config{Instance: s.instance, StateDir: s.state()}).Destroy(t.Context()))
	check(os.WriteFile(leases, kept, 0o600))
	holders, err := idrange.Open(idrange.Dir).Holders()
	check(err)
	for first, holder := range holders {
		if strings.HasPrefix(holder, s.state()+"/") {
			check(idrange.Open(idrange.Dir).Release(holder, first))
		}
	}
	check(os.RemoveAll(s.run()))
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	check(err)
	this, another := bytes.TrimSpace(boot), []byte("00000000-0000-4000-8000-000000000000")
	check(filepath.WalkDir(s.state(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, this) || !json.Valid(text) {
			return err
		}
		return os.WriteFile(path, bytes.ReplaceAll(text, this, another), 0o600)
	}))
}

// processes returns those in this instance's cgroups.
func (s *server) processes() (pids []int) {
	s.t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range entries {
		text, err := os.ReadFile(path)
		stat, statErr := os.ReadFile(filepath.Join(filepath.Dir(path), "stat"))
		if err != nil || statErr != nil || bytes.Contains(stat, []byte(") Z ")) || !strings.Contains(string(text), "/reconciler/"+s.instance+"/") {
			continue // it has ended, or is not ours
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestManyUntouched starts a new agent on a node with many containers: it finds that nothing is to be done, and touches
// none. How long that took is told.
func TestManyUntouched(t *testing.T) {
	s := newServer(t)
	n := either(20, 100)
	files := sourcetest.Files{}
	for i := range n {
		name := fmt.Sprintf("c%03d", i)
		files[name+".yaml"] = busybox(name, "exec sleep 100000")
	}
	repo := repository(t, files)
	agent := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", "5m")
	before, was := s.rows(), s.supervisor()
	if len(before) != n {
		t.Fatalf("%d containers, want %d", len(before), n)
	}
	for range 3 {
		agent.stop(syscall.SIGKILL)
		began := time.Now()
		agent = s.start("--repo", repo.Bare)
		s.must("sync", "--timeout", patience)
		t.Logf("%d containers: converged %v after the start of a new agent", n, time.Since(began).Round(time.Millisecond))
		after := s.rows()
		for name, row := range before {
			if is := after[name]; is.Pid != row.Pid || is.ID != row.ID || !is.StartedAt.Equal(*row.StartedAt) || is.Restarts != 0 {
				t.Errorf("%s was touched: %+v, was %+v", name, is, row)
			}
		}
		if now := s.supervisor(); now.Pid != was.Pid || now.Running != n {
			t.Errorf("supervisor: %+v, was %+v", now, was)
		}
		if strings.Contains(agent.log.String(), "step begins") {
			t.Errorf("there was something to do:\n%s", agent.log)
		}
	}
}
