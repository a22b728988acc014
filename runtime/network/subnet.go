package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// candidates are the subnets that an instance chooses from, in order: behind 10.77.0.0/16 few networks are found.
func candidates() []netip.Prefix {
	var all []netip.Prefix
	for i := 77; i < 255; i++ {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16))
	}
	for i := 31; i >= 16; i-- {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i)}), 16))
	}
	return all
}

// use is a network that this server has an address in or a route to.
type use struct {
	prefix netip.Prefix
	by     string // such as "an address of eth0"
}

// choose returns the first candidate that overlaps nothing.
func choose(from []netip.Prefix, used []use) (netip.Prefix, error) {
	for _, p := range from {
		if _, taken := overlapping(p, used); !taken {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("every one of %d networks from %s to %s is in use on this server", len(from), from[0], from[len(from)-1])
}

// overlapping returns what p overlaps. A default route is no use of every network.
func overlapping(p netip.Prefix, used []use) (use, bool) {
	i := slices.IndexFunc(used, func(u use) bool { return u.prefix.Bits() > 0 && u.prefix.Overlaps(p) })
	if i < 0 {
		return use{}, false
	}
	return used[i], true
}

// gateway is the first address of a subnet: the bridge's.
func gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// broadcast is the last address of an IPv4 subnet.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// maxSubnetBits leaves room for the bridge and a few containers.
const maxSubnetBits = 29

// VetSubnet says what is wrong with a subnet that a user wrote.
func VetSubnet(p netip.Prefix) error {
	switch {
	case !p.IsValid() || !p.Addr().Is4():
		return fmt.Errorf("%s: not an IPv4 network", p)
	case p.Bits() < 8 || p.Bits() > maxSubnetBits:
		return fmt.Errorf("%s: want a length from /8 to /%d", p, maxSubnetBits)
	case p != p.Masked():
		return fmt.Errorf("%s: an address, not a network: write %s", p, p.Masked())
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsLinkLocalUnicast() || p.Contains(netip.IPv4Unspecified()):
		return fmt.Errorf("%s: a network with another purpose", p)
	}
	return nil
}

// uniqueLocal makes a /64 of RFC 4193 from 40 random bits.
func uniqueLocal(random [5]byte) netip.Prefix {
	var b [16]byte
	b[0] = 0xfd
	copy(b[1:], random[:])
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}
