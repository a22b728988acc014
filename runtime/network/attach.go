package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// inside is what a container's interface is called in its own namespace.
const inside = "eth0"

// Attach gives the network namespace ns, such as an open /proc/PID/ns/net, its interface eth0 with the lease's
// addresses, default routes through the bridge, and a loopback that is up. What was attached for the id before is taken
// away first. After an error nothing is left of it.
func (b *Bridge) Attach(ctx context.Context, l Lease, ns *os.File, limits Limits) error {
	op := fmt.Sprintf("attach %s to bridge %s", l.Name, b.names.bridge)
	ends, err := b.admit(l)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	failpoint.Here("attach: admitted")
	if err := b.removeLinks(l.ID); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	failpoint.Here("attach: without interfaces")
	if err := b.plug(ctx, l, ends, ns, limits); err != nil {
		if left := b.removeLinks(l.ID); left != nil {
			err = fmt.Errorf("%w; and then: %w", err, left)
		}
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// admit makes sure that the lease is held, and returns what it is to the container. What lets its holder send came with it.
func (b *Bridge) admit(l Lease) ([]end, error) {
	st, err := b.store.read()
	if err != nil {
		return nil, err
	}
	held := st.find(l.ID)
	if held == nil || held.IP != l.IP || held.IPv6 != l.IPv6 {
		return nil, &runtime.Error{Op: "use address " + l.IP.String(), ID: l.ID, Err: fmt.Errorf("%s has no lease of it any more", l.ID), Hint: "start the container again"}
	}
	return st.endsOf(l), nil
}

// plug makes the pair of interfaces, the container's end directly in its namespace.
func (b *Bridge) plug(ctx context.Context, l Lease, ends []end, ns *os.File, limits Limits) error {
	bridge, err := deviceOf(b.names.bridge)
	if err != nil {
		return err
	}
	if bridge.index == 0 {
		return fmt.Errorf("bridge: interface %s: %w", b.names.bridge, unix.ENODEV)
	}
	conn, err := routes(0)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	name, fd := b.names.hostEnd(l.ID), int(ns.Fd())
	requests := []request{pairOf(name, bridge, inside, l.MAC, fd), settled(name)}
	if hasIPv6() {
		requests = append(requests, silent(name))
	}
	failpoint.Here("attach: no interface yet")
	if err = order(conn, requests...); err != nil {
		return &runtime.Error{Err: err, Hint: missingModule(err, "veth")}
	}
	failpoint.Here("attach: a pair of interfaces")
	port, peer, err := endsOfPair(conn, name)
	if err != nil {
		return err
	}
	if err = order(conn, behind(port, l.MAC), up(name)); err != nil {
		return err
	}
	failpoint.Here("attach: the port up")
	if err := ctx.Err(); err != nil {
		return err
	}
	if limits != (Limits{}) { // the interface is new: it has none
		if err := b.Limit(ctx, l.ID, limits); err != nil {
			return err
		}
	}
	failpoint.Here("attach: limited")
	return configure(fd, peer, ends)
}

// configure sets up the interfaces inside.
func configure(ns, index int, ends []end) error {
	conn, err := routes(ns)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() { _ = conn.Close() }()
	requests := []request{up("lo")}
	for _, e := range ends {
		requests = append(requests, addressed(index, e.address))
	}
	requests = append(requests, up(inside))
	for _, e := range ends {
		requests = append(requests, throughout(index, e.via))
	}
	failpoint.Here("attach: inside without addresses")
	err = order(conn, requests...)
	failpoint.Here("attach: done")
	return err
}

// end is an address of the container, and the bridge's in the same network.
type end struct {
	address netip.Prefix
	via     netip.Addr
}

// endsOf pairs the lease's addresses with those that the bridge has.
func (s *state) endsOf(l Lease) []end {
	all := []end{{address: netip.PrefixFrom(l.IP, s.Subnet.Bits()), via: gateway(s.Subnet)}}
	if l.IPv6.IsValid() && hasIPv6() {
		all = append(all, end{address: netip.PrefixFrom(l.IPv6, s.Subnet6.Bits()), via: gateway(s.Subnet6)})
	}
	return all
}

// removeLinks takes away what attaching made for some ids. The containers' ends go with the host's. The kernel waits several
// times until nobody uses what goes: once for all of them.
func (b *Bridge) removeLinks(ids ...runtime.ID) error {
	failpoint.Here("detach: interfaces not looked for")
	var going, mark []request
	for _, id := range ids {
		for _, name := range []string{b.names.hostEnd(id), b.names.shaperOf(id)} {
			link, err := deviceOf(name)
			if err != nil {
				return err
			}
			if link.index != 0 {
				going, mark = append(going, removed(name, link.index)), append(mark, marked(name, link.index))
			}
		}
	}
	if len(going) > 0 { // most have gone with the namespace of who had them
		if err := remove(going, mark); err != nil {
			return err
		}
	}
	failpoint.Here("detach: interfaces gone")
	return nil
}

// remove carries out requests to remove interfaces: one, or, after they were marked, all as one.
func remove(going, mark []request) error {
	conn, err := routes(0)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	failpoint.Here("detach: interfaces there") // apart: by chance, where the kernel has not removed them yet
	if len(going) > 1 {
		if err = order(conn, mark...); err != nil {
			return err
		}
		failpoint.Here("detach: interfaces marked") // apart: by chance, where the kernel has not removed several yet
		going = []request{removedMarked()}
	}
	err = order(conn, going...)
	failpoint.Here("detach: interfaces removed") // apart: by chance, where the kernel has not removed them yet
	return err
}
