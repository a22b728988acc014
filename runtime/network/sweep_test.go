package network_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// kernel is what an instance has in the kernel, as lines that can be compared.
func kernel(t testing.TB, cfg network.Config) string {
	t.Helper()
	var lines []string
	add := func(words ...any) { lines = append(lines, fmt.Sprint(words...)) }
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "r") {
			add(l.Type(), " ", l.Attrs().Name)
		}
	}
	conn := &nftables.Conn{}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		table := &nftables.Table{Name: "reconciler-" + cfg.Instance, Family: family}
		chains, err := conn.ListChainsOfTableFamily(family)
		must(t, err)
		for _, c := range chains {
			rules, rerr := conn.GetRules(table, c)
			must(t, rerr)
			add("chain ", c.Name, " ", len(rules))
		}
		sets, err := conn.GetSets(table)
		must(t, err)
		for _, s := range sets {
			elements, err := conn.GetSetElements(s)
			must(t, err)
			add("set ", s.Name, " ", len(elements))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestReleaseLeavesWhatWasThereBefore(t *testing.T) {
	e := newEnv(t)
	other := e.container("other")
	e.publish(other, tcp(9090, 80))
	before := kernel(t, e.cfg)
	a := e.container("a", network.Limits{Ingress: 1_000_000, Egress: 1_000_000})
	e.publish(a, tcp(8080, 80), udp(8080, 80))
	if kernel(t, e.cfg) == before {
		t.Fatal("a container is not seen")
	}
	must(t, e.bridge.Detach(background, a.id))
	must(t, e.bridge.Detach(background, a.id))
	leases, err := e.bridge.Leases()
	must(t, err)
	if len(leases) != 2 || len(leases[1].Ports) != 0 {
		t.Errorf("leases after detaching: %+v", leases)
	}
	must(t, e.bridge.Release(background, a.id))
	must(t, e.bridge.Release(background, a.id))
	if after := kernel(t, e.cfg); after != before {
		t.Errorf("left:\n%s\nwant\n%s", after, before)
	}
}

// Many that go at once leave nothing of their own, and touch nothing of others'.
func TestReleaseOfManyAtOnce(t *testing.T) {
	e := newEnv(t)
	kept := e.container("kept", network.Limits{Egress: 50_000_000})
	kept.serve(t, "kept", "tcp", 80)
	e.publish(kept, tcp(9090, 80))
	foreign := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "foreign0"}}
	must(t, netlink.LinkAdd(foreign))
	defer func() { must(t, netlink.LinkDel(foreign)) }()
	before := kernel(t, e.cfg)
	all := make([]container, 20)
	for i := range all {
		all[i] = e.container(fmt.Sprintf("c%d", i), network.Limits{Egress: int64(i%2) * 50_000_000})
		e.publish(all[i], tcp(uint16(10_000+i), 80))
	}
	var going sync.WaitGroup
	for _, c := range all {
		going.Go(func() {
			if err := e.bridge.Release(background, c.id); err != nil {
				t.Error(err)
			}
		})
	}
	going.Wait()
	if after := kernel(t, e.cfg); after != before {
		t.Errorf("left:\n%s\nwant\n%s", after, before)
	}
	leases, err := e.bridge.Leases()
	if must(t, err); len(leases) != 1 {
		t.Errorf("leases: %+v", leases)
	}
	answer, err := e.world.ask(t, "tcp", hostAddress+":9090", patience)
	want(t, "of the one that stays", answer, err, "kept "+worldAddress)
	_, err = netlink.LinkByName("foreign0")
	must(t, err)
	if done := e.repair(); len(done) > 0 {
		t.Errorf("repaired %q", done)
	}
}

