package network_test

import (
	"context"
	"net/netip"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// asSomebody runs fn as a process of another name would.
func asSomebody(fn func() error) error {
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
	return <-done
}

// port is the index of the host's end of a container's interface.
func port(t testing.TB, c container) (index int) {
	t.Helper()
	must(t, c.do(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err == nil {
			index = l.Attrs().ParentIndex
		}
		return err
	}))
	return index
}

// Whatever somebody removes behind our back is back after Repair, and containers that run are reached again.
func TestRepair(t *testing.T) {
	e := newEnv(t)
	a, b := e.container("a"), e.container("b")
	a.serve(t, "a", "tcp", 80)
	e.publish(a, tcp(8080, 80))
	g, err := e.bridge.Gateway(background)
	must(t, err)
	before := kernel(t, e.cfg)
	ctx, cancel := context.WithCancel(background)
	hints, err := e.bridge.Watch(ctx)
	must(t, err)
	t.Cleanup(func() {
		cancel()
		for range hints { // until it is closed
		}
	})
	link := func() netlink.Link {
		l, err := netlink.LinkByName(g.Interface)
		must(t, err)
		return l
	}
	conn := &nftables.Conn{}
	table := func(family nftables.TableFamily) *nftables.Table {
		return &nftables.Table{Name: "reconciler-" + e.cfg.Instance, Family: family}
	}
	for name, breakIt := range map[string]func() error{
		"nothing":    func() error { return nil },
		"the bridge": func() error { return netlink.LinkDel(link()) },
		"its address": func() error {
			return netlink.AddrDel(link(), &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(g.Address, g.Subnet.Bits()))})
		},
		"the bridge down": func() error { return netlink.LinkSetDown(link()) },
		"forwarding":      func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0) },
		"the whole nft":   func() error { conn.FlushRuleset(); return conn.Flush() },
		"one table":       func() error { conn.DelTable(table(nftables.TableFamilyBridge)); return conn.Flush() },
		"rules of a chain": func() error {
			conn.FlushChain(&nftables.Chain{Name: "postrouting", Table: table(nftables.TableFamilyINet)})
			return conn.Flush()
		},
		"an interface from the bridge": func() error {
			l, err := netlink.LinkByIndex(port(t, b))
			must(t, err)
			return netlink.LinkSetNoMaster(l)
		},
		"elements": func() error {
			conn.FlushSet(&nftables.Set{Name: "allow4", Table: table(nftables.TableFamilyINet)})
			conn.FlushSet(&nftables.Set{Name: "senders4", Table: table(nftables.TableFamilyBridge)})
			return conn.Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			must(t, asSomebody(breakIt))
			if name != "nothing" && name != "forwarding" {
				select {
				case <-hints:
				case <-time.After(patience):
					t.Error("nobody was told of it")
				}
			}
			if done := e.repair(); (len(done) == 0) != (name == "nothing") {
				t.Errorf("repaired %q", done)
			}
			if again := e.repair(); len(again) > 0 {
				t.Errorf("repaired again %q", again)
			}
			if after := kernel(t, e.cfg); after != before {
				t.Errorf("after repair:\n%s\nwant\n%s", after, before)
			}
			for what, ask := range map[string]func() (string, error){
				"loopback":  func() (string, error) { return ask("tcp", "127.0.0.1:8080", patience) },
				"world":     func() (string, error) { return e.world.ask(t, "tcp", hostAddress+":8080", patience) },
				"neighbour": func() (string, error) { return b.ask(t, "tcp", netip.AddrPortFrom(a.lease.IP, 80).String(), patience) },
			} {
				if answer, err := ask(); err != nil || !strings.HasPrefix(answer, "a ") {
					t.Errorf("from %s: %q, %v", what, answer, err)
				}
			}
		})
	}
}

// An interface that somebody removed is told of, and can be attached again.
func TestUnplugged(t *testing.T) {
	e := newEnv(t)
	a, b := e.container("a"), e.container("b")
	a.serve(t, "a", "tcp", 80)
	before := kernel(t, e.cfg)
	ids, err := e.bridge.Unplugged()
	if must(t, err); len(ids) > 0 {
		t.Errorf("%q, and nobody removed anything", ids)
	}
	hints, err := e.bridge.Watch(t.Context())
	must(t, err)
	l, err := netlink.LinkByIndex(port(t, a))
	must(t, err)
	must(t, netlink.LinkDel(l))
	<-hints
	if ids, err = e.bridge.Unplugged(); err != nil || !slices.Equal(ids, []runtime.ID{a.id}) {
		t.Fatalf("%q, %v", ids, err)
	}
	must(t, e.bridge.Attach(background, a.lease, a.file, network.Limits{}))
	if after := kernel(t, e.cfg); after != before {
		t.Errorf("after repair:\n%s\nwant\n%s", after, before)
	}
	answer, err := b.ask(t, "tcp", netip.AddrPortFrom(a.lease.IP, 80).String(), patience)
	if err != nil || !strings.HasPrefix(answer, "a ") {
		t.Errorf("%q, %v", answer, err)
	}
}

