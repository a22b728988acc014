package linux_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/opencontainers/cgroups"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// asSomebody runs fn as a process of another name would.
func (e *env) asSomebody(fn func() error) {
	e.Helper()
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with its name
		other, err := unix.BytePtrFromString("somebody")
		if err == nil {
			err = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(other)), 0, 0, 0)
		}
		if err == nil {
			err = fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		e.Fatal(err)
	}
}

// drifted waits until there is a hint that something was changed.
func (e *env) drifted(hints <-chan runtime.Event) {
	e.Helper()
	for limit := time.After(time.Minute); ; {
		select {
		case h := <-hints:
			if h.Type == runtime.EventDrifted {
				return
			}
		case <-limit:
			e.Error("no hint")
			return
		}
	}
}

// What somebody takes from running containers behind our back is heard of and given back, and nothing else is touched.
func TestRepairsTheNetwork(t *testing.T) {
	e := newEnv(t)
	port := freePort(t)
	web := e.bridged("web", serve)
	web.Ports = []runtime.Port{{HostPort: port, ContainerPort: 80, Protocol: "TCP"}}
	id, client := e.start(web), e.start(e.bridged("client", "sleep 1000"))
	e.said(id, "listening")
	before := e.status(id)

	conn := &nftables.Conn{}
	foreign := conn.AddTable(&nftables.Table{Name: "foreign-" + e.cfg.Instance, Family: nftables.TableFamilyINet})
	chain := conn.AddChain(&nftables.Chain{Name: "kept", Table: foreign})
	conn.AddRule(&nftables.Rule{Table: foreign, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if rules, err := conn.GetRules(foreign, chain); err != nil || len(rules) != 1 {
			t.Errorf("the foreign table has %d rules, %v", len(rules), err)
		}
		conn.DelTable(foreign)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	})
	host := func() netlink.Link { // the host's end of web's interface
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		inside, _ := e.exec(id, "cat", "/sys/class/net/eth0/iflink")
		for _, l := range links {
			if fmt.Sprint(l.Attrs().Index) == strings.TrimSpace(inside) {
				return l
			}
		}
		t.Fatalf("no interface %s", inside)
		return nil
	}
	bridge := func() netlink.Link {
		l, err := netlink.LinkByIndex(host().Attrs().MasterIndex)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	hints, err := e.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, breakIt := range map[string]func() error{
		"tables": func() error {
			for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
				conn.DelTable(&nftables.Table{Name: "reconciler-" + e.cfg.Instance, Family: family})
			}
			return conn.Flush()
		},
		"bridge":    func() error { return netlink.LinkDel(bridge()) },
		"interface": func() error { return netlink.LinkDel(host()) },
	} {
		e.asSomebody(breakIt)
		e.drifted(hints)
		done, err := e.Repair(t.Context())
		if err != nil || len(done) != 1 || (done[0].ID == id) != (name == "interface") {
			t.Errorf("%s: repaired %+v, %v", name, done, err)
		}
		if got := get(t, net.JoinHostPort("127.0.0.1", fmt.Sprint(port))); got != "web says hello\n" {
			t.Errorf("%s: through the published port: %q", name, got)
		}
		if out, code := e.exec(client, "sh", "-c", "busybox wget -q -O - http://web/"); out != "web says hello\n" || code != 0 {
			t.Errorf("%s: from a neighbour: %q, %d", name, out, code)
		}
		if done, err = e.Repair(t.Context()); err != nil || len(done) > 0 {
			t.Errorf("%s: repaired again %+v, %v", name, done, err)
		}
	}
	if after := e.status(id); after.Pid != before.Pid || after.Starts != 1 || after.IP != before.IP {
		t.Errorf("before %+v, after %+v", before, after)
	}
	if err := e.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if done, err := e.Repair(t.Context()); err != nil || len(done) > 0 {
		t.Errorf("after a stop, repaired %+v, %v", done, err)
	}
}

// setCgroupFile writes what cgroupFile reads.
func (e *env) setCgroupFile(id runtime.ID, controller, v1, v2, value string) {
	e.Helper()
	path := filepath.Join("/sys/fs/cgroup", controller, "reconciler", e.cfg.Instance, string(id), v1)
	if cgroups.IsCgroup2UnifiedMode() {
		path = filepath.Join("/sys/fs/cgroup/reconciler", e.cfg.Instance, string(id), v2)
	}
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		e.Fatal(err)
	}
}

// A limit that somebody changed in the kernel is set again, and those of containers without limits too.
func TestRepairsLimits(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("web", "sleep", "1000")
	spec.Limits = runtime.Resources{CPUMillis: 500, Memory: 64<<20 + 1, Pids: 50}
	id, free := e.start(spec), e.start(e.spec("free", "sleep", "1000"))
	if done, err := e.Repair(t.Context()); err != nil || len(done) > 0 {
		t.Errorf("repaired %+v, %v, and nobody changed anything", done, err)
	}
	before := e.status(id)
	files := map[string][3]string{ // of v1, of v2, and the value
		"cpu": {"cpu.cfs_quota_us", "cpu.max", "20000"}, "memory": {"memory.limit_in_bytes", "memory.max", "33554432"}, "pids": {"pids.max", "pids.max", "9"},
	}
	for controller, f := range files {
		for _, c := range []runtime.ID{id, free} {
			left := e.cgroupFile(c, controller, f[0], f[1])
			e.setCgroupFile(c, controller, f[0], f[1], f[2])
			done, err := e.Repair(t.Context())
			if err != nil || len(done) != 1 || done[0].ID != c || !strings.Contains(done[0].What, f[2]) {
				t.Errorf("%s: repaired %+v, %v", controller, done, err)
			}
			if got := e.cgroupFile(c, controller, f[0], f[1]); got != left {
				t.Errorf("%s of %s is %s, not %s", controller, c, got, left)
			}
		}
	}
	if after := e.status(id); after.Pid != before.Pid || after.Starts != 1 {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// Who uses by now what somebody else let him is not killed for it.
func TestRepairKillsNobody(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("grown", "until test -e /go; do busybox usleep 10000; done; x=0123456789abcdef; while test ${#x} -lt 32000000; do x=$x$x; done; echo grown; while :; do sleep 1000; done")
	spec.Limits.Memory = 24 << 20
	id := e.start(spec)
	before := e.status(id)
	if !cgroups.IsCgroup2UnifiedMode() {
		if _, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"); err == nil {
			e.setCgroupFile(id, "memory", "memory.memsw.limit_in_bytes", "", "536870912")
		}
	}
	e.setCgroupFile(id, "memory", "memory.limit_in_bytes", "memory.max", "536870912")
	e.exec(id, "touch", "/go")
	e.said(id, "grown")
	if done, err := e.Repair(t.Context()); err == nil || len(done) > 0 {
		t.Errorf("repaired %+v, %v", done, err)
	} else {
		t.Log(err)
	}
	if after := e.status(id); after.State != runtime.StateRunning || after.Pid != before.Pid {
		t.Errorf("%+v", after)
	}
}
