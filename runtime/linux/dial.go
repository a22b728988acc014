package linux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	goruntime "runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Dial implements runtime.Runtime. It needs no supervisor.
func (r *Runtime) Dial(ctx context.Context, id runtime.ID, network, address string) (net.Conn, error) {
	op := fmt.Sprintf("connect to %s %s in container %s", network, address, id)
	e, err := r.state.read(id)
	if err != nil {
		return nil, failure(op, id, runtime.Name{}, err)
	}
	op = fmt.Sprintf("connect to %s %s in container %s", network, address, e.Spec.Name)
	if err = ctx.Err(); err != nil {
		return nil, failure(op, id, e.Spec.Name, err)
	}
	to, err := e.target(ctx, network, address)
	if err != nil {
		return nil, failure(op, id, e.Spec.Name, err)
	}
	fd, err := r.socketIn(ctx, e, network, to.Addr())
	if err != nil {
		return nil, failure(op, id, e.Spec.Name, err)
	}
	conn, err := connect(ctx, fd, network, to)
	return conn, failure(op, id, e.Spec.Name, err)
}

// target is the address that is meant. Names are those of the server, as in a probe of Kubernetes: what a container calls
// its neighbours is its own affair.
func (e entry) target(ctx context.Context, network, address string) (netip.AddrPort, error) {
	if network != "tcp" && network != "udp" {
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return netip.AddrPort{}, fmt.Errorf("port %q: want 1 to 65535", port)
	}
	switch {
	case host == "" && e.last.IP.IsValid():
		return netip.AddrPortFrom(e.last.IP, uint16(n)), nil
	case host == "" || host == "localhost":
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(n)), nil
	}
	if ip, parseErr := netip.ParseAddr(host); parseErr == nil {
		return netip.AddrPortFrom(ip.Unmap(), uint16(n)), nil
	}
	all, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(all[0].Unmap(), uint16(n)), nil
}

// socketIn makes a socket in the network of e's process 1: where it is made is where it stays.
func (r *Runtime) socketIn(ctx context.Context, e entry, network string, to netip.Addr) (fd int, err error) {
	ns, err := r.networkOf(ctx, e)
	if err != nil {
		return -1, err
	}
	defer func() { _ = ns.Close() }()
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if to.Is4() {
		family = unix.AF_INET
	}
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	err = within(ns, func() error {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("socket", err)
	})
	return fd, err
}

// networkOf opens the network namespace of e's process 1.
func (r *Runtime) networkOf(ctx context.Context, e entry) (*os.File, error) {
	pid, started := e.last.Pid, e.last.StartTime
	if !e.alive() {
		// The record of a start that was cut short lacks its process; the supervisor knows.
		supervised, err := r.supervised(ctx)
		if err != nil {
			return nil, err
		}
		s := supervised[e.ID]
		if !s.Running {
			return nil, runtime.ErrNotRunning
		}
		pid, started = s.Pid, s.StartTime
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return nil, runtime.ErrNotRunning
	}
	// Looked at afterwards: the number may have gone to another process in between, whose network this is then.
	if now, state, ok := processStart(pid); !ok || now != started || state == "Z" || state == "X" {
		_ = ns.Close()
		return nil, runtime.ErrNotRunning
	}
	return ns, nil
}

// within runs fn on a thread that is in the network namespace ns.
func within(ns *os.File, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		own, err := netns.Get()
		if err != nil {
			goruntime.UnlockOSThread()
			done <- fmt.Errorf("own network namespace: %w", err)
			return
		}
		defer func() { _ = own.Close() }()
		if err = netns.Set(netns.NsHandle(ns.Fd())); err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
		} else {
			err = fn()
		}
		// A thread that cannot come back ends with this goroutine, which still holds it.
		if netns.Set(own) == nil {
			goruntime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// connect connects the socket fd, which it takes over.
func connect(ctx context.Context, fd int, network string, to netip.AddrPort) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), network+" "+to.String())
	defer func() { _ = file.Close() }()
	err := unix.Connect(fd, socketAddress(to))
	if errors.Is(err, unix.EINPROGRESS) {
		err = connected(ctx, file)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, os.NewSyscallError("connect", err)
	}
	conn, err := net.FileConn(file)
	if err == nil && conn.LocalAddr().String() == conn.RemoteAddr().String() {
		// Nobody listens: TCP connects a socket with itself where the kernel chose for it the port that it calls.
		return nil, errors.Join(os.NewSyscallError("connect", unix.ECONNREFUSED), conn.Close())
	}
	return conn, err
}

// connected waits for the end of an attempt to connect.
func connected(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var outcome error
	err = raw.Write(func(fd uintptr) bool {
		var code int
		if code, outcome = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); outcome != nil {
			return true
		}
		if code != 0 {
			outcome = unix.Errno(code)
			return true
		}
		// Writable for another reason as well: only who has a peer is connected.
		_, peerErr := unix.Getpeername(int(fd))
		return peerErr == nil
	})
	return errors.Join(err, outcome)
}

func socketAddress(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}
