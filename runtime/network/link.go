package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// ensureLink makes the bridge with its addresses. A bridge that is there claims its subnet; where there is none, the
// subnet that the state keeps is used again unless something else has it by now.
func (b *Bridge) ensureLink(st *state, done *repairs) error {
	if b.cfg.CIDR.IsValid() {
		if err := VetSubnet(b.cfg.CIDR); err != nil {
			return &runtime.Error{Op: "use --bridge-cidr", Err: err, Permanent: true}
		}
	}
	if hasIPv6() && !st.Subnet6.IsValid() {
		var random [5]byte
		_, _ = rand.Read(random[:]) // never fails
		st.Subnet6 = uniqueLocal(random)
	}
	link, err := b.find()
	if err != nil {
		return err
	}
	if link != nil && st.Subnet.IsValid() && (!b.cfg.CIDR.IsValid() || b.cfg.CIDR == st.Subnet) {
		return b.address(link, st, done)
	}
	return locked(machineLock, func() error {
		if err = b.settle(st); err != nil {
			return err
		}
		if link == nil {
			if link, err = b.makeLink(st); err != nil {
				return &runtime.Error{Op: "make bridge " + b.names.bridge, Err: err, Hint: missingModule(err, "bridge")}
			}
			done.add("made bridge %s", b.names.bridge)
		}
		return b.address(link, st, done)
	})
}

// find returns the bridge, nil where there is none, and an error where somebody else has its name.
func (b *Bridge) find() (netlink.Link, error) {
	link, err := netlink.LinkByName(b.names.bridge)
	if isNotFound(err) {
		return nil, nil //nolint:nilnil // there is none, and that is no error
	}
	if err != nil {
		return nil, err
	}
	if alias := link.Attrs().Alias; link.Type() != "bridge" || (alias != "" && alias != b.names.alias) {
		return nil, &runtime.Error{
			Op: "use bridge " + b.names.bridge, Err: fmt.Errorf("an interface of that name exists (%s, alias %q) and is not this instance's", link.Type(), alias),
			Permanent: true, Hint: "choose another --instance, or remove it with ip link delete " + b.names.bridge,
		}
	}
	return link, nil
}

// settle decides on the subnet, under the machine's lock.
func (b *Bridge) settle(st *state) error {
	want := b.cfg.CIDR
	if st.Subnet.IsValid() && !want.IsValid() {
		want = st.Subnet
	}
	attached, err := linksWith(b.names.host)
	if err != nil {
		return err
	}
	if st.Subnet.IsValid() && want == st.Subnet && len(attached) > 0 {
		return nil // somebody removed the bridge below containers that live
	}
	if st.Subnet.IsValid() && want != st.Subnet && len(attached) > 0 {
		return &runtime.Error{
			Op:  "use --bridge-cidr " + want.String(),
			Err: fmt.Errorf("%d containers have addresses of %s", len(attached), st.Subnet), Permanent: true,
			Hint: "run `reconciler down` first, or keep --bridge-cidr " + st.Subnet.String(),
		}
	}
	used, err := b.used()
	if err != nil {
		return err
	}
	if want.IsValid() {
		u, taken := overlapping(want, used)
		if taken && b.cfg.CIDR.IsValid() {
			return &runtime.Error{
				Op:  "use --bridge-cidr " + want.String(),
				Err: fmt.Errorf("it overlaps %s, %s", u.prefix, u.by), Hint: "choose a network that this server does not use, or leave it to be chosen",
			}
		}
		if !taken {
			if want != st.Subnet {
				st.rebase(want)
			}
			return nil
		}
	}
	chosen, err := choose(candidates(), used)
	if err != nil {
		return &runtime.Error{Op: "choose a network for bridge " + b.names.bridge, Err: err, Hint: "name one with --bridge-cidr"}
	}
	st.rebase(chosen)
	return nil
}

// used lists what networks this server has, without the bridge's own.
func (b *Bridge) used() ([]use, error) {
	links, err := list("list interfaces", netlink.LinkList)
	if err != nil {
		return nil, err
	}
	byIndex := map[int]string{}
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs().Name
	}
	addresses, err := list("list addresses", func() ([]netlink.Addr, error) { return netlink.AddrList(nil, unix.AF_INET) })
	if err != nil {
		return nil, err
	}
	var all []use
	add := func(n *net.IPNet, index int, what string) {
		if byIndex[index] != b.names.bridge {
			all = append(all, use{prefix: prefixOf(n).Masked(), by: strings.TrimSpace(what + " " + byIndex[index])})
		}
	}
	for _, a := range addresses {
		add(a.IPNet, a.LinkIndex, "an address of")
	}
	// Every table: policy routing has its networks in others than main.
	routes, err := list("list routes", func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Dst != nil && (r.Type == unix.RTN_UNICAST || r.Type == unix.RTN_UNSPEC) {
			add(r.Dst, r.LinkIndex, "a route of")
		}
	}
	return all, nil
}

// prefixOf keeps the address; only Masked makes it a network.
func prefixOf(n *net.IPNet) netip.Prefix {
	ip, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), bits)
}

