package network

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of the kernel's linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_tcp.h and nf_internals.h.
const (
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctaTupleOriginal  = 1
	ctaTupleReply     = 2
	ctaTupleIP        = 1
	ctaIPv4Source     = 1
	ctaIPv4Target     = 2
	ctaIPv6Source     = 3
	ctaIPv6Target     = 4
	ctaTupleProtocol  = 2
	ctaProtocolNumber = 1
	ctaPortTarget     = 3
	ctaStatus         = 3
	ctaProtoInfo      = 4
	ctaProtoInfoTCP   = 1
	ctaTCPState       = 1
	ctaFilter         = 25
	ctaFilterOriginal = 1
	ctaFilterReply    = 2
	filterSource      = 1 << 0 // CTA_FILTER_F_CTA_IP_SRC
	filterProtocol    = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM

	tcpSynSent   = 1
	tcpCloseWait = 5
)

// tuple is one direction of an entry of connection tracking.
type tuple struct {
	from, to netip.Addr
	protocol uint8
	port     uint16 // of to
}

// flow is what counts of an entry of connection tracking.
type flow struct {
	question, answer tuple
	translated       bool  // the destination was another one
	state            uint8 // of TCP; 0 for others
	raw              []byte
}

// flowsFrom begins a message about the entries whose packets in one direction, ctaTupleOriginal or ctaTupleReply, come from
// an address; with a protocol, only those of it.
//
// Of IPv6 it is about entries from anywhere: there Linux has the filter the wrong way round (it leaves out what is equal).
// Before 5.8 Linux does not know the filter, and tells all.
func flowsFrom(address netip.Addr, direction uint16, protocol uint8) ([]byte, error) {
	family, source, flags := byte(unix.AF_INET), uint16(ctaIPv4Source), uint32(filterSource)
	if address.Is6() {
		family, source, flags = unix.AF_INET6, ctaIPv6Source, 0
	}
	e := netlink.NewAttributeEncoder()
	e.Nested(direction, func(tuple *netlink.AttributeEncoder) error {
		tuple.Nested(ctaTupleIP, func(ip *netlink.AttributeEncoder) error {
			ip.Bytes(source, address.AsSlice())
			return nil
		})
		if protocol == 0 {
			return nil
		}
		flags |= filterProtocol
		tuple.Nested(ctaTupleProtocol, func(number *netlink.AttributeEncoder) error {
			number.Uint8(ctaProtocolNumber, protocol)
			return nil
		})
		return nil
	})
	e.Nested(ctaFilter, func(filter *netlink.AttributeEncoder) error {
		part := uint16(ctaFilterOriginal)
		if direction == ctaTupleReply {
			part = ctaFilterReply
		}
		filter.Uint32(part, flags)
		return nil
	})
	attributes, err := e.Encode()
	return append(about(family), attributes...), err
}

// about is struct nfgenmsg.
func about(family byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

// listFlows asks for entries, as question says, and calls each with every one.
func listFlows(conn *netlink.Conn, question []byte, each func(flow)) error {
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: msgGet, Flags: netlink.Request | netlink.Dump}, Data: question,
	})
	if err != nil {
		return bare(err)
	}
	for _, m := range answers {
		f, err := parseFlow(m.Data)
		if err != nil {
			return err
		}
		each(f)
	}
	return nil
}

func parseFlow(message []byte) (f flow, err error) {
	f.raw = message
	d, err := netlink.NewAttributeDecoder(message[min(len(message), sizeofNfgenmsg):])
	if err != nil {
		return flow{}, err
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		switch d.Type() {
		case ctaStatus:
			f.translated = d.Uint32()&ctStatusDNAT != 0
		case ctaTupleOriginal:
			d.Nested(f.question.parse)
		case ctaTupleReply:
			d.Nested(f.answer.parse)
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

func (t *tuple) parse(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case ctaTupleIP:
			d.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					switch ip.Type() {
					case ctaIPv4Source, ctaIPv6Source:
						t.from, _ = netip.AddrFromSlice(ip.Bytes())
					case ctaIPv4Target, ctaIPv6Target:
						t.to, _ = netip.AddrFromSlice(ip.Bytes())
					}
				}
				return nil
			})
		case ctaTupleProtocol:
			d.Nested(func(protocol *netlink.AttributeDecoder) error {
				for protocol.Next() {
					switch protocol.Type() {
					case ctaProtocolNumber:
						t.protocol = protocol.Uint8()
					case ctaPortTarget:
						t.port = protocol.Uint16()
					}
				}
				return nil
			})
		}
	}
	return nil
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
