package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// inside is what a container's interface is called in its own namespace.
const inside = "eth0"

// Attach gives the network namespace ns, such as an open /proc/PID/ns/net, its interface eth0 with the lease's
// addresses, default routes through the bridge, and a loopback that is up. What was attached for the id before is taken
// away first. After an error nothing is left of it.
func (b *Bridge) Attach(ctx context.Context, l Lease, ns *os.File, limits Limits) error {
	op := fmt.Sprintf("attach %s to bridge %s", l.Name, b.names.bridge)
	if err := b.admit(l); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	failpoint.Here("attach: admitted")
	if err := b.removeLinks(l.ID); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	failpoint.Here("attach: without interfaces")
	if err := b.plug(ctx, l, ns, limits); err != nil {
		if left := b.removeLinks(l.ID); left != nil {
			err = fmt.Errorf("%w; and then: %w", err, left)
		}
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// admit makes sure that the lease is held. What lets its holder send came with it.
func (b *Bridge) admit(l Lease) error {
	st, err := b.store.read()
	if err != nil {
		return err
	}
	held := st.find(l.ID)
	if held == nil || held.IP != l.IP || held.IPv6 != l.IPv6 {
		return &runtime.Error{Op: "use address " + l.IP.String(), ID: l.ID, Err: fmt.Errorf("%s has no lease of it any more", l.ID), Hint: "start the container again"}
	}
	return nil
}

// plug makes the pair of interfaces, the container's end directly in its namespace.
func (b *Bridge) plug(ctx context.Context, l Lease, ns *os.File, limits Limits) error {
	bridge, err := netlink.LinkByName(b.names.bridge)
	if err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	fd := int(ns.Fd())
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = b.names.hostEnd(l.ID), bridge.Attrs().MTU, bridge.Attrs().Index
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: inside, PeerHardwareAddr: l.MAC[:], PeerMTU: uint32(bridge.Attrs().MTU),
		PeerNamespace: netlink.NsFd(fd),
	}
	failpoint.Here("attach: no interface yet")
	if err := netlink.LinkAdd(pair); err != nil {
		return &runtime.Error{Op: "make interface " + attrs.Name, Err: err, Hint: missingModule(err, "veth")}
	}
	failpoint.Here("attach: a pair of interfaces")
	if err := settlePort(pair, l.MAC); err != nil {
		return err
	}
	failpoint.Here("attach: the port settled")
	if err := silentUp(pair); err != nil {
		return fmt.Errorf("interface %s: %w", attrs.Name, err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	failpoint.Here("attach: the port up")
	if err := b.limit(l.ID, pair, limits); err != nil {
		return err
	}
	failpoint.Here("attach: limited")
	return configure(ctx, fd, l, bridge)
}

// silentUp brings up an interface that needs no address of its own. With hundreds of them, the addresses that IPv6 would
// give them slow down everything that lists addresses.
func silentUp(link netlink.Link) error {
	failpoint.Here("link: with an address of its own")
	if hasIPv6() {
		const none = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
		if err := netlink.LinkSetIP6AddrGenMode(link, none); err != nil {
			return fmt.Errorf("no address of its own: %w", err)
		}
	}
	failpoint.Here("link: not up")
	err := netlink.LinkSetUp(link)
	failpoint.Here("link: up")
	return err
}

// settlePort tells the bridge who is behind a port, once for all. It must not learn: it does so from some frames (LLDP)
// before any rule sees them, and would send a neighbour's traffic to whoever claims its MAC.
func settlePort(port netlink.Link, mac MAC) error {
	name := port.Attrs().Name
	failpoint.Here("port: not settled")
	for _, step := range []struct {
		what string
		set  func() error
	}{
		{"learning", func() error { return netlink.LinkSetLearning(port, false) }},
		{"flooding", func() error { return netlink.LinkSetFlood(port, false) }},
		// Where frames on bridges pass the rules of packets (br_netfilter), a container that asks for its own published
		// port gets its frame sent back.
		{"hairpin", func() error { return netlink.LinkSetHairpin(port, true) }},
		{"address", func() error {
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: mac[:],
			})
		}},
	} {
		if err := step.set(); err != nil {
			return fmt.Errorf("bridge port %s: %s: %w", name, step.what, err)
		}
		failpoint.Here("port: one thing more is settled")
	}
	return nil
}

// configure sets up the interfaces inside. It works through one socket in the namespace, which may be owned by another
// user namespace: what counts is who opens the socket.
func configure(ctx context.Context, ns int, l Lease, bridge netlink.Link) error {
	ends, err := endsOf(l, bridge)
	if err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	link, err := h.LinkByName(inside)
	if err != nil {
		return fmt.Errorf("interface %s: %w", inside, err)
	}
	failpoint.Here("attach: inside without addresses")
	for _, e := range ends {
		// The lease makes the address unique; looking for another that has it would delay the first connection.
		if err := h.AddrReplace(link, &netlink.Addr{IPNet: ipNet(e.address), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("address %s: %w", e.address, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	failpoint.Here("attach: inside with addresses")
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("interface %s: %w", inside, err)
	}
	failpoint.Here("attach: inside up, without routes")
	for _, e := range ends {
		everything := &net.IPNet{IP: make(net.IP, e.via.BitLen()/8), Mask: net.CIDRMask(0, e.via.BitLen())}
		if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everything, Gw: e.via.AsSlice()}); err != nil {
			return fmt.Errorf("default route by %s: %w", e.via, err)
		}
	}
	failpoint.Here("attach: done")
	return nil
}

// end is an address of the container, and the bridge's in the same network.
type end struct {
	address netip.Prefix
	via     netip.Addr
}

// endsOf pairs the lease's addresses with those that the bridge has now.
func endsOf(l Lease, bridge netlink.Link) ([]end, error) {
	have, err := list("list addresses of the bridge", func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	var all []end
	for _, a := range have {
		via := prefixOf(a.IPNet)
		for _, ip := range []netip.Addr{l.IP, l.IPv6} {
			if via.Masked().Contains(ip) {
				all = append(all, end{address: netip.PrefixFrom(ip, via.Bits()), via: via.Addr()})
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the bridge has no address in the network of %s", l.IP)
	}
	return all, nil
}

// removeLinks takes away what attaching made for an id. The container's end goes with the host's.
func (b *Bridge) removeLinks(id runtime.ID) error {
	for _, name := range []string{b.names.hostEnd(id), b.names.shaperOf(id)} {
		failpoint.Here("detach: an interface not looked for")
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil && !isNotFound(err) {
			return fmt.Errorf("remove interface %s: %w", name, err)
		}
		failpoint.Here("detach: an interface gone")
	}
	return nil
}
