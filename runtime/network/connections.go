package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Numbers of the kernel's linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_tcp.h and nf_internals.h.
const (
	msgGet = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET

	ctaTupleReply     = 2
	ctaTupleIP        = 1
	ctaIPv4Source     = 1
	ctaIPv6Source     = 3
	ctaTupleProtocol  = 2
	ctaProtocolNumber = 1
	ctaStatus         = 3
	ctaProtoInfo      = 4
	ctaProtoInfoTCP   = 1
	ctaTCPState       = 1
	ctaFilter         = 25
	ctaFilterReply    = 2
	filterSource      = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterProtocol    = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM

	tcpSynSent   = 1
	tcpCloseWait = 5
)

// Connections counts the TCP connections by way of published ports to a container that are not over: those that begin, stand,
// or are closed on one side only.
func (b *Bridge) Connections(ctx context.Context, id runtime.ID) (int, error) {
	st, err := b.store.read()
	if err != nil {
		return 0, err
	}
	l := st.find(id)
	if l == nil {
		return 0, nil
	}
	total := 0
	for _, a := range l.addresses() {
		if err = ctx.Err(); err != nil {
			return 0, err
		}
		n, err := connectionsTo(a)
		if err != nil {
			return 0, explain("count the connections to "+l.Name.String(), fmt.Errorf("nf_conntrack_netlink: %w", err))
		}
		total += n
	}
	return total, nil
}

func connectionsTo(to netip.Addr) (n int, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	question, err := answeredBy(to)
	if err != nil {
		return 0, err
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: msgGet, Flags: netlink.Request | netlink.Dump}, Data: question,
	})
	if err != nil {
		return 0, err
	}
	for _, m := range answers {
		f, err := parseFlow(m.Data)
		if err != nil {
			return 0, err
		}
		if f.answers == to && f.translated && f.state >= tcpSynSent && f.state <= tcpCloseWait {
			n++
		}
	}
	return n, nil
}

// answeredBy asks for the TCP connections whose answers come from an address, of IPv6 for those from anywhere: there Linux
// has the filter the wrong way round (it leaves out what is equal). Before 5.8 it does not know the filter and tells all.
func answeredBy(to netip.Addr) ([]byte, error) {
	family, source, flags := byte(unix.AF_INET), uint16(ctaIPv4Source), uint32(filterProtocol|filterSource)
	if to.Is6() {
		family, source, flags = unix.AF_INET6, ctaIPv6Source, filterProtocol
	}
	e := netlink.NewAttributeEncoder()
	e.Nested(ctaTupleReply, func(tuple *netlink.AttributeEncoder) error {
		tuple.Nested(ctaTupleIP, func(ip *netlink.AttributeEncoder) error {
			ip.Bytes(source, to.AsSlice())
			return nil
		})
		tuple.Nested(ctaTupleProtocol, func(protocol *netlink.AttributeEncoder) error {
			protocol.Uint8(ctaProtocolNumber, unix.IPPROTO_TCP)
			return nil
		})
		return nil
	})
	e.Nested(ctaFilter, func(filter *netlink.AttributeEncoder) error {
		filter.Uint32(ctaFilterReply, flags)
		return nil
	})
	attributes, err := e.Encode()
	return append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...), err
}

// flow is what counts of an entry of connection tracking.
type flow struct {
	answers    netip.Addr // where answers come from
	translated bool       // the destination was another one
	state      uint8      // of TCP; 0 for others
}

func parseFlow(message []byte) (f flow, err error) {
	const header = 4 // struct nfgenmsg
	d, err := netlink.NewAttributeDecoder(message[min(len(message), header):])
	if err != nil {
		return flow{}, err
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case ctaStatus:
			f.translated = d.Uint32()&ctStatusDNAT != 0
		case ctaTupleReply:
			d.Nested(nested(ctaTupleIP, func(ip *netlink.AttributeDecoder) {
				if kind := ip.Type(); kind == ctaIPv4Source || kind == ctaIPv6Source {
					f.answers, _ = netip.AddrFromSlice(ip.Bytes())
				}
			}))
		case ctaProtoInfo:
			d.Nested(nested(ctaProtoInfoTCP, func(tcp *netlink.AttributeDecoder) {
				if tcp.Type() == ctaTCPState {
					f.state = tcp.Uint8()
				}
			}))
		}
	}
	return f, d.Err()
}

// nested reads the attributes within the one of a kind.
func nested(kind uint16, read func(*netlink.AttributeDecoder)) func(*netlink.AttributeDecoder) error {
	return func(outer *netlink.AttributeDecoder) error {
		for outer.Next() {
			if outer.Type() != kind {
				continue
			}
			outer.Nested(func(inner *netlink.AttributeDecoder) error {
				for inner.Next() {
					read(inner)
				}
				return nil
			})
		}
		return nil
	}
}
