package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"

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

// checkPrefix begins the ids of leases that Check holds for a moment; the process behind it follows.
const checkPrefix = "doctor-"

// checking reports whether a lease is held by a check that is going on.
func checking(id runtime.ID) bool {
	pid, found := strings.CutPrefix(string(id), checkPrefix)
	if _, err := strconv.Atoi(pid); !found || err != nil {
		return false
	}
	_, err := os.Stat("/proc/" + pid)
	return err == nil
}

// outsideOf is what the interface of the other server in a check is named by.
func outsideOf(id runtime.ID) runtime.ID { return id + "-outside" }

func (b *Bridge) scratch(ctx context.Context) (*scratch, error) {
	st, err := b.store.read()
	if err != nil {
		return nil, err
	}
	s := &scratch{bridge: b, fresh: len(st.Leases) == 0 && !b.usable(&st)}
	if err := s.open(ctx); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

func (s *scratch) open(ctx context.Context) (err error) {
	id := runtime.ID(checkPrefix + strconv.Itoa(os.Getpid()))
	if s.lease, err = s.bridge.Lease(ctx, id, runtime.Name{Name: string(id)}, nil); err != nil {
		return err
	}
	if s.gateway, err = s.bridge.Gateway(ctx); err != nil {
		return err
	}
	if s.ns, err = newNamespace(); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	return s.bridge.Attach(ctx, s.lease, s.ns, Limits{})
}

// close leaves nothing, also where the checks were cut short. no failpoint: doctor's
// trials are swept with what belongs to no lease.
func (s *scratch) close(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
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
	err = elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return f, err
}

// inside runs fn in the scratch namespace: sockets that it makes stay there.
func (s *scratch) inside(fn func() error) error {
	return elsewhere(func() error { return netns.Set(netns.NsHandle(s.ns.Fd())) }, fn)
}

// elsewhere runs fn on a thread that has entered another network namespace, and brings the thread back. It must not just be
// left to end: the main thread never does, and /proc/self is about that one.
func elsewhere(enter, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		own, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = own.Close() }()
		if err = enter(); err == nil {
			err = fn()
		}
		if backErr := netns.Set(own); backErr == nil {
			goruntime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// publish listens in the scratch namespace and publishes that on one port of the addresses.
func (s *scratch) publish(ctx context.Context, on ...netip.Addr) (port uint16, err error) {
	err = s.inside(func() error {
		s.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", ":0")
		return err
	})
	if err != nil {
		return 0, err
	}
	if port, err = freePort(ctx); err != nil {
		return 0, err
	}
	var ports []runtime.Port
	for _, a := range on {
		ports = append(ports, runtime.Port{
			HostIP: a, HostPort: port, ContainerPort: netip.MustParseAddrPort(s.listener.Addr().String()).Port(), Protocol: protocolTCP,
		})
	}
	return port, s.bridge.Publish(ctx, s.lease.ID, ports)
}

// outside makes a namespace that is connected with this server, but not by the bridge.
func (s *scratch) outside(ctx context.Context) (*scratch, netip.Addr, error) {
	o := &scratch{bridge: s.bridge}
	// A pair of link-local addresses that no cloud uses; this process has them for a moment.
	address := netip.AddrFrom4([4]byte{169, 254, byte(os.Getpid() % 128), 1})
	if err := o.connect(s.bridge.names.hostEnd(outsideOf(s.lease.ID)), address); err != nil {
		o.close(ctx)
		return nil, address, err
	}
	return o, address, nil
}

// connect makes a pair of interfaces, with the address here and the next one in the namespace. no failpoint: as for
// close.
func (s *scratch) connect(name string, address netip.Addr) (err error) {
	if s.ns, err = newNamespace(); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = name, net.FlagUp
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: inside, PeerNamespace: netlink.NsFd(int(s.ns.Fd()))}
	if err = netlink.LinkAdd(pair); err != nil {
		return err
	}
	s.link = pair
	if err = netlink.AddrReplace(pair, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address, 30))}); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(s.ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	peer, err := h.LinkByName(inside)
	if err == nil {
		err = h.AddrReplace(peer, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(address.Next(), 30))})
	}
	if err == nil {
		err = h.LinkSetUp(peer)
	}
	return err
}
