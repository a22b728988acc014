package network

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// Config is whose network it is and where its files are.
type Config struct {
	// Instance names the bridge, the tables and the interfaces, so that several instances can share a machine.
	Instance string
	// StateDir holds network/leases.json.
	StateDir string
	// CIDR is the IPv4 network of the bridge. The zero Prefix: a /16 that nothing on this server overlaps is chosen at
	// first use and kept.
	CIDR netip.Prefix
}

// Bridge is the network of one instance. All methods may be called concurrently and from several processes; calls for
// the same container id are serialised by the caller. Every error that a person can do something about is a
// *runtime.Error with a hint.
type Bridge struct {
	cfg      Config
	names    names
	store    store
	rules    rules
	tracking tracking
	leasing  together[*wanted]
	leaving  together[runtime.ID] // whose leases are being released
}

// Open returns the network of an instance. It makes nothing.
func Open(cfg Config) *Bridge {
	b := &Bridge{cfg: cfg, names: namesOf(cfg.Instance), store: store{dir: filepath.Join(cfg.StateDir, "network")}}
	b.store.undo = b.restore
	return b
}

// Gateway is the bridge's own end of the network: the containers' next hop and name server.
type Gateway struct {
	Interface string
	Address   netip.Addr
	Address6  netip.Addr   // the zero Addr where the server has no IPv6
	Subnet    netip.Prefix // of the containers
	Subnet6   netip.Prefix
}

// Gateway makes sure that the bridge is there and returns its addresses.
func (b *Bridge) Gateway(ctx context.Context) (Gateway, error) {
	st, err := b.store.read()
	if err == nil && !b.usable(&st) {
		err = b.change(ctx, func(made *state, changed bool) (bool, error) {
			st = *made
			return changed, nil
		})
	}
	if err != nil {
		return Gateway{}, err
	}
	g := Gateway{Interface: b.names.bridge, Subnet: st.Subnet, Address: gateway(st.Subnet)}
	if st.Subnet6.IsValid() {
		g.Subnet6, g.Address6 = st.Subnet6, gateway(st.Subnet6)
	}
	return g, nil
}

// Lease gives a container its addresses: those that it has; else, at once, those of a container of the same name that is idle
// or, if none of that name lives, of one that released them; else others that have rested. It makes the bridge on first use.
// Idle says whether a container that has addresses does not use them: it loses them then, and gets others, or the same, when
// it asks again. Nil: every one does.
func (b *Bridge) Lease(ctx context.Context, id runtime.ID, name runtime.Name, idle func(runtime.ID) bool) (Lease, error) {
	l, recorded, err := b.BeginLease(ctx, id, name, idle)
	if err == nil {
		err = recorded()
	}
	return l, err
}

// BeginLease is Lease, and returns once the addresses are chosen, while the disk takes them. Recorded returns when it has them,
// or says why not, as often as it is asked; Attach is for who has asked.
func (b *Bridge) BeginLease(ctx context.Context, id runtime.ID, name runtime.Name, idle func(runtime.ID) bool) (l Lease, recorded func() error, err error) {
	w := &wanted{id: id, name: name, idle: idle, chosen: make(chan Lease, 1)}
	ctx = context.WithoutCancel(ctx) // it is for others too
	done := make(chan error, 1)
	go func() {
		done <- b.leasing.do(w, func(all []*wanted) error { return b.lease(ctx, all) })
		close(w.chosen)
	}()
	l, ok := <-w.chosen
	if !ok {
		return Lease{}, nil, <-done
	}
	return l, sync.OnceValue(func() error { return <-done }), nil
}

// wanted is a lease that somebody asks for.
type wanted struct {
	id     runtime.ID
	name   runtime.Name
	idle   func(runtime.ID) bool
	lease  Lease
	chosen chan Lease // the first, which Attach refuses where the disk did not take it and another was chosen; closed in the end
}

func (b *Bridge) lease(ctx context.Context, all []*wanted) error {
	return b.change(ctx, func(st *state, changed bool) (bool, error) {
		var sending []element
		for _, w := range all {
			if w.idle != nil && st.find(w.id) == nil {
				left, err := b.vacate(ctx, st, w.name, w.idle)
				if err != nil {
					return false, err
				}
				changed = changed || left
			}
			l, leased, err := st.lease(w.id, w.name, time.Now())
			if err != nil {
				return false, &runtime.Error{
					Op: "lease an address", ID: w.id, Name: w.name, Err: err, Hint: "give the instance a larger network with --bridge-cidr",
				}
			}
			w.lease, changed, sending = l, changed || leased, append(sending, senderElements(b.names, l)...)
		}
		failpoint.Here("lease: not in the kernel")
		// With the lease, not with the interface: what Repair finds is never ahead of what is recorded, nor behind.
		err := b.exchange(ctx, st, nil, sending)
		failpoint.Here("lease: in the kernel, not recorded")
		if err != nil {
			return false, explain("let what is leased an address send", err)
		}
		for _, w := range all {
			select {
			case w.chosen <- w.lease:
			default: // tried again
			}
		}
		return changed, nil
	})
}

