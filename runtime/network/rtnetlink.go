package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	nl "github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"golang.org/x/sys/unix"
)

// request is one change of interfaces, addresses, routes or neighbours.
type request struct {
	what       string // as an error says it
	kind       uint16
	flags      nl.HeaderFlags
	head       []byte
	attributes func(e *nl.AttributeEncoder)
	unless     unix.Errno // the error that says it needs not be done
}

// routes opens a socket for requests in a network namespace; 0: in this one. Which user namespace that one is of does not
// matter: what counts is who opens the socket.
func routes(ns int) (*nl.Conn, error) {
	conn, err := nl.Dial(unix.NETLINK_ROUTE, &nl.Config{NetNS: ns})
	if err != nil {
		return nil, fmt.Errorf("open a socket for interfaces: %w", err)
	}
	return conn, nil
}

// atOnce is how many requests are sent together: their answers have to fit into the socket's buffer.
const atOnce = 64

// order has the kernel carry out requests, many in one call, one after another, and returns the first error. What comes
// behind one that failed is tried all the same.
func order(conn *nl.Conn, requests ...request) error {
	var first error
	for some := range slices.Chunk(requests, atOnce) {
		messages := make([]nl.Message, 0, len(some))
		for _, r := range some {
			m, err := r.message()
			if err != nil {
				return fmt.Errorf("%s: %w", r.what, err)
			}
			messages = append(messages, m)
		}
		if _, err := conn.SendMessages(messages); err != nil {
			return bare(err)
		}
		for _, r := range some {
			_, err := conn.Receive()
			if err != nil && first == nil && (r.unless == 0 || !errors.Is(err, r.unless)) {
				first = fmt.Errorf("%s: %w", r.what, bare(err))
			}
		}
	}
	return first
}

func (r request) message() (nl.Message, error) {
	e := nl.NewAttributeEncoder()
	if r.attributes != nil {
		r.attributes(e)
	}
	attributes, err := e.Encode()
	return nl.Message{
		Header: nl.Header{Type: nl.HeaderType(r.kind), Flags: r.flags | nl.Request | nl.Acknowledge}, Data: append(slices.Clip(r.head), attributes...),
	}, err
}

// bare takes off the library's words, which say only that it was about netlink.
func bare(err error) error {
	if op, ok := errors.AsType[*nl.OpError](err); ok && op.Err != nil {
		return op.Err
	}
	return err
}

// ifinfo is struct ifinfomsg: an interface by its index, or 0 where the attributes name it, and flags that are to be set.
func ifinfo(index int, set uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	nlenc.PutInt32(b[4:8], int32(index))
	nlenc.PutUint32(b[8:12], set)
	nlenc.PutUint32(b[12:16], set)
	return b
}

// pairOf makes a pair of interfaces: one here, on a bridge, the other in the namespace ns.
func pairOf(name string, bridge device, peer string, mac MAC, ns int) request {
	const infoPeer = 1 // VETH_INFO_PEER
	return request{
		what: "make interface " + name, kind: unix.RTM_NEWLINK, flags: nl.Create | nl.Excl, head: ifinfo(0, 0),
		attributes: func(e *nl.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, name)
			e.Uint32(unix.IFLA_MTU, bridge.mtu)
			e.Uint32(unix.IFLA_MASTER, uint32(bridge.index))
			e.Nested(unix.IFLA_LINKINFO, func(info *nl.AttributeEncoder) error {
				info.String(unix.IFLA_INFO_KIND, "veth")
				info.Nested(unix.IFLA_INFO_DATA, func(data *nl.AttributeEncoder) error {
					data.Do(infoPeer, func() ([]byte, error) {
						p := nl.NewAttributeEncoder()
						p.String(unix.IFLA_IFNAME, peer)
						p.Uint32(unix.IFLA_MTU, bridge.mtu)
						p.Bytes(unix.IFLA_ADDRESS, mac[:])
						p.Uint32(unix.IFLA_NET_NS_FD, uint32(ns))
						b, err := p.Encode()
						return append(ifinfo(0, 0), b...), err
					})
					return nil
				})
				return nil
			})
		},
	}
}

