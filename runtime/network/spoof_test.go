package network_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime/network"
)

// frame is Ethernet with a mark at its end, by which it is found again.
func frame(dst, src network.MAC, etherType uint16, payload []byte) []byte {
	f := slices.Concat(dst[:], src[:])
	f = binary.BigEndian.AppendUint16(f, etherType)
	return append(f, payload...)
}

func arpReply(mac network.MAC, ip, target netip.Addr) []byte {
	return slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 2}, mac[:], ip.AsSlice(), bytes.Repeat([]byte{0xff}, 6), target.AsSlice())
}

func ipv4UDP(src, dst netip.Addr, data string) []byte {
	h := []byte{0x45, 0, 0, byte(28 + len(data)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	h = slices.Concat(h, src.AsSlice(), dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return slices.Concat(h, []byte{0, 9, 0, 9, 0, byte(8 + len(data)), 0, 0}, []byte(data))
}

func checksum(parts ...[]byte) uint16 {
	all := slices.Concat(parts...)
	var sum uint32
	for i := 0; i+1 < len(all); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(all[i:]))
	}
	if len(all)%2 == 1 {
		sum += uint32(all[len(all)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func ipv6(next byte, src, dst netip.Addr, body []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, byte(len(body)), next, 255}
	return slices.Concat(h, src.AsSlice(), dst.AsSlice(), body)
}

// icmp6 is a message with a target, as those of neighbour discovery have.
func icmp6(kind byte, src, dst, target netip.Addr, options string) []byte {
	body := slices.Concat([]byte{kind, 0, 0, 0, 0xa0, 0, 0, 0}, target.AsSlice(), []byte(options))
	pseudo := slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, 0, 0, byte(len(body)), 0, 0, 0, unix.IPPROTO_ICMPV6})
	binary.BigEndian.PutUint16(body[2:], checksum(pseudo, body))
	return ipv6(unix.IPPROTO_ICMPV6, src, dst, body)
}

// raw opens a packet socket on an interface.
func raw(name string) (fd int, to *unix.SockaddrLinklayer, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return -1, nil, err
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
	if err != nil {
		return -1, nil, err
	}
	to = &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index}
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return fd, to, err
	}
	return fd, to, unix.Bind(fd, to)
}

// attempt is a frame that a container sends.
type attempt struct {
	name  string
	frame []byte
	mark  string // found in the frame
	legal bool
}

