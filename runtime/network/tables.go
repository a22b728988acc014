package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// table is one of nftables as it should be, without elements.
type table struct {
	family nftables.TableFamily
	chains []chain
	sets   []set
}

// chain is a list of rules; one without a kind is only jumped to.
type chain struct {
	name  string
	kind  nftables.ChainType
	hook  *nftables.ChainHook
	prio  *nftables.ChainPriority
	rules [][]expr.Any
}

// set is a set, or a map where it has a value. With interval its keys are ranges.
type set struct {
	name     string
	interval bool
	key, val []nftables.SetDatatype
}

// rule joins conditions and an end.
func rule(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// tablesOf returns the two tables of an instance. An accept in them ends nothing but their own chain, so that what other
// tables drop stays dropped.
func tablesOf(n names, subnet, subnet6 netip.Prefix) []table {
	return []table{routed(n, subnet, subnet6), bridged(n)}
}

// portDNS is where a container asks for names.
const portDNS = 53

// routed is the table of what goes through the server: published ports, masquerading, and the way in.
func routed(n names, subnet, subnet6 netip.Prefix) table {
	t := table{family: nftables.TableFamilyINet}
	bridge := name(n.bridge)
	loopback := chain{name: "loopback", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityRaw}
	ports := chain{name: "ports"}
	postrouting := chain{name: "postrouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPostrouting, prio: nftables.ChainPriorityNATSource}

	type part struct {
		family
		subnet                 netip.Prefix
		allow, ports, anywhere string
		address                nftables.SetDatatype
	}
	parts := []part{{overIPv4(), subnet, setAllow4, mapPorts4, mapAny4, nftables.TypeIPAddr}}
	if subnet6.IsValid() {
		parts = append(parts, part{overIPv6(), subnet6, setAllow6, mapPorts6, mapAny6, nftables.TypeIP6Addr})
	}
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	for _, f := range parts {
		only := is(nfproto(), f.nfproto)
		allowed := rule(only, isIn(f.allow, l4proto(), f.daddr, dport(), f.saddr))
		t.sets = append(
			t.sets,
			set{name: f.allow, interval: true, key: []nftables.SetDatatype{proto, f.address, port, f.address}},
			set{name: f.ports, key: []nftables.SetDatatype{proto, f.address, port}, val: []nftables.SetDatatype{f.address, port}},
			set{name: f.anywhere, key: []nftables.SetDatatype{proto, port}, val: []nftables.SetDatatype{f.address, port}},
		)
		// The bridge routes 127.0.0.0/8 so that the server's loopback reaches containers; nothing may come that way.
		loopback.rules = append(
			loopback.rules,
			rule(is(inName(), bridge...), only, isWithin(f.daddr, f.loopback), drop()),
			rule(is(inName(), bridge...), only, isWithin(f.saddr, f.loopback), drop()),
		)
		ports.rules = append(
			ports.rules,
			// The containers' own name server stays reachable beside a published one.
			rule(only, is(f.daddr, gateway(f.subnet).AsSlice()...), is(dport(), 0, portDNS), back()),
			rule(allowed, mapped(f.ports, l4proto(), f.daddr, dport()), translate(f.family)),
			rule(allowed, mapped(f.anywhere, l4proto(), dport()), translate(f.family)),
		)
		postrouting.rules = append(
			postrouting.rules,
			rule(isNot(outName(), bridge...), only, isWithin(f.saddr, f.subnet), masquerade()),
			// Answers to a neighbour and to loopback have to come back through the server.
			rule(is(outName(), bridge...), only, isWithin(f.saddr, f.subnet), conntrackHas(expr.CtKeySTATUS, ctStatusDNAT), masquerade()),
			rule(is(outName(), bridge...), only, isWithin(f.saddr, f.loopback), masquerade()),
		)
	}
	t.chains = []chain{
		loopback, ports,
		{
			name: "prerouting", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityNATDest,
			rules: [][]expr.Any{rule(toThisServer(), jump(ports.name))},
		},
		{
			name: "output", kind: nftables.ChainTypeNAT, hook: nftables.ChainHookOutput, prio: nftables.ChainPriorityNATDest,
			rules: [][]expr.Any{rule(toThisServer(), jump(ports.name))},
		},
		postrouting,
		{
			// From outside only what was published, and answers: not whatever else a container listens on.
			name: "forward", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookForward, prio: nftables.ChainPriorityFilter,
			rules: [][]expr.Any{
				rule(is(inName(), bridge...), accept()),
				rule(isNot(outName(), bridge...), accept()),
				rule(conntrackHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept()),
				rule(conntrackHas(expr.CtKeySTATUS, ctStatusDNAT), accept()),
				drop(),
			},
		},
	}
	return t
}

// Types of ICMPv6 messages that say what is where (RFC 4861).
const (
	routerAdvertisement   = 134
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	redirect              = 137
)

// bridged is the table of what containers send: only as themselves. It comes before the bridge learns and before
// anything is routed, and holds for everything that comes from an interface of this instance.
func bridged(n names) table {
	who := []field{inName(), etherSrc()}
	as := func(address field) []field { return append(slices.Clone(who), address) }
	v4, v6 := overIPv4(), overIPv6()
	isIPv4 := is(etherType(), 0x08, 0x00)
	isARP := is(etherType(), 0x08, 0x06)
	isIPv6 := is(etherType(), 0x86, 0xdd)
	arp := func(offset, length uint32) field { return payload(expr.PayloadBaseNetworkHeader, offset, length) }
	icmp := func(kind byte) []expr.Any {
		return rule(isIPv6, is(l4proto(), unix.IPPROTO_ICMPV6), is(payload(expr.PayloadBaseTransportHeader, 0, 1), kind))
	}
	target := payload(expr.PayloadBaseTransportHeader, 8, 16)
	unspecified := is(v6.saddr, netip.IPv6Unspecified().AsSlice()...)
	ours := is(inName(), []byte(n.host)...)
	types := func(address nftables.SetDatatype) []nftables.SetDatatype {
		return []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, address}
	}
	return table{
		family: nftables.TableFamilyBridge,
		sets: []set{
			{name: setSenders4, key: types(nftables.TypeIPAddr)},
			{name: setSenders6, key: types(nftables.TypeIP6Addr)},
		},
		chains: []chain{
			{name: "senders", rules: [][]expr.Any{
				rule(isIPv4, isIn(setSenders4, as(v4.saddr)...), accept()),
				// Ethernet, IPv4, and both of the sender's addresses its own, in the frame and in the message.
				rule(isARP, is(arp(0, 6), 0, 1, 8, 0, 6, 4), isIn(setSenders4, as(arp(14, 4))...), isIn(setSenders4, inName(), arp(8, 6), arp(14, 4)), accept()),
				rule(icmp(routerAdvertisement), drop()),
				rule(icmp(redirect), drop()),
				rule(icmp(neighborAdvertisement), isMissing(setSenders6, as(target)...), drop()),
				rule(icmp(neighborSolicitation), unspecified, isMissing(setSenders6, as(target)...), drop()),
				rule(isIPv6, unspecified, isNot(l4proto(), unix.IPPROTO_ICMPV6), drop()),
				rule(isIPv6, isIn(setSenders6, as(v6.saddr)...), accept()),
				drop(),
			}},
			{
				name: "prerouting", kind: nftables.ChainTypeFilter, hook: nftables.ChainHookPrerouting, prio: nftables.ChainPriorityRaw,
				rules: [][]expr.Any{rule(ours, jump("senders"))},
			},
		},
	}
}