// joined puts an interface on a bridge.
func joined(index int, bridge device) request {
	return request{
		what: "put it on the bridge", kind: unix.RTM_NEWLINK, head: ifinfo(index, 0),
		attributes: func(e *nl.AttributeEncoder) { e.Uint32(unix.IFLA_MASTER, uint32(bridge.index)) },
	}
}

// settled tells the bridge that who is behind a port is known once for all. It must not learn: it does so from some frames
// (LLDP) before any rule sees them, and would send a neighbour's traffic to whoever claims its MAC. Nor need it flood.
func settled(port string) request {
	const slaveKind, slaveData = 4, 5               // IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA
	const hairpin, learning, unicastFlood = 4, 8, 9 // IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD
	return request{
		what: "settle bridge port " + port, kind: unix.RTM_NEWLINK, head: ifinfo(0, 0),
		attributes: func(e *nl.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, port)
			e.Nested(unix.IFLA_LINKINFO, func(info *nl.AttributeEncoder) error {
				info.String(slaveKind, "bridge")
				info.Nested(slaveData, func(data *nl.AttributeEncoder) error {
					data.Uint8(learning, 0)
					data.Uint8(unicastFlood, 0)
					// Where frames on bridges pass the rules of packets (br_netfilter), a container that asks for its own published
					// port gets its frame sent back.
					data.Uint8(hairpin, 1)
					return nil
				})
				return nil
			})
		},
	}
}

// behind tells the bridge which MAC is behind a port.
func behind(port int, mac MAC) request {
	head := make([]byte, unix.SizeofNdMsg)
	head[0] = unix.AF_BRIDGE
	nlenc.PutInt32(head[4:8], int32(port))
	nlenc.PutUint16(head[8:10], unix.NUD_NOARP)
	head[10] = unix.NTF_MASTER
	return request{
		what: "say which address is behind the bridge port", kind: unix.RTM_NEWNEIGH, flags: nl.Create | nl.Replace, head: head,
		attributes: func(e *nl.AttributeEncoder) { e.Bytes(unix.NDA_LLADDR, mac[:]) },
	}
}

// silent keeps an interface from getting an IPv6 address of its own when it comes up. With hundreds of them, these slow down
// everything that lists addresses.
func silent(name string) request {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h
	return request{
		what: "keep interface " + name + " without an address of its own", kind: unix.RTM_NEWLINK, head: ifinfo(0, 0),
		attributes: func(e *nl.AttributeEncoder) {
			e.String(unix.IFLA_IFNAME, name)
			e.Nested(unix.IFLA_AF_SPEC, func(families *nl.AttributeEncoder) error {
				families.Nested(unix.AF_INET6, func(inet6 *nl.AttributeEncoder) error {
					inet6.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, none)
					return nil
				})
				return nil
			})
		},
	}
}

// up brings an interface up.
func up(name string) request {
	return request{
		what: "bring interface " + name + " up", kind: unix.RTM_NEWLINK, head: ifinfo(0, unix.IFF_UP),
		attributes: func(e *nl.AttributeEncoder) { e.String(unix.IFLA_IFNAME, name) },
	}
}

// removed takes an interface away.
func removed(name string, index int) request {
	return request{what: "remove interface " + name, kind: unix.RTM_DELLINK, head: ifinfo(index, 0), unless: unix.ENODEV}
}

// goingGroup is the group of interfaces that are about to go: those of any instance, and nobody else's.
const goingGroup = 0x72632d67

// marked puts an interface into goingGroup.
func marked(name string, index int) request {
	return request{
		what: "mark interface " + name, kind: unix.RTM_NEWLINK, head: ifinfo(index, 0), unless: unix.ENODEV,
		attributes: func(e *nl.AttributeEncoder) { e.Uint32(unix.IFLA_GROUP, goingGroup) },
	}
}

