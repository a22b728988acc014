package manifest

import (
	"cmp"
	"fmt"
	"net/netip"
)

// hostPort is a port of a server. Its address is the zero one where every address of the server is meant.
type hostPort struct {
	at       netip.Addr
	port     int64
	protocol Protocol
}

// hostPortOf returns where p is published; false where the manifest does not say it rightly.
func hostPortOf(p Port) (hostPort, bool) {
	h := hostPort{port: *p.HostPort, protocol: cmp.Or(p.Protocol, ProtocolTCP)}
	if h.port < 1 || h.port > 65535 {
		return h, false
	}
	if p.HostIP == "" {
		return h, true
	}
	ip, err := netip.ParseAddr(p.HostIP)
	h.at = ip.Unmap()
	return h, err == nil
}

// String returns the port as people write it: 80/TCP, 10.0.0.1:80/TCP.
func (h hostPort) String() string {
	if !h.at.IsValid() {
		return fmt.Sprintf("%d/%s", h.port, h.protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(h.at, uint16(h.port)), h.protocol)
}

// families returns the unspecified address of each family that h is of.
func (h hostPort) families() []netip.Addr {
	switch {
	case !h.at.IsValid():
		return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	case h.at.Is4():
		return []netip.Addr{netip.IPv4Unspecified()}
	default:
		return []netip.Addr{netip.IPv6Unspecified()}
	}
}

// claims finds ports of a server that are asked for twice, by whoever W tells apart. Each is found at once, however many
// addresses a stranger asks for a port on.
type claims[W any] map[claimKey]W

// claimKey is a port that was asked for; with some, a port that was asked for on any address of at's family.
type claimKey struct {
	hostPort
	some bool
}

// claim notes that who asks for h, unless somebody has it already.
func (c claims[W]) claim(h hostPort, who W) (before W, taken bool) {
	with := func(at netip.Addr, some bool) claimKey { return claimKey{hostPort{at, h.port, h.protocol}, some} }
	for _, family := range h.families() {
		asked := []claimKey{with(h.at, false), with(family, false), with(netip.Addr{}, false)}
		if !h.at.IsValid() || h.at.IsUnspecified() {
			asked = []claimKey{with(family, true)}
		}
		for _, key := range asked {
			if before, taken = c[key]; taken {
				return before, true
			}
		}
	}
	c[with(h.at, false)] = who
	for _, family := range h.families() {
		c[with(family, true)] = who
	}
	return before, false
}
