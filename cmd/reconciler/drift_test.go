package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"

	"reconciler/reconcile/source/sourcetest"
)

// TestDriftIsRepairedWithoutACommit removes the rules of the instance under a running agent, and changes a limit while none
// runs: the port answers again and the limit is what it was, nobody's table is touched, and no container.
func TestDriftIsRepairedWithoutACommit(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	repo := repository(t, sourcetest.Files{"page.yaml": page, "web.yaml": webServer("web", port, "resources: {limits: {pids: 50}}")})
	first := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	s.follow("logs", "-f", "web").await("serving")
	wantPage(t, port)
	before := s.rows()["web"]

	conn := &nftables.Conn{}
	foreign := conn.AddTable(&nftables.Table{Name: "foreign-" + s.instance, Family: nftables.TableFamilyINet})
	conn.AddChain(&nftables.Chain{Name: "kept", Table: foreign})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := conn.ListChain(foreign, "kept"); err != nil {
			t.Errorf("the foreign chain: %v", err)
		}
		conn.DelTable(foreign)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	})
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		conn.DelTable(&nftables.Table{Name: "reconciler-" + s.instance, Family: family})
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	s.awaitEvent(nil, "DriftRepaired", "rules of table inet reconciler-"+s.instance)
	wantPage(t, port)

	first.stop(syscall.SIGKILL)
	var files []string
	var err error
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/pids"} {
		if len(files) == 0 && err == nil {
			files, err = filepath.Glob(filepath.Join(dir, "reconciler", s.instance, "web-*", "pids.max"))
		}
	}
	if err != nil || len(files) != 1 {
		t.Fatalf("cgroups %q, %v", files, err)
	}
	if err = os.WriteFile(files[0], []byte("7"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start("--repo", repo.Bare)
	s.awaitEvent([]string{"web"}, "DriftRepaired", "pids.max was 7, not 50")
	if got, err := os.ReadFile(files[0]); err != nil || strings.TrimSpace(string(got)) != "50" {
		t.Errorf("pids.max is %q, %v", got, err)
	}
	if after := s.rows()["web"]; after.Pid != before.Pid || after.Restarts != 0 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}