// vacate takes the addresses of idle containers of a name back, so that the next of the name gets one of them.
func (b *Bridge) vacate(ctx context.Context, st *state, name runtime.Name, idle func(runtime.ID) bool) (changed bool, err error) {
	for _, id := range st.heldBy(name) {
		if !idle(id) {
			continue
		}
		if err = b.removeLinks(id); err != nil {
			return false, fmt.Errorf("take over the address of %s: %w", id, err)
		}
		if _, err = b.release(ctx, st, id); err != nil {
			return false, fmt.Errorf("take over the address of %s: %w", id, err)
		}
		changed = true
	}
	return changed, nil
}

// Leases returns what containers hold, in the order in which they got it. It makes nothing.
func (b *Bridge) Leases() ([]Lease, error) {
	st, err := b.store.read()
	return slices.Clone(st.Leases), err
}

// change is store.change for what needs the bridge to be there; changed tells fn whether making it changed the state.
func (b *Bridge) change(ctx context.Context, fn func(st *state, changed bool) (bool, error)) error {
	return b.store.change(func(st *state) (bool, error) {
		changed := false
		if !b.usable(st) {
			var err error
			if changed, err = b.ensure(ctx, st, nil); err != nil {
				return false, err
			}
		}
		return fn(st, changed)
	})
}

// usable is the quick look: the subnet is the one asked for, and the bridge exists.
func (b *Bridge) usable(st *state) bool {
	if !st.Subnet.IsValid() || (b.cfg.CIDR.IsValid() && b.cfg.CIDR != st.Subnet) {
		return false
	}
	bridge, err := deviceOf(b.names.bridge)
	return err == nil && bridge.index != 0
}

// ensure makes everything that the leases need, under the lock.
func (b *Bridge) ensure(ctx context.Context, st *state, done *repairs) (changed bool, err error) {
	op := "set up bridge " + b.names.bridge
	if err = ctx.Err(); err != nil {
		return false, fmt.Errorf("%s: %w", op, err)
	}
	before := *st
	if err = b.ensureLink(st, done); err != nil {
		return false, err
	}
	// Before anything is forwarded: the rules keep out what nobody published, and everybody from the server's loopback.
	failpoint.Here("bridge: without rules")
	if err = b.ensureRules(st, done); err != nil {
		return false, explain(op, err)
	}
	failpoint.Here("bridge: forwarding not allowed")
	if err = allowForwarding(b.names.bridge, st.Subnet6.IsValid(), done); err != nil {
		return false, &runtime.Error{Op: op, Err: err, Hint: "allow the agent to write /proc/sys/net, or set it with sysctl"}
	}
	failpoint.Here("bridge: set up")
	return st.Subnet != before.Subnet || st.Subnet6 != before.Subnet6, nil
}

// ensureRules makes the tables and their elements what the state asks for.
func (b *Bridge) ensureRules(st *state, done *repairs) error {
	return b.rules.with(func(conn *nftables.Conn) error { return b.ensureTables(conn, st, done) })
}

func (b *Bridge) ensureTables(conn *nftables.Conn, st *state, done *repairs) error {
	tables := tablesOf(b.names, st.Subnet, st.Subnet6)
	for _, t := range tables {
		written, err := ensureTable(conn, b.names.table, t)
		if err != nil {
			return fmt.Errorf("write rules of table %s: %w", b.names.table, err)
		}
		if written {
			done.add("wrote the rules of table %s %s", familyName(t.family), b.names.table)
		}
	}
	have, err := elementsIn(conn, b.names.table, tables)
	if err != nil {
		return err
	}
	del, add := difference(have, elementsOf(b.names, st.Leases))
	if len(del)+len(add) > 0 {
		done.add("changed %d elements of table %s", len(del)+len(add), b.names.table)
	}
	return exchange(conn, b.names.table, tables, del, add)
}

// restore makes the kernel's elements what is recorded, after a change of them that failed before it was recorded: else the
// next look would take it for somebody else's. Where this fails too, that look repairs it.
func (b *Bridge) restore(st *state) {
	if b.usable(st) {
		_ = b.ensureRules(st, nil)
	}
}

// exchange changes elements in the kernel. Where it does not have what it should, everything is compared and repaired.
func (b *Bridge) exchange(ctx context.Context, st *state, del, add []element) error {
	err := b.rules.with(func(conn *nftables.Conn) error {
		return exchange(conn, b.names.table, tablesOf(b.names, st.Subnet, st.Subnet6), del, add)
	})
	if err != nil {
		_, err = b.ensure(ctx, st, nil)
	}
	return err
}
