package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// The protocols that can be published.
const (
	protocolTCP = "TCP"
	protocolUDP = "UDP"
)

// ErrPortTaken is wrapped by Publish's error where another container has the port.
var ErrPortTaken = errors.New("port is taken")

// Publish makes exactly these ports of this server lead to the container, and none to others of the same name, in one
// transaction: every connection to a port that both have reaches one or the other. Those that a container of another name
// has are refused with ErrPortTaken. Datagrams of a client that the old one served go to the new one from now on; TCP
// connections stay where they are.
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
		failpoint.Here("publish: not begun")
		moved, err := b.redirect(ctx, st, before, after)
		return changed || moved, explain(op, err)
	})
}

// Unpublish closes the ports of every container of a name. Connections that stand stay.
func (b *Bridge) Unpublish(ctx context.Context, name runtime.Name) error {
	return b.store.changeIfMade(func(st *state) (bool, error) {
		before, after := st.unpublish(name)
		if len(before) == 0 {
			return false, nil
		}
		if !b.usable(st) {
			return true, nil // the kernel has none of them
		}
		_, err := b.redirect(ctx, st, before, after)
		return true, explain("close ports of "+name.String(), err)
	})
}

// redirect makes the kernel do what leases say that were changed, and says whether that was anything.
func (b *Bridge) redirect(ctx context.Context, st *state, before, after []Lease) (changed bool, err error) {
	del, add := difference(elementsOf(b.names, before), elementsOf(b.names, after))
	if len(del)+len(add) > 0 {
		if err = b.exchange(ctx, st, del, add); err != nil {
			return false, err
		}
	}
	failpoint.Here("publish: in the kernel, not recorded")
	moved := movedDatagrams(before, after)
	if len(moved) == 0 {
		return len(del)+len(add) > 0, nil
	}
	return true, b.tracking.forgetDatagrams(moved)
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
		if at := slices.IndexFunc(other.Ports, taken); at >= 0 && other.Name != l.Name {
			return nil, nil, fmt.Errorf("%w: %s has %s", ErrPortTaken, other.Name, describePort(other.Ports[at]))
		}
	}
	before = []Lease{*l}
	l.Ports = nil
	others, closed := s.unpublish(l.Name)
	l.Ports = slices.Clone(ports)
	return append(before, others...), append(closed, *l), nil
}

// unpublish is the decision of Unpublish.
func (s *state) unpublish(name runtime.Name) (before, after []Lease) {
	for i := range s.Leases {
		if l := &s.Leases[i]; l.Name == name && len(l.Ports) > 0 {
			before = append(before, *l)
			l.Ports = nil
			after = append(after, *l)
		}
	}
	return before, after
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
