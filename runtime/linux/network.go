package linux

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
	"reconciler/runtime/network"
	"reconciler/runtime/supervisor"
)

// vetBridge says what is wrong with a network that the administrator named for the bridge.
func vetBridge(cidr netip.Prefix) error {
	if !cidr.IsValid() {
		return nil
	}
	if err := network.VetSubnet(cidr); err != nil {
		return &runtime.Error{
			Op: "use the bridge's network", Err: err, Permanent: true,
			Hint: "name a private network that this server does not use, such as --bridge-cidr 10.77.0.0/16",
		}
	}
	return nil
}

// connection is how a container that is about to start reaches the world.
type connection struct {
	// Lease are its addresses on the bridge; nil without.
	lease *network.Lease
	// Recorded returns once the disk has the lease, or says why not: nobody is attached before.
	recorded func() error
	// Gateway is the bridge's end, where there is a lease.
	gateway network.Gateway
	// Joined is the process 1 whose network and users the container has; 0: its own.
	joined int
	// FirstID is the first of its own user ids where they are those of joined.
	firstID uint32
	// Shares is the start that joined belongs to.
	shares *runtime.StartOf
}

// connect leases addresses, or finds the container whose network is shared.
func (r *Runtime) connect(ctx context.Context, client *supervisor.Client, e entry) (c connection, err error) {
	id, name := e.ID, e.Spec.Name
	if other, ok := strings.CutPrefix(string(e.Spec.Network), runtime.NetworkContainerPrefix); ok {
		name.Name = other
		host, pid, lookErr := r.running(ctx, client, name)
		if lookErr != nil {
			return connection{}, lookErr
		}
		c.joined, c.firstID, id = pid, host.last.FirstID, host.ID
		c.shares = &runtime.StartOf{ID: host.ID, Starts: host.last.Starts}
		if host.Spec.Network != runtime.NetworkBridge {
			return c, nil
		}
	} else if e.Spec.Network != runtime.NetworkBridge {
		return connection{}, nil
	}
	failpoint.Here("connect: no address leased")
	lease, recorded, err := r.net.BeginLease(ctx, id, name, func(other runtime.ID) bool { return r.idle(ctx, client, other) })
	if err != nil {
		return connection{}, err
	}
	c.lease, c.recorded = &lease, recorded
	if c.joined != 0 { // it is attached already
		if err = recorded(); err != nil {
			return connection{}, err
		}
	}
	c.gateway, err = r.net.Gateway(ctx)
	return c, err
}

// idle says whether another container neither runs nor is being started: who is asks for its addresses again.
func (r *Runtime) idle(ctx context.Context, client *supervisor.Client, id runtime.ID) bool {
	if r.locks.busy(id) {
		return false
	}
	if state, _, err := client.Find(ctx, id); err != nil || state.Running {
		return false
	}
	// Last: a start that has just let go of the lock is on record.
	e, err := r.state.read(id)
	return err == nil && !e.alive() && (!e.last.Starting || e.last.Boot != bootID())
}

// running returns the container of a name that runs, of several the one that serves, and its process 1.
func (r *Runtime) running(ctx context.Context, client *supervisor.Client, name runtime.Name) (*entry, int, error) {
	list, err := r.entriesOf(name)
	if err != nil {
		return nil, 0, err
	}
	var found *entry
	var pid int
	first := servingOf(list)
	for _, e := range list {
		state, _, err := client.Find(ctx, e.ID)
		if err != nil {
			return nil, 0, err
		}
		if state.Running && (pid == 0 || first != nil && first.ID == e.ID) {
			found, pid = e, state.Pid
		}
	}
	if pid != 0 {
		return found, pid, nil
	}
	return nil, 0, &runtime.Error{
		Op: "join the network of " + name.String(), Err: errors.New("it does not run"), Reason: runtime.ReasonDependencyNotReady,
		Hint: "it is tried again when that one runs; `reconciler describe " + name.String() + "` says why it does not",
	}
}

