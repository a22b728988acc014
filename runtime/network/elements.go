package network

import (
	"cmp"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// The sets and maps that rules look into. Rules are written once; what changes are elements.
const (
	setSenders4 = "senders4" // interface . MAC . address: who may send as whom
	setSenders6 = "senders6"
	setAllow4   = "allow4" // protocol . host address . host port . source: who may use a published port
	setAllow6   = "allow6"
	mapPorts4   = "ports4" // protocol . host address . host port : container address . port
	mapPorts6   = "ports6"
	mapAny4     = "any4" // protocol . host port : container address . port, for every address of the server
	mapAny6     = "any6"
)

// element is one member of a set or map, as the kernel keeps it: strings of bytes, each field padded to four.
type element struct {
	set           string
	key, end, val string // end is the last key of an interval
}

// elementsOf returns what the kernel should have, sorted.
func elementsOf(n names, leases []Lease) []element {
	var all []element
	for _, l := range leases {
		all = append(all, senderElements(n, l)...)
		for _, p := range l.Ports {
			all = append(all, portElements(p, l)...)
		}
	}
	slices.SortFunc(all, compareElements)
	return slices.Compact(all)
}

func compareElements(a, b element) int {
	return cmp.Or(cmp.Compare(a.set, b.set), cmp.Compare(a.key, b.key), cmp.Compare(a.end, b.end), cmp.Compare(a.val, b.val))
}

// senderElements are the addresses that the container may send from.
func senderElements(n names, l Lease) []element {
	who := padded(append([]byte(n.hostEnd(l.ID)), make([]byte, unix.IFNAMSIZ-len(n.hostEnd(l.ID)))...)) + padded(l.MAC[:])
	all := []element{{set: setSenders4, key: who + padded(l.IP.AsSlice())}}
	if l.IPv6.IsValid() {
		// Without an address yet, an interface looks for others with its own as source ::.
		for _, ip := range []netip.Addr{l.IPv6, linkLocal(l.MAC), netip.IPv6Unspecified()} {
			all = append(all, element{set: setSenders6, key: who + padded(ip.AsSlice())})
		}
	}
	return all
}

// portElements are the elements of one published port, in each family that its host address stands for.
func portElements(p runtime.Port, l Lease) []element {
	var all []element
	if (!p.HostIP.IsValid() || p.HostIP.Is4()) && l.IP.IsValid() {
		all = append(all, familyElements(p, l.IP, netip.IPv4Unspecified(), setAllow4, mapPorts4, mapAny4)...)
	}
	if (!p.HostIP.IsValid() || p.HostIP.Is6()) && l.IPv6.IsValid() {
		all = append(all, familyElements(p, l.IPv6, netip.IPv6Unspecified(), setAllow6, mapPorts6, mapAny6)...)
	}
	return all
}

func familyElements(p runtime.Port, to, unspecified netip.Addr, allow, ports, anyAddress string) []element {
	proto, dport := padded([]byte{protocolNumber(p.Protocol)}), paddedPort(p.HostPort)
	hostIP := p.HostIP
	if !hostIP.IsValid() {
		hostIP = unspecified
	}
	first, last := hostIP, hostIP
	port := element{set: ports, key: proto + padded(hostIP.AsSlice()) + dport}
	if hostIP.IsUnspecified() {
		first, last = span(netip.PrefixFrom(unspecified, 0))
		port = element{set: anyAddress, key: proto + dport}
	}
	port.val = padded(to.AsSlice()) + paddedPort(p.ContainerPort)
	all := []element{port}
	for _, source := range sources(p.Allow, unspecified) {
		from, until := span(source)
		all = append(all, element{
			set: allow,
			key: proto + padded(first.AsSlice()) + dport + padded(from.AsSlice()),
			end: proto + padded(last.AsSlice()) + dport + padded(until.AsSlice()),
		})
	}
	return all
}

// sources returns the prefixes of one family that allow names, without those that lie within others: the kernel takes no
// intervals that overlap. No prefix at all means everybody.
func sources(allow []netip.Prefix, unspecified netip.Addr) []netip.Prefix {
	if len(allow) == 0 {
		return []netip.Prefix{netip.PrefixFrom(unspecified, 0)}
	}
	var kept []netip.Prefix
	for _, p := range slices.SortedFunc(slices.Values(allow), func(a, b netip.Prefix) int { return a.Bits() - b.Bits() }) {
		inside := slices.ContainsFunc(kept, func(k netip.Prefix) bool { return k.Overlaps(p) })
		if p.Addr().Is4() == unspecified.Is4() && !inside {
			kept = append(kept, p.Masked())
		}
	}
	return kept
}

// span returns the first and the last address of a prefix.
func span(p netip.Prefix) (first, last netip.Addr) {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	return p.Masked().Addr(), last
}

// difference returns what must go and what must come for have to become want. Both are sorted.
func difference(have, want []element) (del, add []element) {
	for _, e := range have {
		if _, found := slices.BinarySearchFunc(want, e, compareElements); !found {
			del = append(del, e)
		}
	}
	for _, e := range want {
		if _, found := slices.BinarySearchFunc(have, e, compareElements); !found {
			add = append(add, e)
		}
	}
	return del, add
}

// protocolNumber is of TCP or UDP; vetPorts lets no other through.
func protocolNumber(name string) byte {
	if name == protocolUDP {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// padded fills a field of a key up to whole registers.
func padded(b []byte) string {
	return string(append(slices.Clone(b), make([]byte, (4-len(b)%4)%4)...))
}

func paddedPort(port uint16) string { return padded([]byte{byte(port >> 8), byte(port)}) }