func attempts(a, b, gw network.Lease) []attempt {
	broadcast := network.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes := netip.MustParseAddr("ff02::1")
	nodes := network.MAC{0x33, 0x33, 0, 0, 0, 1}
	ll := func(m network.MAC) netip.Addr {
		return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
	}
	unspecified := netip.IPv6Unspecified()
	everybody := netip.MustParseAddr("255.255.255.255")
	const ip4, ip6, arp, vlan = 0x0800, 0x86dd, 0x0806, 0x8100
	var all []attempt
	add := func(legal bool, name string, dst, src network.MAC, etherType uint16, payload func(mark string) []byte) {
		mark := fmt.Sprintf("attempt-%02d.", len(all)) // 16 bytes with what pads it: whole options of neighbour discovery
		mark += "xxxxxx"[:16-len(mark)]
		all = append(all, attempt{name: name, legal: legal, mark: mark, frame: frame(dst, src, etherType, payload(mark))})
	}
	udp4 := func(src, dst netip.Addr) func(string) []byte {
		return func(mark string) []byte { return ipv4UDP(src, dst, mark) }
	}
	arpAs := func(mac network.MAC, ip netip.Addr) func(string) []byte {
		return func(mark string) []byte { return append(arpReply(mac, ip, b.IP), mark...) }
	}
	nd := func(kind byte, src, target netip.Addr) func(string) []byte {
		return func(mark string) []byte { return icmp6(kind, src, allNodes, target, mark) }
	}
	add(true, "IPv4 as itself", broadcast, a.MAC, ip4, udp4(a.IP, everybody))
	add(true, "ARP as itself", broadcast, a.MAC, arp, arpAs(a.MAC, a.IP))
	add(true, "IPv6 as itself", nodes, a.MAC, ip6, func(m string) []byte { return ipv6(unix.IPPROTO_NONE, a.IPv6, allNodes, []byte(m)) })
	add(true, "neighbour advertisement of itself", nodes, a.MAC, ip6, nd(136, ll(a.MAC), a.IPv6))
	add(true, "neighbour solicitation", nodes, a.MAC, ip6, nd(135, a.IPv6, b.IPv6))
	add(true, "looking for others with its address", nodes, a.MAC, ip6, nd(135, unspecified, a.IPv6))

	add(false, "IPv4 of the neighbour", broadcast, a.MAC, ip4, udp4(b.IP, everybody))
	add(false, "IPv4 of the bridge", b.MAC, a.MAC, ip4, udp4(gw.IP, b.IP))
	add(false, "IPv4 of nobody", broadcast, a.MAC, ip4, udp4(netip.IPv4Unspecified(), everybody))
	add(false, "IPv4 of the world", b.MAC, a.MAC, ip4, udp4(netip.MustParseAddr(worldAddress), b.IP))
	add(false, "MAC of the neighbour", broadcast, b.MAC, ip4, udp4(a.IP, everybody))
	add(false, "MAC and IPv4 of the neighbour", broadcast, b.MAC, ip4, udp4(b.IP, everybody))
	add(false, "MAC of nobody", broadcast, network.MAC{2, 3, 4, 5, 6, 7}, ip4, udp4(a.IP, everybody))
	add(false, "ARP for the neighbour's address", broadcast, a.MAC, arp, arpAs(a.MAC, b.IP))
	add(false, "ARP for the bridge's address", broadcast, a.MAC, arp, arpAs(a.MAC, gw.IP))
	add(false, "ARP for the neighbour's MAC", broadcast, a.MAC, arp, arpAs(b.MAC, a.IP))
	add(false, "ARP from the neighbour's MAC", broadcast, b.MAC, arp, arpAs(a.MAC, a.IP))
	add(false, "IPv6 of the neighbour", nodes, a.MAC, ip6, func(m string) []byte { return ipv6(unix.IPPROTO_NONE, b.IPv6, allNodes, []byte(m)) })
	add(false, "link-local of the neighbour", nodes, a.MAC, ip6, func(m string) []byte { return ipv6(unix.IPPROTO_NONE, ll(b.MAC), allNodes, []byte(m)) })
	add(false, "IPv6 of nobody", nodes, a.MAC, ip6, func(m string) []byte { return ipv6(unix.IPPROTO_NONE, unspecified, allNodes, []byte(m)) })
	add(false, "IPv6 from the neighbour's MAC", nodes, b.MAC, ip6, func(m string) []byte { return ipv6(unix.IPPROTO_NONE, a.IPv6, allNodes, []byte(m)) })
	add(false, "router advertisement", nodes, a.MAC, ip6, nd(134, ll(a.MAC), unspecified))
	add(false, "redirect", nodes, a.MAC, ip6, nd(137, ll(a.MAC), gw.IPv6))
	add(false, "advertisement of the neighbour's address", nodes, a.MAC, ip6, nd(136, ll(a.MAC), b.IPv6))
	add(false, "advertisement of the bridge's address", nodes, a.MAC, ip6, nd(136, a.IPv6, gw.IPv6))
	add(false, "claiming the neighbour's address while it looks", nodes, a.MAC, ip6, nd(135, unspecified, b.IPv6))
	add(false, "a tag of another network", broadcast, a.MAC, vlan, func(m string) []byte { return append([]byte{0, 1, 8, 0}, ipv4UDP(a.IP, everybody, m)...) })
	add(false, "another protocol", broadcast, a.MAC, 0x88b5, func(m string) []byte { return []byte(m) })
	add(false, "a link-local group, to be learned from", network.MAC{0x01, 0x80, 0xc2, 0, 0, 0x0e}, b.MAC, 0x88cc, func(m string) []byte { return []byte(m) })
	return append(all, attempt{name: "the end", legal: true, mark: "last of all", frame: frame(broadcast, a.MAC, ip4, ipv4UDP(a.IP, everybody, "last of all"))})
}

