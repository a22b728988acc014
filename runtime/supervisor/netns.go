package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container's network namespace is there when process 1 begins; its root file system takes it most of a start. So it sends the
// namespace first of all, and its network is made meanwhile. It goes through the socket by which libcontainer has process 1 send its
// pidfd later, which is made for no other use: that comes second and nobody reads it.

// pidfdSocket is where libcontainer tells process 1 of Process.PidfdSocket.
const pidfdSocket = "_LIBCONTAINER_PIDFD_SOCK"

// netnsMark tells the network namespace from the pidfd.
const netnsMark = "netns"

// sendNetns is called by process 1. An error is for who misses the namespace to say.
func sendNetns() {
	socket, err := strconv.Atoi(os.Getenv(pidfdSocket))
	if err != nil {
		return // its network is nobody's to make
	}
	netns, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	_ = unix.Sendmsg(socket, []byte(netnsMark), unix.UnixRights(netns), nil, 0)
	_ = unix.Close(netns)
}

// connecting is a container's network that is being made.
type connecting struct {
	socket *os.File // for process 1; nil where there is nothing to make
	conn   *net.UnixConn
	begin  chan struct{} // closed when it may begin
	done   chan struct{} // closed when err is set
	err    error
	stop   context.CancelFunc
}

// connect has configure called with the network namespace of a process 1 that is to be started with socket. end must be called.
func connect(ctx context.Context, spec *specs.Spec, configure func(ctx context.Context, netns *os.File) error) (*connecting, error) {
	k := &connecting{begin: make(chan struct{}), done: make(chan struct{})}
	ctx, k.stop = context.WithCancel(ctx)
	if configure == nil {
		close(k.done)
		return k, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		k.stop()
		return nil, fmt.Errorf("socket for the network namespace: %w", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "netns")
	k.socket = os.NewFile(uintptr(pair[1]), "netns")
	conn, err := net.FileConn(ours)
	_ = ours.Close() // conn has its own
	if err != nil {
		k.stop()
		_ = k.socket.Close()
		return nil, err
	}
	k.conn = conn.(*net.UnixConn)
	if !hasInterfaceSysctl(spec.Linux.Sysctl) {
		close(k.begin)
	}
	go func() {
		defer close(k.done)
		k.err = k.configure(ctx, configure)
	}()
	return k, nil
}

func (k *connecting) configure(ctx context.Context, configure func(ctx context.Context, netns *os.File) error) error {
	netns, err := receiveNetns(k.conn)
	if err != nil {
		return err
	}
	defer func() { _ = netns.Close() }()
	select {
	case <-k.begin:
		return configure(ctx, netns)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// started says that process 1 waits to execute the command, and has set what it sets of its network.
func (k *connecting) started() {
	select {
	case <-k.begin: // long ago
	default:
		close(k.begin)
	}
}

// end gives up what has not been made. Nothing of it goes on when it returns.
func (k *connecting) end() {
	k.stop()
	if k.conn != nil {
		_ = k.conn.Close()
		_ = k.socket.Close()
	}
	<-k.done
}

func receiveNetns(conn *net.UnixConn) (*os.File, error) {
	mark, oob := make([]byte, len(netnsMark)), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(mark, oob)
	if err != nil {
		return nil, err
	}
	fds, err := parseFDs(oob[:oobn])
	if err == nil && (string(mark[:n]) != netnsMark || len(fds) != 1) {
		err = errors.New("process 1 did not send its network namespace")
	}
	if err != nil {
		closeFDs(fds...)
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "netns"), nil
}

// hasInterfaceSysctl reports whether process 1 sets what interfaces get that come after it, or what some have that are there by
// then: net.ipv4.conf.default.forwarding, net.ipv6.neigh.eth0.mcast_solicit. The interface must not come meanwhile.
func hasInterfaceSysctl(sysctls map[string]string) bool {
	for name := range sysctls {
		name = strings.ReplaceAll(name, "/", ".")
		if strings.HasPrefix(name, "net.") && (strings.Contains(name, ".conf.") || strings.Contains(name, ".neigh.")) {
			return true
		}
	}
	return false
}
