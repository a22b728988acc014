package network_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// background outlives the test's own context, which has ended when its cleanup runs.
var background = context.Background()

const inNamespace = "RECONCILER_TEST_NETWORK_NAMESPACE"

// TestMain runs the tests in a network namespace of their own: the server's network is not touched.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inNamespace) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	goruntime.LockOSThread()
	if err := cmd.Run(); err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			os.Exit(e.ExitCode())
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// space is a network namespace that stands for a container, or for another server.
type space struct{ file *os.File }

// newSpace makes a network namespace that ends with the test.
func newSpace(t testing.TB) space {
	t.Helper()
	var s space
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine, and so does its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.file, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	must(t, <-done)
	t.Cleanup(func() { _ = s.file.Close() })
	return s
}

// do runs fn in the namespace.
func (s space) do(t testing.TB, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		if err := netns.Set(netns.NsHandle(s.file.Fd())); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// env is one instance in the test's namespace, with another server that is its way out.
type env struct {
	t      testing.TB
	bridge *network.Bridge
	cfg    network.Config
	world  space
}

// Addresses of the server in the test, and of the other server.
const (
	hostAddress, worldAddress   = "192.0.2.1", "192.0.2.2"
	hostAddress6, worldAddress6 = "2001:db8::1", "2001:db8::2"
)

func newEnv(t testing.TB, change ...func(*network.Config)) *env {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	e := &env{t: t, cfg: network.Config{Instance: instanceOf(t), StateDir: t.TempDir()}}
	for _, c := range change {
		c(&e.cfg)
	}
	e.bridge = network.Open(e.cfg)
	e.makeWorld()
	t.Cleanup(func() {
		must(t, e.bridge.Destroy(background))
		must(t, e.bridge.Destroy(background))
		for _, left := range leftovers(t, e.cfg) {
			t.Errorf("leak: %s", left)
		}
	})
	return e
}

func instanceOf(t testing.TB) string {
	name := strings.ToLower(strings.Map(func(r rune) rune {
		if r == '/' || r == '_' || r == '#' || r == ' ' {
			return '-'
		}
		return r
	}, t.Name()))
	return name[:min(len(name), 60)]
}

// makeWorld connects another namespace with this one, which gets its default routes by it.
func (e *env) makeWorld() {
	t := e.t
	t.Helper()
	e.world = newSpace(t)
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "wan0", 1400
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerMTU: 1400, PeerNamespace: netlink.NsFd(int(e.world.file.Fd()))}
	must(t, netlink.LinkAdd(pair))
	t.Cleanup(func() { must(t, netlink.LinkDel(pair)) })
	up := func(name string, via bool, addresses ...string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addresses {
			parsed, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			parsed.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, parsed); err != nil {
				return err
			}
		}
		if err := netlink.LinkSetUp(link); err != nil || !via {
			return err
		}
		for dst, gw := range map[string]string{"0.0.0.0/0": worldAddress, "::/0": worldAddress6} {
			_, everything, _ := net.ParseCIDR(dst)
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everything, Gw: net.ParseIP(gw)}); err != nil {
				return err
			}
		}
		return nil
	}
	must(t, up("wan0", true, hostAddress+"/24", hostAddress6+"/64"))
	must(t, e.world.do(t, func() error {
		if err := up("lo", false); err != nil {
			return err
		}
		return up("eth0", false, worldAddress+"/24", worldAddress6+"/64")
	}))
}

// container is a namespace with a lease.
type container struct {
	space
	id    runtime.ID
	lease network.Lease
}

// container makes one and attaches it.
func (e *env) container(name string, limits ...network.Limits) container {
	e.t.Helper()
	return e.containerAs(runtime.ID(name+"-1"), name, limits...)
}

func (e *env) containerAs(id runtime.ID, name string, limits ...network.Limits) container {
	e.t.Helper()
	c := container{space: newSpace(e.t), id: id}
	var err error
	c.lease, err = e.bridge.Lease(background, id, runtime.Name{Namespace: "default", Name: name}, nil)
	must(e.t, err)
	limit := network.Limits{}
	for _, l := range limits {
		limit = l
	}
	must(e.t, e.bridge.Attach(background, c.lease, c.file, limit))
	return c
}

// serve answers connections in the namespace with who and what address the peer had.
func (s space) serve(t testing.TB, who, protocol string, port int) {
	t.Helper()
	must(t, s.do(t, func() error {
		if protocol == "udp" {
			conn, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = conn.Close() })
			go func() {
				buf := make([]byte, 100)
				for {
					_, from, err := conn.ReadFrom(buf)
					if err != nil {
						return
					}
					_, _ = conn.WriteTo([]byte(who+" "+hostOf(from)), from)
				}
			}()
			return nil
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte(who + " " + hostOf(conn.RemoteAddr())))
				_ = conn.Close()
			}
		}()
		return nil
	}))
}

func hostOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String())
	return netip.MustParseAddr(host).Unmap().String()
}

// patience is for what should answer, impatience for what should not.
const patience, impatience = 10 * time.Second, 300 * time.Millisecond

// ask returns what a server answers to a client in the namespace.
func (s space) ask(t testing.TB, protocol, address string, wait time.Duration) (answer string, err error) {
	t.Helper()
	err = s.do(t, func() error {
		answer, err = ask(protocol, address, wait)
		return err
	})
	return answer, err
}

func ask(protocol, address string, wait time.Duration) (string, error) {
	conn, err := net.DialTimeout(protocol, address, wait)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(wait))
	if protocol == "udp" {
		if _, err = conn.Write([]byte("?")); err != nil {
			return "", err
		}
		buf := make([]byte, 100)
		n, rerr := conn.Read(buf)
		return string(buf[:n]), rerr
	}
	all, err := io.ReadAll(conn)
	if err == nil && len(all) == 0 {
		err = errors.New("closed without an answer")
	}
	return string(all), err
}

// want fails the test where an answer is another one.
func want(t testing.TB, what, answer string, err error, expected string) {
	t.Helper()
	if err != nil || answer != expected {
		t.Errorf("%s: %q, %v; want %q", what, answer, err, expected)
	}
}

// wantNone fails the test where there is an answer.
func wantNone(t testing.TB, what, answer string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: answered %q, want none", what, answer)
	}
}

// repair returns what was to be repaired.
func (e *env) repair() []string {
	e.t.Helper()
	done, err := e.bridge.Repair(background)
	must(e.t, err)
	return done
}
