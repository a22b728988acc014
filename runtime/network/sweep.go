package network

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// Detach takes away the interface, the limits and the published ports of a container. It keeps its lease, and so whatever
// connection tracking remembers of its address stays right. Detaching what is not attached does nothing.
func (b *Bridge) Detach(ctx context.Context, id runtime.ID) error {
	if err := b.removeLinks(id); err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	return b.store.changeIfMade(func(st *state) (bool, error) {
		l := st.find(id)
		if l == nil {
			return false, nil
		}
		before := elementsOf(b.names, []Lease{*l})
		published := len(l.Ports) > 0
		l.Ports = nil
		del, _ := difference(before, elementsOf(b.names, []Lease{*l}))
		return published, b.withdraw(ctx, st, del)
	})
}

// Release is Detach, and gives the lease back; what connection tracking remembers of the address is deleted. Releasing what has none does nothing.
func (b *Bridge) Release(ctx context.Context, id runtime.ID) error {
	ctx = context.WithoutCancel(ctx) // it is for others too
	err := b.leaving.do(id, func(ids []runtime.ID) error {
		// The interfaces go before somebody else can get the addresses.
		if err := b.removeLinks(ids...); err != nil {
			return err
		}
		return b.store.changeIfMade(func(st *state) (bool, error) { return b.release(ctx, st, ids...) })
	})
	if err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	return nil
}

func (b *Bridge) release(ctx context.Context, st *state, ids ...runtime.ID) (bool, error) {
	var gone []Lease
	var addresses []netip.Addr
	for _, id := range ids {
		if l := st.find(id); l != nil {
			gone, addresses = append(gone, *l), append(addresses, l.addresses()...)
			st.release(id, time.Now())
		}
	}
	if len(gone) == 0 {
		return false, nil
	}
	failpoint.Here("release: interfaces gone")
	if err := b.withdraw(ctx, st, elementsOf(b.names, gone)); err != nil {
		return false, err
	}
	failpoint.Here("release: elements gone, the lease there")
	return true, b.tracking.forgetAddresses(addresses...)
}

// withdraw takes elements of a container away.
func (b *Bridge) withdraw(ctx context.Context, st *state, del []element) error {
	if len(del) == 0 || !b.usable(st) {
		return nil
	}
	return b.exchange(ctx, st, del, nil)
}

func (l Lease) addresses() []netip.Addr {
	if l.IPv6.IsValid() {
		return []netip.Addr{l.IP, l.IPv6}
	}
	return []netip.Addr{l.IP}
}

// Sweep releases every container that is not known, and removes interfaces that belong to no lease: what a process left
// that was killed in the middle. It asks known while no new lease can be made, so that a container whose existence is
// on record before its lease is safe.
func (b *Bridge) Sweep(ctx context.Context, known func(runtime.ID) bool) error {
	return b.store.changeIfMade(func(st *state) (changed bool, err error) {
		if err = atomicfile.Sweep(b.store.dir, 0); err != nil { // written under the lock alone
			return false, err
		}
		var unknown []runtime.ID
		for _, l := range st.Leases {
			if !known(l.ID) && !checking(l.ID) {
				unknown = append(unknown, l.ID)
			}
		}
		if err = b.removeLinks(unknown...); err != nil {
			return false, fmt.Errorf("sweep: %w", err)
		}
		if _, err = b.release(ctx, st, unknown...); err != nil {
			return false, fmt.Errorf("sweep: %w", err)
		}
		keep := map[string]bool{}
		for _, l := range st.Leases {
			keep[b.names.hostEnd(l.ID)], keep[b.names.shaperOf(l.ID)] = true, true
			keep[b.names.hostEnd(outsideOf(l.ID))] = checking(l.ID)
		}
		if err = b.removeAll(keep); err != nil {
			return false, fmt.Errorf("sweep: %w", err)
		}
		if b.usable(st) {
			err = b.ensureRules(st, nil)
		}
		return len(unknown) > 0, err
	})
}

// Destroy removes the bridge, every interface on it, the tables and all leases: for when no container is left. What
// forwarding this server does stays as it is.
func (b *Bridge) Destroy(context.Context) error {
	return b.store.changeIfMade(func(st *state) (bool, error) {
		var gone []netip.Addr
		for _, l := range st.Leases {
			gone = append(gone, l.addresses()...)
		}
		if err := b.tracking.forgetAddresses(gone...); err != nil {
			return false, err
		}
		if err := b.removeAll(nil); err != nil {
			return false, err
		}
		link, err := b.find()
		if err != nil {
			return false, err
		}
		if link != nil {
			failpoint.Here("destroy: the bridge there")
			if err = netlink.LinkDel(link); err != nil && !isNotFound(err) {
				return false, fmt.Errorf("remove bridge %s: %w", b.names.bridge, err)
			}
		}
		failpoint.Here("destroy: the bridge gone")
		err = b.rules.with(func(conn *nftables.Conn) error { return removeTables(conn, b.names.table) })
		if err != nil {
			return false, err
		}
		return false, b.store.remove()
	})
}

// Remains says what an instance has in the kernel: interfaces and tables.
func Remains(instance string) (found []string, err error) {
	n := namesOf(instance)
	for _, prefix := range []string{n.bridge, n.host, n.shaper} {
		links, listErr := linksWith(prefix)
		if listErr != nil {
			return nil, listErr
		}
		for _, l := range links {
			if name := l.Attrs().Name; prefix != n.bridge || name == n.bridge {
				found = append(found, "interface "+name)
			}
		}
	}
	conn, err := ruling()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == n.table {
			found = append(found, "table "+t.Name)
		}
	}
	return found, nil
}

// removeAll removes the instance's interfaces except those to keep.
func (b *Bridge) removeAll(keep map[string]bool) error {
	for _, prefix := range []string{b.names.host, b.names.shaper} {
		links, err := linksWith(prefix)
		if err != nil {
			return err
		}
		for _, l := range links {
			if keep[l.Attrs().Name] {
				continue
			}
			failpoint.Here("sweep: an interface of nobody there") // apart: of a state directory that is gone
			if err := netlink.LinkDel(l); err != nil && !isNotFound(err) {
				return fmt.Errorf("remove interface %s: %w", l.Attrs().Name, err)
			}
			failpoint.Here("sweep: an interface of nobody gone") // apart: of a state directory that is gone
		}
	}
	return nil
}
