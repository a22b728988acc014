package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	mdns "github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// port is DNS's.
const port = 53

// maxConnections bounds what TCP clients can make this process hold; idle ones are closed after seconds.
const maxConnections = 128

// socket is one that can be copied.
type socket interface{ File() (*os.File, error) }

// listener is one address, by UDP and TCP.
type listener struct {
	servers []*mdns.Server
	sockets []socket
	done    sync.WaitGroup
}

// listenOn answers on an address, which need not be there yet, on sockets that are left where there are any.
func listenOn(ctx context.Context, a netip.Addr, left inherited, handler mdns.Handler) (*listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = allowForeign(int(fd), a) }); cerr != nil {
			return cerr
		}
		return err
	}}
	at := netip.AddrPortFrom(a, port).String()
	packets, there := left.packets[at]
	delete(left.packets, at)
	if !there {
		var err error
		if packets, err = config.ListenPacket(ctx, "udp", at); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", at, err)
		}
	}
	connections, there := left.connections[at]
	delete(left.connections, at)
	if !there {
		var err error
		if connections, err = config.Listen(ctx, "tcp", at); err != nil {
			_ = packets.Close()
			return nil, fmt.Errorf("listen on %s: %w", at, err)
		}
	}
	l := &listener{servers: []*mdns.Server{
		{PacketConn: packets, Handler: handler},
		{Listener: netutil.LimitListener(connections, maxConnections), Handler: handler},
	}}
	for _, one := range []any{packets, connections} {
		if s, ok := one.(socket); ok { // both are
			l.sockets = append(l.sockets, s)
		}
	}
	for _, s := range l.servers {
		started := make(chan error, 2)
		s.NotifyStartedFunc = func() { started <- nil }
		l.done.Go(func() { started <- s.ActivateAndServe() })
		if err := <-started; err != nil {
			l.close()
			return nil, fmt.Errorf("listen on %s: %w", at, err)
		}
	}
	return l, nil
}

// allowForeign lets a socket have an address that this server does not have at the moment.
func allowForeign(fd int, a netip.Addr) error {
	if a.Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
}

func (l *listener) close() {
	for _, s := range l.servers {
		_ = s.Shutdown() // fails for one that was not started
	}
	l.done.Wait()
}
