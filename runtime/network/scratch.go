package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// scratch is a namespace that stands for a container.
type scratch struct {
	bridge  *Bridge
	gateway Gateway
	lease   Lease
	ns      *os.File
	fresh   bool // there was no bridge before

	listener net.Listener // nil while nothing is published
	link     netlink.Link // nil for one on the bridge
}

func (b *Bridge) scratch(ctx context.Context) (s *scratch, err error) {
	st, err := b.store.read()
	if err != nil {
		return nil, err
	}
	s = &scratch{bridge: b, fresh: len(st.Leases) == 0 && !b.usable(&st)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	id := runtime.ID("doctor-" + strconv.Itoa(os.Getpid()))
	if s.lease, err = b.Lease(ctx, id, runtime.Name{Name: string(id)}); err != nil {
		return nil, err
	}
	if s.gateway, err = b.Gateway(ctx); err != nil {
		return nil, err
	}
	if s.ns, err = newNamespace(); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return s, b.Attach(ctx, s.lease, s.ns, Limits{})
}

// close leaves nothing, also where the checks were cut short.
func (s *scratch) close() {
	ctx := context.Background()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.link != nil {
		_ = netlink.LinkDel(s.link)
	}
	if s.lease.ID != "" {
		_ = s.bridge.Release(ctx, s.lease.ID)
	}
	if left, err := s.bridge.Leases(); s.fresh && err == nil && len(left) == 0 {
		_ = s.bridge.Destroy(ctx)
	}
	if s.ns != nil {
		_ = s.ns.Close()
	}
}

// newNamespace makes a network namespace that lives as long as the file.
func newNamespace() (f *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		goruntime.LockOSThread() // never unlocked: the thread ends here
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	return f, err
}

// inside runs fn in the scratch namespace: sockets that it makes stay there.
func (s *scratch) inside(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		if err := netns.Set(netns.NsHandle(s.ns.Fd())); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// publish listens in the scratch namespace and publishes that on one port of the addresses.
func (s *scratch) publish(ctx context.Context, on ...netip.Addr) (port uint16, err error) {
	var l net.Listener
	if err := s.inside(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", ":0")
		return err
	}); err != nil {
		return 0, err
	}
	s.listener = l
	if port, err = freePort(ctx); err != nil {
		return 0, err
	}
	var ports []runtime.Port
	for _, a := range on {
		ports = append(ports, runtime.Port{
			HostIP: a, HostPort: port, ContainerPort: netip.MustParseAddrPort(l.Addr().String()).Port(), Protocol: protocolTCP,
		})
	}
	return port, s.bridge.Publish(ctx, s.lease.ID, ports)
}

// outside makes a namespace that is connected with this server, but not by the bridge. A sweep would find its interface.
func (s *scratch) outside() (o *scratch, address netip.Addr, err error) {
	o = &scratch{bridge: s.bridge}
	if o.ns, err = newNamespace(); err != nil {
		return nil, address, err
	}
	defer func() {
		if err != nil {
			o.close()
		}
	}()
	// A pair of link-local addresses that no cloud uses; this process has them for a moment.
	b := [4]byte{169, 254, byte(os.Getpid() % 128), 1}
	address = netip.AddrFrom4(b)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = s.bridge.names.hostEnd(s.lease.ID+"-outside"), net.FlagUp
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: inside, PeerNamespace: netlink.NsFd(int(o.ns.Fd()))}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, address, err
	}
	o.link = pair
	if err := netlink.AddrReplace(pair, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, 30))}); err != nil {
		return nil, address, err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(o.ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, address, err
	}
	defer h.Close()
	peer, err := h.LinkByName(inside)
	if err == nil {
		err = h.AddrReplace(peer, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address.Next(), 30))})
	}
	if err == nil {
		err = h.LinkSetUp(peer)
	}
	return o, address, err
}