// What a killed process leaves at each point of attaching is swept; what is known is not touched.
func TestSweepAfterAKill(t *testing.T) {
	for name, half := range map[string]func(e *env) error{
		"after the lease": func(e *env) error {
			_, err := e.bridge.Lease(background, "x-1", runtime.Name{Name: "x"}, nil)
			return err
		},
		"after attaching and publishing": func(e *env) error {
			c := e.container("x", network.Limits{Ingress: 1_000_000, Egress: 1_000_000})
			return e.bridge.Publish(background, c.id, []runtime.Port{tcp(8080, 80)})
		},
		"an interface without its lease": func(e *env) error {
			c := e.container("x", network.Limits{Egress: 1_000_000})
			return e.forget(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			kept := e.container("kept", network.Limits{Ingress: 50_000_000, Egress: 50_000_000})
			kept.serve(t, "kept", "tcp", 80)
			e.publish(kept, tcp(9090, 80))
			before := kernel(t, e.cfg)
			must(t, half(e))
			for range 2 {
				must(t, e.bridge.Sweep(background, func(id runtime.ID) bool { return id == kept.id }))
			}
			if after := kernel(t, e.cfg); after != before {
				t.Errorf("left:\n%s\nwant\n%s", after, before)
			}
			leases, err := e.bridge.Leases()
			if err != nil || len(leases) != 1 || leases[0].ID != kept.id {
				t.Errorf("leases: %+v, %v", leases, err)
			}
			answer, err := ask("tcp", hostAddress+":9090", patience)
			want(t, "what is known", answer, err, "kept "+hostAddress)
		})
	}
}

// forget takes a lease out of the file alone, as if it had been lost.
func (e *env) forget(c container) error {
	e.t.Helper()
	path := e.cfg.StateDir + "/network/leases.json"
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(strings.Replace(string(data), string(c.id), "lost", 1)), 0o600)
}

func TestAttachThatIsCancelledLeavesNothing(t *testing.T) {
	e := newEnv(t)
	e.container("other")
	l, err := e.bridge.Lease(background, "a-1", runtime.Name{Name: "a"}, nil)
	must(t, err)
	e.repair()
	before := kernel(t, e.cfg)
	ns := newSpace(t)
	for left := range 6 {
		ctx := &ending{Context: background, left: left}
		if err := e.bridge.Attach(ctx, l, ns.file, network.Limits{Egress: 1_000_000}); err == nil {
			if left == 0 {
				t.Error("attached with a context that had ended")
			}
			must(t, e.bridge.Detach(background, l.ID))
		}
		if after := kernel(t, e.cfg); after != before {
			t.Errorf("cancelled at look %d, left:\n%s\nwant\n%s", left, after, before)
		}
	}
}

// ending is a context that ends after so many looks at it.
type ending struct {
	context.Context //nolint:containedctx // it is one
	left            int
}

func (c *ending) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// Two processes, here two values on the same directory, give out no address twice and leave nothing.
func TestManyAtOnce(t *testing.T) {
	e := newEnv(t)
	second := network.Open(e.cfg)
	var wait sync.WaitGroup
	errs := make(chan error, 100)
	for i := range 12 {
		bridge := []*network.Bridge{e.bridge, second}[i%2]
		ns := newSpace(t)
		wait.Go(func() {
			id := runtime.ID(fmt.Sprintf("c%d", i))
			errs <- func() error {
				l, err := bridge.Lease(background, id, runtime.Name{Name: string(id)}, nil)
				if err != nil {
					return err
				}
				if err := bridge.Attach(background, l, ns.file, network.Limits{Egress: 1_000_000}); err != nil {
					return err
				}
				return bridge.Publish(background, id, []runtime.Port{tcp(uint16(8000+i), 80)})
			}()
		})
	}
	wait.Wait()
	for range 12 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	leases, err := e.bridge.Leases()
	must(t, err)
	seen := map[netip.Addr]bool{}
	for _, l := range leases {
		if seen[l.IP] || len(l.Ports) != 1 {
			t.Errorf("lease %+v", l)
		}
		seen[l.IP] = true
	}
	before := kernel(t, e.cfg)
	e.repair()
	if after := kernel(t, e.cfg); len(seen) != 12 || after != before {
		t.Errorf("%d leases; something was missing:\n%s\nwant\n%s", len(seen), before, after)
	}
}
