// Package network gives containers addresses, names for their interfaces, and ways in and out: one bridge for each
// instance, an IPv4 (and, where the server has it, IPv6) address and a MAC of its own for each container, published
// ports, bandwidth limits, and rules that keep a container from sending as somebody else.
//
// Words: a lease is what a container id holds: addresses and MAC, for as long as the container exists, or until the next of
// its name starts while it is idle. A released lease goes back to the next container of the same name at once, and rests
// before any other gets it. Attaching makes the interface in a network namespace; publishing sends a port of this server to
// a container, of several of one name to one.
//
//	b := network.Open(network.Config{Instance: …, StateDir: …, CIDR: …})    // makes nothing
//	b.Watch(ctx), b.Repair(ctx)               // hints that somebody changed something of it, and what makes it right again
//	b.Gateway(ctx)                            // addresses of the bridge: what resolv.conf and the DNS server need
//	lease, err := b.Lease(ctx, id, name, idle)// the same answer for the same id, also after a restart of the server; it may send
//	b.BeginLease(ctx, id, name, idle)         // the same, and the disk takes it meanwhile
//	b.Attach(ctx, lease, netns, limits)       // eth0, loopback, routes, limits; netns is an open /proc/PID/ns/net
//	b.Limit(ctx, id, limits)                  // changes limits of what is attached
//	b.Publish(ctx, id, ports)                 // exactly these from now on, and none of others of the same name
//	b.Unpublish(ctx, name)                    // none of any of the name
//	b.Connections(ctx, id), b.Traffic()       // looks: connections by published ports, bytes by interface
//	b.Detach(ctx, id)                         // interface, limits and ports go, the lease stays
//	b.Release(ctx, id)                        // Detach, the lease goes back, connection tracking forgets the address
//	b.Sweep(ctx, known)                       // Release for every id that is not known: what a killed process left
//	b.Destroy(ctx)                            // the bridge, the rules and all leases
//	b.Leases(), b.Taken(ctx), b.Check(ctx)    // looks: leases, ports in use by others, tests for doctor
//
// Everything may be called again after a crash at any point, and from two processes at once: leases.json is changed
// under a lock, and rules by transactions of the kernel, what is in the kernel first and what is recorded last. Leases that are
// asked for or released at the same time go together, in one transaction and one write.
//
// It owns network/leases.json in the state directory and, in the kernel, the bridge rc-…, interfaces that begin with
// the instance's prefix (rv…, ri…), and the nftables tables inet and bridge reconciler-INSTANCE. It touches no other
// table: a drop of the administrator's stays a drop. What it changes beside that is forwarding: net.ipv4.ip_forward and,
// with IPv6, net.ipv6.conf.all.forwarding are turned on and stay on.
//
// It must not know images, processes, manifests, or what a container is besides its id and its name. The subpackage dns
// answers names on the bridge's addresses.
//
// Start reading at Bridge in bridge.go; leases.go, elements.go and subnet.go are the pure decisions, tables.go the rules.
package network