// What this process does itself, and what somebody does with what is another's, is no reason to look.
func TestWatchHearsOnlyOfOurs(t *testing.T) {
	e := newEnv(t)
	a := e.container("a")
	hints, err := e.bridge.Watch(t.Context())
	must(t, err)
	others, err := network.Open(network.Config{Instance: "other", StateDir: t.TempDir()}).Watch(t.Context())
	must(t, err)
	e.publish(a, tcp(8080, 80))
	e.publish(a)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "rc-other"}}
	must(t, netlink.LinkAdd(bridge))
	must(t, netlink.LinkDel(bridge))
	<-others
	must(t, asSomebody(func() error {
		conn := &nftables.Conn{}
		table := conn.AddTable(&nftables.Table{Name: "reconciler-other", Family: nftables.TableFamilyINet})
		if ferr := conn.Flush(); ferr != nil {
			return ferr
		}
		conn.DelTable(table)
		return conn.Flush()
	}))
	<-others
	select {
	case <-hints:
		t.Error("a hint, and nobody touched anything")
	default:
	}
	if done := e.repair(); len(done) > 0 {
		t.Errorf("repaired %q", done)
	}
}

// Between any two steps of a start and of a removal, and after each that failed, nobody has changed anything behind our back.
func TestRepairFindsNothingHalfDone(t *testing.T) {
	e := newEnv(t)
	other := e.container("other")
	e.publish(other, tcp(9090, 80))
	name := runtime.Name{Namespace: "default", Name: "a"}
	ns := newSpace(t)
	var a network.Lease
	taken := []runtime.Port{tcp(9090, 80)}
	for _, step := range []struct {
		what  string
		do    func() error
		fails bool
	}{
		{"lease, not recorded", func() (err error) {
			return e.unrecorded(func() error { _, err = e.bridge.Lease(background, "a-1", name, nil); return err })
		}, true},
		{"lease", func() (err error) { a, err = e.bridge.Lease(background, "a-1", name, nil); return err }, false},
		{"attach", func() error { return e.bridge.Attach(background, a, ns.file, network.Limits{}) }, false},
		{"publish what another has", func() error { return e.bridge.Publish(background, a.ID, taken) }, true},
		{"publish, not recorded", func() error {
			return e.unrecorded(func() error { return e.bridge.Publish(background, a.ID, []runtime.Port{tcp(8080, 80)}) })
		}, true},
		{"publish", func() error { return e.bridge.Publish(background, a.ID, []runtime.Port{tcp(8080, 80)}) }, false},
		{"a lease of the next of the name", func() error { _, err := e.bridge.Lease(background, "a-2", name, nil); return err }, false},
		{"publish the next", func() error { return e.bridge.Publish(background, "a-2", []runtime.Port{tcp(8080, 80)}) }, false},
		{"detach", func() error { return e.bridge.Detach(background, a.ID) }, false},
		{"release, not recorded", func() error {
			return e.unrecorded(func() error { return e.bridge.Release(background, a.ID) })
		}, true},
		{"release", func() error { return e.bridge.Release(background, a.ID) }, false},
		{"the next of the name takes over", func() error {
			_, err := e.bridge.Lease(background, "a-3", name, func(runtime.ID) bool { return true })
			return err
		}, false},
		{"unpublish", func() error { return e.bridge.Unpublish(background, name) }, false},
	} {
		if err := step.do(); (err != nil) != step.fails {
			t.Fatalf("%s: %v", step.what, err)
		}
		if done := e.repair(); len(done) > 0 {
			t.Errorf("after %q: repaired %q, and nobody drifted", step.what, done)
		}
	}
}

// unrecorded runs fn while leases.json cannot be replaced.
func (e *env) unrecorded(fn func() error) error {
	e.t.Helper()
	f, err := os.Open(e.cfg.StateDir + "/network/leases.json")
	must(e.t, err)
	defer func() { _ = f.Close() }()
	const immutable = 0x10 // FS_IMMUTABLE_FL
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	must(e.t, err)
	must(e.t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|immutable)))
	defer func() { must(e.t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))) }()
	return fn()
}