// removedMarked takes the interfaces of goingGroup away.
func removedMarked() request {
	return request{
		what: "remove interfaces", kind: unix.RTM_DELLINK, head: ifinfo(0, 0), unless: unix.ENODEV,
		attributes: func(e *nl.AttributeEncoder) { e.Uint32(unix.IFLA_GROUP, goingGroup) },
	}
}

// addressed gives an interface an address. That it is the only one to have it is known: the kernel does not look for another
// one, which would delay the first connection.
func addressed(index int, address netip.Prefix) request {
	ip := address.Addr()
	head := make([]byte, unix.SizeofIfAddrmsg)
	head[0], head[1], head[2] = familyOf(ip), byte(address.Bits()), unix.IFA_F_NODAD
	nlenc.PutUint32(head[4:8], uint32(index))
	return request{
		what: "address " + address.String(), kind: unix.RTM_NEWADDR, flags: nl.Create | nl.Replace, head: head,
		attributes: func(e *nl.AttributeEncoder) {
			e.Bytes(unix.IFA_LOCAL, ip.AsSlice())
			e.Bytes(unix.IFA_ADDRESS, ip.AsSlice())
			if ip.Is4() {
				e.Bytes(unix.IFA_BROADCAST, broadcast(address.Masked()).AsSlice())
			}
		},
	}
}

// throughout leads everything that is not on the interface's own network by way of via.
func throughout(index int, via netip.Addr) request {
	head := make([]byte, unix.SizeofRtMsg)
	head[0], head[4], head[5], head[6], head[7] = familyOf(via), unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	return request{
		what: "default route by " + via.String(), kind: unix.RTM_NEWROUTE, flags: nl.Create | nl.Replace, head: head,
		attributes: func(e *nl.AttributeEncoder) {
			e.Bytes(unix.RTA_GATEWAY, via.AsSlice())
			e.Uint32(unix.RTA_OIF, uint32(index))
		},
	}
}

func familyOf(ip netip.Addr) byte {
	if ip.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// device is an interface of this server.
type device struct {
	index int // 0: there is none
	mtu   uint32
}

// deviceOf finds an interface by its name. Unlike a request it does not wait for whoever changes interfaces just now, such as the
// kernel for those of namespaces that have ended.
func deviceOf(name string) (device, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return device{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	ask := func(what uint) (uint32, error) {
		question, qerr := unix.NewIfreq(name)
		if qerr == nil {
			qerr = unix.IoctlIfreq(fd, what, question)
		}
		if qerr != nil {
			return 0, qerr
		}
		return question.Uint32(), nil
	}
	index, err := ask(unix.SIOCGIFINDEX)
	if err == nil {
		var mtu uint32
		if mtu, err = ask(unix.SIOCGIFMTU); err == nil {
			return device{index: int(index), mtu: mtu}, nil
		}
	}
	if errors.Is(err, unix.ENODEV) {
		return device{}, nil
	}
	return device{}, fmt.Errorf("look for interface %s: %w", name, err)
}

// endsOfPair returns the indexes of both interfaces of a pair, by the name of the one that is here.
func endsOfPair(conn *nl.Conn, name string) (here, peer int, err error) {
	e := nl.NewAttributeEncoder()
	e.String(unix.IFLA_IFNAME, name)
	const skipStatistics = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	e.Uint32(unix.IFLA_EXT_MASK, skipStatistics)
	attributes, err := e.Encode()
	if err != nil {
		return 0, 0, err
	}
	answers, err := conn.Execute(nl.Message{
		Header: nl.Header{Type: unix.RTM_GETLINK, Flags: nl.Request}, Data: append(ifinfo(0, 0), attributes...),
	})
	if err != nil {
		return 0, 0, fmt.Errorf("interface %s: %w", name, bare(err))
	}
	for _, m := range answers {
		if len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		here = int(nlenc.Int32(m.Data[4:8]))
		peer = here // older kernels do not say where it is the same number
		d, err := nl.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return 0, 0, err
		}
		for d.Next() {
			if d.Type() == unix.IFLA_LINK {
				peer = int(d.Uint32())
			}
		}
		return here, peer, d.Err()
	}
	return 0, 0, fmt.Errorf("interface %s: no answer", name)
}
