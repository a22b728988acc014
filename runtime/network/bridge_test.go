package network_test

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// dummy makes an interface with an address, which somebody else has on this server.
func dummy(t testing.TB, name, address string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Dummy{LinkAttrs: attrs}
	if netlink.LinkAdd(link) != nil {
		// Not every kernel has dummies; a bridge without ports does as well.
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		must(t, netlink.LinkAdd(bridge))
	}
	made, err := netlink.LinkByName(name)
	must(t, err)
	t.Cleanup(func() { must(t, netlink.LinkDel(made)) })
	parsed, err := netlink.ParseAddr(address)
	must(t, err)
	must(t, netlink.AddrAdd(made, parsed))
	must(t, netlink.LinkSetUp(made))
}

func TestSubnetIsOneThatNobodyHas(t *testing.T) {
	e := newEnv(t)
	dummy(t, "somebody", "10.77.3.1/24")
	g, err := e.bridge.Gateway(background)
	must(t, err)
	if g.Subnet.String() != "10.78.0.0/16" || g.Address.String() != "10.78.0.1" {
		t.Errorf("with 10.77.3.0/24 in use: %+v", g)
	}
	// Routes that appear later do not move it.
	_, covered, _ := net.ParseCIDR("10.0.0.0/8")
	must(t, netlink.RouteAdd(&netlink.Route{Dst: covered, Gw: net.ParseIP(worldAddress)}))
	again, err := network.Open(e.cfg).Gateway(background)
	if err != nil || again != g {
		t.Errorf("again: %+v, %v", again, err)
	}
	// Another instance then finds nothing free in 10.0.0.0/8.
	other := network.Open(network.Config{Instance: "other", StateDir: t.TempDir()})
	t.Cleanup(func() { must(t, other.Destroy(background)) })
	og, err := other.Gateway(background)
	if err != nil || !strings.HasPrefix(og.Subnet.String(), "172.") {
		t.Errorf("another instance: %+v, %v", og, err)
	}
}

// After a reboot, when something else has the network, another is chosen and addresses are given out anew.
func TestSubnetIsChosenAgainAfterAReboot(t *testing.T) {
	e := newEnv(t)
	before, err := e.bridge.Lease(background, "a-1", runtime.Name{Name: "a"}, nil)
	must(t, err)
	reboot := func() {
		g, gerr := e.bridge.Gateway(background)
		must(t, gerr)
		link, lerr := netlink.LinkByName(g.Interface)
		must(t, lerr)
		must(t, netlink.LinkDel(link))
	}
	reboot()
	same, err := e.bridge.Lease(background, "a-1", runtime.Name{Name: "a"}, nil)
	if err != nil || same.IP != before.IP {
		t.Errorf("after a reboot: %+v, %v; want %+v", same, err, before)
	}
	reboot()
	dummy(t, "somebody", "10.77.3.1/24")
	after, err := e.bridge.Lease(background, "a-1", runtime.Name{Name: "a"}, nil)
	if err != nil || after.IP.String() != "10.78.0.2" {
		t.Errorf("after a reboot into a taken network: %+v, %v", after, err)
	}
}

func TestInstancesThatChooseAtOnceChooseDifferently(t *testing.T) {
	newEnv(t)
	const instances = 6
	var wait sync.WaitGroup
	got := make([]network.Gateway, instances)
	errs := make([]error, instances)
	for i := range instances {
		b := network.Open(network.Config{Instance: "at-once-" + string(rune('a'+i)), StateDir: t.TempDir()})
		t.Cleanup(func() { must(t, b.Destroy(background)) })
		wait.Go(func() { got[i], errs[i] = b.Gateway(background) })
	}
	wait.Wait()
	seen := map[netip.Prefix]bool{}
	for i := range instances {
		must(t, errs[i])
		if seen[got[i].Subnet] {
			t.Errorf("%s twice", got[i].Subnet)
		}
		seen[got[i].Subnet] = true
	}
}