// attach returns what gives a container's new network namespace its interface and ports; nil where it has none of its own.
func (r *Runtime) attach(ctx context.Context, e entry, c connection) func(netns *os.File) error {
	if c.lease == nil || c.joined != 0 {
		return nil
	}
	return func(netns *os.File) error {
		failpoint.Here("connect: not attached")
		if err := c.attach(ctx, r.net, netns, bandwidth(e.Spec.Limits)); err != nil {
			return err
		}
		failpoint.Here("connect: attached, no port published")
		defer r.serving.lock(e.Spec.Name)()
		return r.follow(ctx, e.Spec.Name, e.ID)
	}
}

// attach gives a network namespace the interface with the leased addresses.
func (c connection) attach(ctx context.Context, bridge *network.Bridge, netns *os.File, limits network.Limits) error {
	if err := c.recorded(); err != nil {
		return err
	}
	return bridge.Attach(ctx, *c.lease, netns, limits)
}

// detach takes back what attach gave, after the start failed for which it was.
func (r *Runtime) detach(ctx context.Context, e entry, c connection) error {
	if c.lease == nil || c.joined != 0 {
		return nil
	}
	return r.net.Detach(ctx, e.ID)
}

// applyNetwork changes what can be changed of an attached container's network.
func (r *Runtime) applyNetwork(ctx context.Context, id runtime.ID, old, spec runtime.Spec) error {
	if spec.Network != runtime.NetworkBridge {
		return nil
	}
	if bandwidth(old.Limits) != bandwidth(spec.Limits) {
		if err := r.net.Limit(ctx, id, bandwidth(spec.Limits)); err != nil {
			return err
		}
	}
	if slices.EqualFunc(old.Ports, spec.Ports, samePort) {
		return nil
	}
	defer r.serving.lock(spec.Name)()
	list, err := r.entriesOf(spec.Name)
	if err != nil {
		return err
	}
	if first := servingOf(list); first == nil || first.ID != id {
		return nil // published by Serve
	}
	return r.net.Publish(ctx, id, spec.Ports)
}

func samePort(a, b runtime.Port) bool {
	return a.Name == b.Name && a.HostIP == b.HostIP && a.HostPort == b.HostPort && a.ContainerPort == b.ContainerPort &&
		a.Protocol == b.Protocol && slices.Equal(a.Allow, b.Allow)
}

func bandwidth(l runtime.Resources) network.Limits {
	return network.Limits{Ingress: l.Ingress, Egress: l.Egress}
}

// hostsFile is /etc/hosts of a container. Own is the server's, for a container on its network.
func hostsFile(spec runtime.Spec, c connection, own string) string {
	var b strings.Builder
	line := func(address, name string) { fmt.Fprintf(&b, "%s\t%s\n", address, name) }
	if own != "" {
		b.WriteString(own)
	} else {
		line("127.0.0.1", "localhost")
		line("::1", "localhost ip6-localhost ip6-loopback")
	}
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if c.lease != nil {
		addresses = []netip.Addr{c.lease.IP, c.lease.IPv6}
	}
	for _, a := range addresses {
		if a.IsValid() {
			line(a.String(), spec.Hostname)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.ExtraHosts)) {
		line(spec.ExtraHosts[name], name)
	}
	return b.String()
}

// resolvConf is /etc/resolv.conf of a container: what the manifest says, and where that says nothing of a part, the bridge's
// name server or, on the server's network, what the server has.
func resolvConf(spec runtime.Spec, c connection, own string) string {
	var b strings.Builder
	servers := spec.DNS.Nameservers
	if len(servers) == 0 && c.lease != nil {
		servers = []netip.Addr{c.gateway.Address}
	}
	keep := func(word string) bool {
		switch word {
		case "nameserver":
			return len(servers) == 0
		case "search", "domain":
			return len(spec.DNS.Search) == 0
		case "options":
			return len(spec.DNS.Options) == 0
		}
		return true
	}
	for text := range strings.Lines(own) {
		if words := strings.Fields(text); len(words) > 0 && keep(words[0]) {
			b.WriteString(strings.TrimRight(text, "\n") + "\n")
		}
	}
	if len(spec.DNS.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(spec.DNS.Search, " "))
	}
	for _, server := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(spec.DNS.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(spec.DNS.Options, " "))
	}
	return b.String()
}