// What a container sends with an address that is not its own arrives nowhere: not at a neighbour, not at the server.
// With a limit on what it sends, frames take another way through the kernel.
func TestContainersSendOnlyAsThemselves(t *testing.T) {
	bridgeNetfilter(t, func(t *testing.T) {
		for name, limits := range map[string]network.Limits{"unlimited": {}, "limited": {Egress: 100_000_000}} {
			t.Run(name, func(t *testing.T) { testSpoofing(t, limits) })
		}
	})
}

func testSpoofing(t *testing.T, limits network.Limits) {
	e := newEnv(t)
	a, b := e.container("a", limits), e.container("b")
	g, err := e.bridge.Gateway(background)
	must(t, err)
	link, err := netlink.LinkByName(g.Interface)
	must(t, err)
	gw := network.Lease{IP: g.Address, IPv6: g.Address6, MAC: network.MAC(link.Attrs().HardwareAddr)}

	captures := map[string]int{}
	var fd int
	must(t, b.do(t, func() (err error) { fd, _, err = raw("eth0"); return err }))
	captures["neighbour"] = fd
	fd, _, err = raw(g.Interface)
	must(t, err)
	captures["server"] = fd
	for _, fd := range captures {
		defer func() { _ = unix.Close(fd) }()
	}
	tries := attempts(a.lease, b.lease, gw)
	must(t, a.do(t, func() error {
		fd, to, rerr := raw("eth0")
		if rerr != nil {
			return rerr
		}
		defer func() { _ = unix.Close(fd) }()
		for _, try := range tries {
			if rerr = unix.Sendto(fd, try.frame, 0, to); rerr != nil {
				return fmt.Errorf("%s: %w", try.name, rerr)
			}
		}
		return nil
	}))
	for where, fd := range captures {
		arrived, cerr := capture(fd, tries)
		if cerr != nil {
			t.Errorf("%s: %v", where, cerr)
		}
		for _, try := range tries {
			if arrived[try.mark] != try.legal {
				t.Errorf("at the %s: %s: arrived %v", where, try.name, arrived[try.mark])
			}
		}
	}
	var port int // the other end of the neighbour's interface
	must(t, b.do(t, func() error {
		eth0, lerr := netlink.LinkByName("eth0")
		if lerr == nil {
			port = eth0.Attrs().ParentIndex
		}
		return lerr
	}))
	learned, err := netlink.NeighList(0, unix.AF_BRIDGE)
	must(t, err)
	for _, n := range learned {
		if n.HardwareAddr.String() == b.lease.MAC.String() && n.LinkIndex != port {
			t.Errorf("the bridge learned that %s is at interface %d, want %d", n.HardwareAddr, n.LinkIndex, port)
		}
	}
	// The bridge must still know where the neighbour is.
	b.serve(t, "b", "tcp", 80)
	answer, err := ask("tcp", netip.AddrPortFrom(b.lease.IP, 80).String(), patience)
	want(t, "the neighbour afterwards", answer, err, "b "+g.Address.String())
}

// capture reads frames until the last one arrives.
func capture(fd int, tries []attempt) (map[string]bool, error) {
	arrived := map[string]bool{}
	buf := make([]byte, 2048)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return arrived, os.NewSyscallError("recvfrom", err)
		}
		for _, try := range tries {
			if bytes.Contains(buf[:n], []byte(try.mark)) {
				arrived[try.mark] = true
			}
		}
		if arrived[tries[len(tries)-1].mark] {
			return arrived, nil
		}
	}
}