func TestCIDRIsRefusedWithAReason(t *testing.T) {
	for cidr, why := range map[string]string{
		"192.0.2.0/24": "overlaps 192.0.2.0/24, an address of wan0",
		"10.5.0.1/16":  "write 10.5.0.0/16",
		"10.5.0.0/30":  "want a length from /8 to /29",
		"fd00::/64":    "not an IPv4 network",
		"127.0.0.0/16": "another purpose",
	} {
		t.Run(cidr, func(t *testing.T) {
			e := newEnv(t, func(c *network.Config) { c.CIDR = netip.MustParsePrefix(cidr) })
			if _, err := e.bridge.Gateway(background); err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("%v; want %q", err, why)
			}
		})
	}
}

func TestCIDRChangesOnlyWithoutContainers(t *testing.T) {
	e := newEnv(t, func(c *network.Config) { c.CIDR = netip.MustParsePrefix("10.9.0.0/24") })
	a := e.container("a")
	moved := e.cfg
	moved.CIDR = netip.MustParsePrefix("10.10.0.0/24")
	b := network.Open(moved)
	if _, err := b.Gateway(background); err == nil || !strings.Contains(runtime.HintOf(err), "reconciler down") {
		t.Errorf("with a container attached: %v", err)
	}
	must(t, e.bridge.Release(background, a.id))
	g, err := b.Gateway(background)
	if err != nil || g.Address.String() != "10.10.0.1" {
		t.Errorf("without: %+v, %v", g, err)
	}
	link, err := netlink.LinkByName(g.Interface)
	must(t, err)
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addresses) != 1 || addresses[0].IP.String() != "10.10.0.1" {
		t.Errorf("addresses of the bridge: %v, %v", addresses, err)
	}
}

// An interface of the bridge's name that is somebody else's is refused, and left alone.
func TestForeignBridgeIsRefused(t *testing.T) {
	e := newEnv(t, func(c *network.Config) { c.Instance = "mine" })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "rc-mine"
	must(t, netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}))
	if _, err := e.bridge.Gateway(background); err == nil || runtime.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	link, err := netlink.LinkByName("rc-mine")
	must(t, err)
	must(t, netlink.LinkDel(link))
}

func TestTakenPorts(t *testing.T) {
	e := newEnv(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	u, err := net.ListenPacket("udp", ":0")
	must(t, err)
	defer func() { _ = u.Close() }()
	other := network.Open(network.Config{Instance: "neighbour", StateDir: t.TempDir()})
	t.Cleanup(func() { must(t, other.Destroy(background)) })
	_, err = other.Lease(background, "x", runtime.Name{Name: "x"}, nil)
	must(t, err)
	must(t, other.Publish(background, "x", []runtime.Port{{HostIP: netip.MustParseAddr("0.0.0.0"), HostPort: 8443, ContainerPort: 1, Protocol: "TCP"}}))
	own := e.container("own")
	e.publish(own, tcp(8444, 1))
	gateway, err := e.bridge.Gateway(background)
	must(t, err)
	names, err := net.Listen("tcp", netip.AddrPortFrom(gateway.Address, 53).String())
	must(t, err)
	defer func() { _ = names.Close() }()

	taken, err := e.bridge.Taken(background)
	must(t, err)
	has := func(protocol, at, by string) bool {
		for _, p := range taken {
			if p.Protocol == protocol && p.At.String() == at && strings.Contains(p.By, by) {
				return true
			}
		}
		return false
	}
	if !has("TCP", l.Addr().String(), "program") || !has("UDP", u.LocalAddr().String(), "program") || !has("TCP", "0.0.0.0:8443", "instance neighbour") {
		t.Errorf("taken: %+v", taken)
	}
	for _, p := range taken {
		if p.At.Port() == 8444 {
			t.Errorf("the instance's own port is taken by %s", p.By)
		}
		if p.At.Addr() == gateway.Address {
			t.Errorf("the instance's own name server is in the way: %+v", p)
		}
	}
}
