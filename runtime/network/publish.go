package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"reconciler/runtime"
)

// The protocols that can be published.
const (
	protocolTCP = "TCP"
	protocolUDP = "UDP"
)

// ErrPortTaken is wrapped by Publish's error where another container has the port.
var ErrPortTaken = errors.New("port is taken")

// Publish makes exactly these ports of this server lead to the container; none: closes all of its. Ports that another
// container of the same name has are taken over in the same transaction: every connection reaches one or the other.
// Those that a container of another name has are refused with ErrPortTaken. Datagrams of a client that the old one
// served go to the new one from now on; TCP connections stay where they are.
func (b *Bridge) Publish(ctx context.Context, id runtime.ID, ports []runtime.Port) error {
	op := "publish ports of " + string(id)
	if err := vetPorts(ports); err != nil {
		return &runtime.Error{Op: op, ID: id, Err: err, Permanent: true}
	}
	return b.change(ctx, func(st *state, changed bool) (bool, error) {
		before, after, err := st.publish(id, ports)
		if err != nil {
			return false, &runtime.Error{Op: op, ID: id, Err: err, Hint: "give one of the two another hostPort"}
		}
		del, add := difference(elementsOf(b.names, before), elementsOf(b.names, after))
		if err := b.exchange(ctx, st, del, add); err != nil {
			return false, explain(op, err)
		}
		moved := movedDatagrams(before, after)
		if len(moved) == 0 {
			return changed || len(del)+len(add) > 0, nil
		}
		return true, forgetDatagrams(moved)
	})
}

// publish is the decision of Publish. It returns the leases that it changes as they were and as they are: there may be
// hundreds of others.
func (s *state) publish(id runtime.ID, ports []runtime.Port) (before, after []Lease, err error) {
	l := s.find(id)
	if l == nil {
		return nil, nil, fmt.Errorf("%s has no lease", id)
	}
	for i := range s.Leases {
		other := &s.Leases[i]
		if other.ID == id {
			continue
		}
		taken := func(p runtime.Port) bool {
			return slices.ContainsFunc(ports, p.Collides)
		}
		at := slices.IndexFunc(other.Ports, taken)
		if at < 0 {
			continue
		}
		if other.Name != l.Name {
			return nil, nil, fmt.Errorf("%w: %s has %s", ErrPortTaken, other.Name, describePort(other.Ports[at]))
		}
		before = append(before, *other)
		other.Ports = slices.DeleteFunc(slices.Clone(other.Ports), taken)
		after = append(after, *other)
	}
	before = append(before, *l)
	l.Ports = slices.Clone(ports)
	return before, append(after, *l), nil
}

// vetPorts says what no kernel could do.
func vetPorts(ports []runtime.Port) error {
	for i, p := range ports {
		switch {
		case p.Protocol != protocolTCP && p.Protocol != protocolUDP:
			return fmt.Errorf("protocol %q: want TCP or UDP", p.Protocol)
		case p.HostPort == 0 || p.ContainerPort == 0:
			return errors.New("port 0 cannot be published")
		}
		if j := slices.IndexFunc(ports[:i], p.Collides); j >= 0 {
			return fmt.Errorf("%s and %s are the same", describePort(ports[j]), describePort(p))
		}
	}
	return nil
}

func describePort(p runtime.Port) string {
	ip := p.HostIP
	if !ip.IsValid() {
		ip = netip.IPv4Unspecified()
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(ip, p.HostPort), p.Protocol)
}

// datagrams are what connection tracking remembers of a published UDP port, in which only answers of keep are right.
type datagrams struct {
	port uint16
	keep []netip.Addr
}

// movedDatagrams returns the UDP ports that lead elsewhere than before.
func movedDatagrams(before, after []Lease) []datagrams {
	owner := func(of []Lease, port uint16) (at []netip.Addr) {
		for _, l := range of {
			for _, p := range l.Ports {
				if p.Protocol == protocolUDP && p.HostPort == port {
					at = append(at, l.IP, l.IPv6)
				}
			}
		}
		return at
	}
	var moved []datagrams
	for _, l := range append(slices.Clone(before), after...) {
		for _, p := range l.Ports {
			known := slices.ContainsFunc(moved, func(d datagrams) bool { return d.port == p.HostPort })
			if p.Protocol != protocolUDP || known {
				continue
			}
			if now := owner(after, p.HostPort); !slices.Equal(owner(before, p.HostPort), now) {
				moved = append(moved, datagrams{port: p.HostPort, keep: now})
			}
		}
	}
	return moved
}
