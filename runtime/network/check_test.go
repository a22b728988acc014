package network_test

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"

	"reconciler/runtime/network"
	"reconciler/runtime/network/dns"
)

// found returns the check of a name.
func found(t testing.TB, checks []network.Check, name string) network.Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q in %+v", name, checks)
	return network.Check{}
}

func TestCheckFindsAllWell(t *testing.T) {
	e := newEnv(t)
	g, err := e.bridge.Gateway(background)
	must(t, err)
	names := filepath.Join(t.TempDir(), "names.json")
	must(t, dns.WriteNames(names, dns.Names{Listen: []netip.Addr{g.Address}, Sources: []netip.Prefix{g.Subnet}}))
	ctx, cancel := context.WithCancel(background)
	done := make(chan error, 1)
	go func() {
		done <- dns.New(dns.Config{NamesFile: names, ResolvConf: "/dev/null", Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	defer func() { cancel(); must(t, <-done) }()
	for {
		if _, err := ask("tcp", netip.AddrPortFrom(g.Address, 53).String(), impatience); err == nil || !strings.Contains(err.Error(), "refused") {
			break // it listens
		}
	}
	checks := e.bridge.Check(background)
	for _, name := range []string{"bridge", "forwarding", "egress", "dns", "inbound"} {
		if c := found(t, checks, name); !c.OK || c.Remedy != "" {
			t.Errorf("%+v", c)
		}
	}
	if leases, err := e.bridge.Leases(); err != nil || len(leases) != 0 {
		t.Errorf("leases afterwards: %v, %v", leases, err)
	}
}

// An instance without containers has no bridge after the check either.
func TestCheckLeavesNothing(t *testing.T) {
	e := newEnv(t)
	checks := e.bridge.Check(background)
	if c := found(t, checks, "dns"); c.OK || c.Remedy == "" {
		t.Errorf("without a name server: %+v", c)
	}
	for _, left := range leftovers(t, e.cfg) {
		t.Errorf("left: %s", left)
	}
}

func TestCheckNamesWhoDrops(t *testing.T) {
	e := newEnv(t)
	conn := &nftables.Conn{}
	table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	policy := nftables.ChainPolicyDrop
	conn.AddChain(&nftables.Chain{
		Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	conn.AddChain(&nftables.Chain{Name: "DOCKER-USER", Table: table})
	must(t, conn.Flush())
	t.Cleanup(func() { conn.DelTable(table); must(t, conn.Flush()) })
	checks := e.bridge.Check(background)
	for _, name := range []string{"egress", "inbound"} {
		if got := found(t, checks, name); got.OK || !strings.Contains(got.Remedy, "iptables -I DOCKER-USER -i rc-") {
			t.Errorf("%+v", got)
		}
	}
}