// makeLink makes the bridge, up and with a MAC of its own: else it takes the lowest of its ports', which come and go.
func (b *Bridge) makeLink(st *state) (netlink.Link, error) {
	mtu, err := outerMTU()
	if err != nil {
		return nil, err
	}
	snooping := false // nobody asks for groups here, and without a querier snooping loses neighbour discovery
	mac := macOf(gateway(st.Subnet))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = b.names.bridge, mtu, mac[:]
	failpoint.Here("bridge: not made")
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	failpoint.Here("bridge: made")
	return netlink.LinkByName(b.names.bridge)
}

// defaultMTU is Ethernet's.
const defaultMTU = 1500

// outerMTU is that of the way out: larger packets would be dropped or cut there.
func outerMTU() (int, error) {
	routes, err := defaultRoutes()
	if err != nil {
		return 0, err
	}
	mtu := 0
	for _, r := range routes {
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil && (mtu == 0 || link.Attrs().MTU < mtu) {
			mtu = link.Attrs().MTU
		}
	}
	if mtu == 0 {
		mtu = defaultMTU
	}
	return mtu, nil
}

// defaultRoutes are the ways out of this server.
func defaultRoutes() ([]netlink.Route, error) {
	return list("list routes", func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{}, netlink.RT_FILTER_DST)
	})
}

// address gives the bridge what it should have and takes what it should not, and puts interfaces that lost their bridge
// back.
func (b *Bridge) address(link netlink.Link, st *state, done *repairs) error {
	op := "set up bridge " + b.names.bridge
	failpoint.Here("bridge: without an alias")
	if link.Attrs().Alias == "" {
		if err := netlink.LinkSetAlias(link, b.names.alias); err != nil {
			return fmt.Errorf("%s: alias: %w", op, err)
		}
	}
	failpoint.Here("bridge: with an alias")
	want := []netip.Prefix{netip.PrefixFrom(gateway(st.Subnet), st.Subnet.Bits())}
	if st.Subnet6.IsValid() && hasIPv6() {
		want = append(want, netip.PrefixFrom(gateway(st.Subnet6), st.Subnet6.Bits()))
	}
	have, err := list(op+": list addresses", func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, a := range have {
		if p := prefixOf(a.IPNet); slices.Contains(want, p) {
			want = slices.DeleteFunc(want, func(w netip.Prefix) bool { return w == p })
		} else if !p.Addr().IsLinkLocalUnicast() {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("%s: remove address %s: %w", op, p, err)
			}
			done.add("took address %s from bridge %s", p, b.names.bridge)
		}
	}
	failpoint.Here("bridge: without addresses")
	for _, p := range want {
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("%s: add address %s: %w", op, p, err)
		}
		done.add("gave bridge %s address %s", b.names.bridge, p)
	}
	failpoint.Here("bridge: with addresses")
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		done.add("brought bridge %s up", b.names.bridge)
	}
	failpoint.Here("bridge: up")
	return b.putBack(link, st, done)
}

// putBack joins interfaces that lost their bridge with it.
func (b *Bridge) putBack(bridge netlink.Link, st *state, done *repairs) error {
	links, err := linksWith(b.names.host)
	if err != nil {
		return err
	}
	ports := map[string]netlink.Link{}
	for _, l := range links {
		ports[l.Attrs().Name] = l
	}
	back := 0
	for _, l := range st.Leases {
		port := ports[b.names.hostEnd(l.ID)]
		if port == nil || port.Attrs().MasterIndex == bridge.Attrs().Index {
			continue
		}
		conn, err := routes(0)
		if err != nil {
			return err
		}
		failpoint.Here("bridge: a port not put back") // apart: where somebody took it away
		err = order(conn, joined(port.Attrs().Index, device{index: bridge.Attrs().Index}), settled(port.Attrs().Name), behind(port.Attrs().Index, l.MAC))
		failpoint.Here("bridge: a port put back") // apart: where somebody took it away
		_ = conn.Close()
		if isNotFound(err) {
			continue // its container has just ended
		}
		if err != nil {
			return fmt.Errorf("put interface %s back on bridge %s: %w", port.Attrs().Name, b.names.bridge, err)
		}
		back++
	}
	if back > 0 {
		done.add("put %d interfaces back on bridge %s", back, b.names.bridge)
	}
	return nil
}

// linksWith lists the interfaces whose name begins with prefix.
func linksWith(prefix string) ([]netlink.Link, error) {
	all, err := list("list interfaces", netlink.LinkList)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(l netlink.Link) bool { return !strings.HasPrefix(l.Attrs().Name, prefix) }), nil
}

// list asks again while others change what is listed: the kernel says that an answer may lack parts.
func list[T any](what string, ask func() ([]T, error)) ([]T, error) {
	const tries = 20
	for i := 1; ; i++ {
		all, err := ask()
		if err == nil {
			return all, nil
		}
		if i == tries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// isNotFound reports whether an interface is not, or no longer, there.
func isNotFound(err error) bool {
	_, ok := errors.AsType[netlink.LinkNotFoundError](err)
	return ok || errors.Is(err, unix.ENODEV)
}

// missingModule is what to do where the kernel does not know a kind of interface or of queue.
func missingModule(err error, module string) string {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return "the kernel lacks " + module + ": modprobe " + module
	}
	return ""
}
