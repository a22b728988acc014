package network_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// leftovers are what an instance has in the kernel and on disk besides the lock.
func leftovers(t testing.TB, cfg network.Config) (found []string) {
	t.Helper()
	found, err := network.Remains(cfg.Instance)
	must(t, err)
	files, err := filepath.Glob(cfg.StateDir + "/network/*")
	must(t, err)
	for _, f := range files {
		if filepath.Base(f) != "lock" {
			found = append(found, "file "+f)
		}
	}
	return found
}

func TestContainersReachEachOtherAndTheWorld(t *testing.T) {
	e := newEnv(t)
	a, b := e.container("a"), e.container("b")
	if a.lease.IP == b.lease.IP || a.lease.MAC == b.lease.MAC || a.lease.IPv6 == b.lease.IPv6 || !a.lease.IPv6.IsValid() {
		t.Fatalf("leases: %+v, %+v", a.lease, b.lease)
	}
	b.serve(t, "b", "tcp", 80)
	b.serve(t, "b", "udp", 81)
	e.world.serve(t, "world", "tcp", 80)
	e.world.serve(t, "world", "udp", 81)
	for _, c := range []struct{ protocol, to, want string }{
		{"tcp", netip.AddrPortFrom(b.lease.IP, 80).String(), "b " + a.lease.IP.String()},
		{"udp", netip.AddrPortFrom(b.lease.IP, 81).String(), "b " + a.lease.IP.String()},
		{"tcp", netip.AddrPortFrom(b.lease.IPv6, 80).String(), "b " + a.lease.IPv6.String()},
		{"tcp", worldAddress + ":80", "world " + hostAddress}, // masqueraded
		{"udp", worldAddress + ":81", "world " + hostAddress},
		{"tcp", "[" + worldAddress6 + "]:80", "world " + hostAddress6},
	} {
		answer, err := a.ask(t, c.protocol, c.to, patience)
		want(t, c.protocol+" to "+c.to, answer, err, c.want)
	}
	answer, err := ask("tcp", netip.AddrPortFrom(b.lease.IP, 80).String(), patience)
	g, gerr := e.bridge.Gateway(background)
	must(t, gerr)
	want(t, "from the server", answer, err, "b "+g.Address.String())

	must(t, a.do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if link.Attrs().HardwareAddr.String() != a.lease.MAC.String() || link.Attrs().MTU != 1400 {
			return fmt.Errorf("eth0 has MAC %s and MTU %d, want %s and the way out's 1400", link.Attrs().HardwareAddr, link.Attrs().MTU, a.lease.MAC)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		defer func() { _ = l.Close() }()
		_, err = net.Dial("tcp", l.Addr().String())
		return err
	}))
}

// Without being published, nothing of a container is reached from outside, not by its own address either.
func TestContainersAreClosedToTheWorld(t *testing.T) {
	e := newEnv(t)
	a := e.container("a")
	a.serve(t, "a", "tcp", 80)
	must(t, e.world.do(t, func() error {
		_, everything, _ := net.ParseCIDR("0.0.0.0/0")
		return netlink.RouteAdd(&netlink.Route{Dst: everything, Gw: net.ParseIP(hostAddress)})
	}))
	answer, err := e.world.ask(t, "tcp", netip.AddrPortFrom(a.lease.IP, 80).String(), impatience)
	wantNone(t, "world to the container's address", answer, err)
}

func TestAttachAgainReplaces(t *testing.T) {
	e := newEnv(t)
	a := e.container("a")
	b := e.container("b")
	b.serve(t, "b", "tcp", 80)
	second := container{space: newSpace(t), lease: a.lease}
	must(t, e.bridge.Attach(background, a.lease, second.file, network.Limits{}))
	answer, err := second.ask(t, "tcp", netip.AddrPortFrom(b.lease.IP, 80).String(), patience)
	want(t, "the second namespace", answer, err, "b "+a.lease.IP.String())
	must(t, a.do(t, func() error {
		if _, err := netlink.LinkByName("eth0"); err == nil {
			return fmt.Errorf("the first namespace still has eth0")
		}
		return nil
	}))
}

