package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flowFilter chooses entries of connection tracking.
type flowFilter func(f *netlink.ConntrackFlow) bool

// MatchConntrackFlow is what netlink asks.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool { return f(flow) }

// forgetAddresses deletes what connection tracking remembers of containers that are gone, TCP and UDP: who gets the
// address next must not get their packets.
func forgetAddresses(gone ...netip.Addr) error {
	if len(gone) == 0 {
		return nil
	}
	return forget(func(f *netlink.ConntrackFlow) bool {
		if f.Forward.Protocol != unix.IPPROTO_TCP && f.Forward.Protocol != unix.IPPROTO_UDP {
			return false
		}
		return slices.ContainsFunc([]net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP}, func(ip net.IP) bool {
			return slices.Contains(gone, addr(ip))
		})
	})
}

// forgetDatagrams deletes the entries of UDP ports that now lead elsewhere: without, a client that goes on sending from
// one port would reach the old container for as long as it sends.
func forgetDatagrams(moved []datagrams) error {
	addresses, err := list("list addresses", func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	ours := make(map[netip.Addr]bool, len(addresses))
	for _, a := range addresses {
		ours[addr(a.IP)] = true
	}
	return forget(func(f *netlink.ConntrackFlow) bool {
		// Only what is sent to this server itself: others have a port of that number too.
		return f.Forward.Protocol == unix.IPPROTO_UDP && (ours[addr(f.Forward.DstIP)] || addr(f.Forward.DstIP).IsLoopback()) &&
			slices.ContainsFunc(moved, func(d datagrams) bool {
				return d.port == f.Forward.DstPort && !slices.Contains(d.keep, addr(f.Reverse.SrcIP))
			})
	})
}

// forget goes through the whole table, which takes the kernel milliseconds even where it is nearly empty.
func forget(which flowFilter) error {
	if count, err := sysctl("netfilter/nf_conntrack_count"); err == nil && count == "0" {
		return nil
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := list("delete entries of connection tracking", func() ([]struct{}, error) {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, which)
			return nil, err
		})
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
			return explain("delete entries of connection tracking", fmt.Errorf("nf_conntrack_netlink: %w", err))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
