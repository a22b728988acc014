package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"

	nl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// tracking deletes entries of connection tracking, under the instance's lock. Its socket stays open, as that of rules does and
// for the same reason.
type tracking struct{ conn *nl.Conn }

// with runs fn with the socket. After an error there may be answers in it that nobody read: the next gets another.
func (t *tracking) with(fn func(conn *nl.Conn) error) (err error) {
	if count, cerr := sysctl("netfilter/nf_conntrack_count"); cerr == nil && count == "0" {
		return nil
	}
	if t.conn == nil {
		if t.conn, err = nl.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
			return err
		}
	}
	if err = fn(t.conn); err == nil {
		return nil
	}
	_ = t.conn.Close()
	t.conn = nil
	err = fmt.Errorf("nf_conntrack_netlink: %w", err)
	const op = "delete entries of connection tracking"
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return explain(op, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// forgetAddresses deletes what connection tracking remembers of containers that are gone: who gets the address next must not
// get their packets.
func (t *tracking) forgetAddresses(gone ...netip.Addr) error {
	if len(gone) == 0 {
		return nil
	}
	return t.with(func(conn *nl.Conn) error {
		left, err := flush(conn, mentioned(gone))
		if err != nil || len(left) == 0 {
			return err
		}
		return forget(conn, familyOfAll(left), func(f flow) bool {
			return slices.ContainsFunc([]netip.Addr{f.question.from, f.question.to, f.answer.from}, func(ip netip.Addr) bool {
				return slices.Contains(left, ip)
			})
		})
	})
}

// flush has the kernel find and delete the entries, and returns the addresses for which it cannot: those of IPv6 (see
// flowsFrom), and before Linux 6.12 all. That took the message for one about a single entry, of which parts are missing.
func flush(conn *nl.Conn, gone []netip.Addr) (left []netip.Addr, err error) {
	var requests []request
	for _, ip := range gone {
		if ip.Is6() {
			left = append(left, ip)
			continue
		}
		for _, direction := range []uint16{ctaTupleOriginal, ctaTupleReply} {
			which, ferr := flowsFrom(ip, direction, 0)
			if ferr != nil {
				return nil, ferr
			}
			requests = append(requests, request{what: "of " + ip.String(), kind: msgDelete, head: which})
		}
	}
	failpoint.Here("connections: remembered") // apart: by chance, where the server has any
	err = order(conn, requests...)
	failpoint.Here("connections: forgotten by the kernel alone") // apart: by chance, where the server has any
	if errors.Is(err, unix.EINVAL) {
		return gone, nil
	}
	return left, err
}

// fewFlows is up to how many entries the list that the kernel prints is looked through first. To ask for a copy takes several
// milliseconds, however few they are: it locks each of hundreds of thousands of buckets.
const fewFlows = 2000

// mentioned returns those of the addresses of which connection tracking may remember something.
func mentioned(addresses []netip.Addr) []netip.Addr {
	count, err := sysctl("netfilter/nf_conntrack_count")
	if n, nerr := strconv.Atoi(count); err != nil || nerr != nil || n > fewFlows {
		return addresses
	}
	// The thread's own network namespace, as everything else here. Not every kernel prints a list.
	printed, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
	if err != nil {
		return addresses
	}
	return slices.DeleteFunc(slices.Clone(addresses), func(ip netip.Addr) bool {
		return !bytes.Contains(printed, []byte("="+ip.StringExpanded()+" ")) // src= or dst=
	})
}

// forgetDatagrams deletes the entries of UDP ports that now lead elsewhere: without, a client that goes on sending from
// one port would reach the old container for as long as it sends.
func (t *tracking) forgetDatagrams(moved []datagrams) error {
	addresses, err := list("list addresses", func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	ours := make(map[netip.Addr]bool, len(addresses))
	for _, a := range addresses {
		ours[addr(a.IP)] = true
	}
	return t.with(func(conn *nl.Conn) error {
		return forget(conn, unix.AF_UNSPEC, func(f flow) bool {
			// Only what is sent to this server itself: others have a port of that number too.
			return f.question.protocol == unix.IPPROTO_UDP && (ours[f.question.to] || f.question.to.IsLoopback()) &&
				slices.ContainsFunc(moved, func(d datagrams) bool {
					return d.port == f.question.port && !slices.Contains(d.keep, f.answer.from)
				})
		})
	})
}

// familyOfAll is the family of all addresses, AF_UNSPEC where they are of both.
func familyOfAll(addresses []netip.Addr) byte {
	family := familyOf(addresses[0])
	if slices.ContainsFunc(addresses, func(ip netip.Addr) bool { return familyOf(ip) != family }) {
		return unix.AF_UNSPEC
	}
	return family
}

// forget goes through the entries of a family and deletes some.
func forget(conn *nl.Conn, family byte, which func(flow) bool) error {
	var requests []request
	err := listFlows(conn, about(family), func(f flow) {
		if which(f) {
			requests = append(requests, request{what: "of " + f.answer.from.String(), kind: msgDelete, head: f.raw, unless: unix.ENOENT})
		}
	})
	if err != nil {
		return err
	}
	failpoint.Here("connections: found") // apart: by chance, where the server has any
	err = order(conn, requests...)
	failpoint.Here("connections: forgotten one by one") // apart: by chance, where the server has any
	return err
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