func TestReleasedLeaseCannotBeAttached(t *testing.T) {
	e := newEnv(t)
	a := e.container("a")
	must(t, e.bridge.Release(background, a.id))
	must(t, e.bridge.Release(background, a.id))
	err := e.bridge.Attach(background, a.lease, a.file, network.Limits{})
	if err == nil || runtime.HintOf(err) == "" {
		t.Errorf("attach with a released lease: %v", err)
	}
}

func TestAttachToWhatIsNoNamespaceLeavesNothing(t *testing.T) {
	e := newEnv(t)
	l, err := e.bridge.Lease(background, "a-1", runtime.Name{Namespace: "default", Name: "a"}, nil)
	must(t, err)
	null, err := os.Open("/dev/null")
	must(t, err)
	defer func() { _ = null.Close() }()
	if err = e.bridge.Attach(background, l, null, network.Limits{}); err == nil {
		t.Error("attached to /dev/null")
	}
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "rv") {
			t.Errorf("interface %s is left", l.Attrs().Name)
		}
	}
}

// A network namespace that belongs to a user namespace, as that of a container with user ids of its own does.
func TestAttachToAnotherUsersNamespace(t *testing.T) {
	e := newEnv(t)
	b := e.container("b")
	b.serve(t, "b", "tcp", 80)
	// It waits for its input to end.
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}},
	}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = stdin.Close(); _ = cmd.Wait() }()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	must(t, err)
	defer func() { _ = ns.Close() }()

	l, err := e.bridge.Lease(background, "a-1", runtime.Name{Namespace: "default", Name: "a"}, nil)
	must(t, err)
	must(t, e.bridge.Attach(background, l, ns, network.Limits{Ingress: 50_000_000, Egress: 50_000_000}))
	answer, err := space{file: ns}.ask(t, "tcp", netip.AddrPortFrom(b.lease.IP, 80).String(), patience)
	want(t, "to a neighbour", answer, err, "b "+l.IP.String())
}

// Who begins a lease goes on while the disk takes it. Where the disk does not, nobody is attached with it, and the next gets it.
func TestLeaseThatTheDiskDoesNotTake(t *testing.T) {
	e := newEnv(t)
	e.container("other") // there is something that can be kept from being replaced
	name := runtime.Name{Namespace: "default", Name: "a"}
	ns := newSpace(t)
	must(t, e.unrecorded(func() error {
		l, recorded, err := e.bridge.BeginLease(background, "a-1", name, nil)
		if err != nil {
			t.Fatalf("it waited for the disk: %v", err)
		}
		for range 2 {
			if err = recorded(); !errors.Is(err, unix.EPERM) {
				t.Errorf("said to be on record: %v", err)
			}
		}
		if err = e.bridge.Attach(background, l, ns.file, network.Limits{}); err == nil {
			t.Error("attached with addresses that nobody keeps")
		}
		return nil
	}))
	var all []network.Lease
	for _, id := range []runtime.ID{"b-1", "b-2", "b-3"} { // at the same time, each has its own
		l, recorded, err := e.bridge.BeginLease(background, id, runtime.Name{Namespace: "default", Name: string(id)}, nil)
		must(t, err)
		defer func() {
			must(t, recorded())
			if found, err := e.bridge.Leases(); err != nil || !slices.ContainsFunc(found, func(o network.Lease) bool { return o.ID == l.ID && o.IP == l.IP }) {
				t.Errorf("%v is on record as %v (%v)", l, found, err)
			}
		}()
		if slices.ContainsFunc(all, func(o network.Lease) bool { return o.IP == l.IP }) {
			t.Errorf("%v beside %v", l, all)
		}
		all = append(all, l)
	}
}
