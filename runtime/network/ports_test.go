package network_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// bridgeNetfilter tells whether frames between containers pass the rules of routed packets too, as they do on servers
// with Docker; what holds must hold both ways.
func bridgeNetfilter(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const dir = "/proc/sys/net/bridge"
	before, err := os.ReadFile(filepath.Join(dir, "bridge-nf-call-iptables"))
	if err != nil {
		t.Run("bridge-nf-call off", test)
		return
	}
	set := func(value string) {
		for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables"} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(value), 0))
		}
	}
	defer set(string(before))
	for value, name := range map[string]string{"0": "bridge-nf-call off", "1": "bridge-nf-call on"} {
		set(value)
		t.Run(name, test)
	}
}

func (e *env) publish(c container, ports ...runtime.Port) {
	e.t.Helper()
	must(e.t, e.bridge.Publish(background, c.id, ports))
}

func tcp(host, inside uint16) runtime.Port {
	return runtime.Port{HostPort: host, ContainerPort: inside, Protocol: "TCP"}
}

func udp(host, inside uint16) runtime.Port {
	return runtime.Port{HostPort: host, ContainerPort: inside, Protocol: "UDP"}
}

func TestPublishedPortsAnswerFromEverywhere(t *testing.T) {
	bridgeNetfilter(t, func(t *testing.T) {
		e := newEnv(t)
		a, b := e.container("a"), e.container("b")
		a.serve(t, "a", "tcp", 80)
		a.serve(t, "a", "udp", 81)
		e.publish(a, tcp(8080, 80), udp(8081, 81))
		g, err := e.bridge.Gateway(background)
		must(t, err)
		own := g.Address.String()

		for _, c := range []struct {
			what string
			from *space
			to   string
			seen string
		}{
			{"from loopback", nil, "127.0.0.1", own},
			{"from the server's address", nil, hostAddress, hostAddress},
			{"from the world", &e.world, hostAddress, worldAddress},
			{"from the world by IPv6", &e.world, hostAddress6, worldAddress6},
			{"from a neighbour", &b.space, hostAddress, own},
			{"from a neighbour by IPv6", &b.space, hostAddress6, g.Address6.String()},
			{"from a neighbour by the bridge", &b.space, own, own},
			{"from itself", &a.space, hostAddress, own},
		} {
			for protocol, port := range map[string]string{"tcp": "8080", "udp": "8081"} {
				var answer string
				var err error
				if to := net.JoinHostPort(c.to, port); c.from == nil {
					answer, err = ask(protocol, to, patience)
				} else {
					answer, err = c.from.ask(t, protocol, to, patience)
				}
				want(t, c.what+" "+protocol, answer, err, "a "+c.seen)
			}
		}
		must(t, e.bridge.Publish(background, a.id, nil))
		for what, ask := range map[string]func() (string, error){
			"loopback": func() (string, error) { return ask("tcp", "127.0.0.1:8080", impatience) },
			"world":    func() (string, error) { return e.world.ask(t, "tcp", hostAddress+":8080", impatience) },
		} {
			answer, err := ask()
			wantNone(t, "closed again, from "+what, answer, err)
		}
	})
}

func TestAllowClosesAPortToOthers(t *testing.T) {
	e := newEnv(t)
	a, b := e.container("a"), e.container("b")
	a.serve(t, "a", "tcp", 80)
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		name            string
		allow           []netip.Prefix
		world, loopback bool
	}{
		{"the world", []netip.Prefix{prefix("192.0.2.2/32")}, true, false},
		{"overlapping", []netip.Prefix{prefix("192.0.2.2/32"), prefix("192.0.0.0/16"), prefix("192.0.2.0/24"), prefix("127.0.0.0/8")}, true, true},
		{"loopback", []netip.Prefix{prefix("127.0.0.1/32")}, false, true},
		{"only IPv6", []netip.Prefix{prefix("2001:db8::/64")}, false, false},
		{"everybody", nil, true, true},
	} {
		port := tcp(8080, 80)
		port.Allow = c.allow
		e.publish(a, port)
		answer, err := e.world.ask(t, "tcp", hostAddress+":8080", impatienceUnless(c.world))
		if (err == nil) != c.world {
			t.Errorf("%s, from the world: %q, %v", c.name, answer, err)
		}
		if answer, err = ask("tcp", "127.0.0.1:8080", impatienceUnless(c.loopback)); (err == nil) != c.loopback {
			t.Errorf("%s, from loopback: %q, %v", c.name, answer, err)
		}
		answer, err = b.ask(t, "tcp", hostAddress+":8080", impatienceUnless(c.allow == nil))
		if (err == nil) != (c.allow == nil) {
			t.Errorf("%s, from a neighbour: %q, %v", c.name, answer, err)
		}
	}
}

func impatienceUnless(answers bool) time.Duration {
	if answers {
		return patience
	}
	return impatience
}

func TestHostIPLimitsWhereAPortAnswers(t *testing.T) {
	e := newEnv(t)
	a := e.container("a")
	a.serve(t, "a", "tcp", 80)
	port := tcp(8080, 80)
	port.HostIP = netip.MustParseAddr("127.0.0.1")
	e.publish(a, port)
	answer, err := ask("tcp", "127.0.0.1:8080", patience)
	g, gerr := e.bridge.Gateway(background)
	must(t, gerr)
	want(t, "on loopback", answer, err, "a "+g.Address.String())
	answer, err = e.world.ask(t, "tcp", hostAddress+":8080", impatience)
	wantNone(t, "on the server's address", answer, err)
}

// Of many connections while the port goes from one container to the other and back, none fails, and datagrams of one
// client go to whoever has the port.
func TestPublishTakesOverFromTheSameName(t *testing.T) {
	e := newEnv(t)
	old, next := e.containerAs("web-1", "web"), e.containerAs("web-2", "web")
	for _, c := range []container{old, next} {
		c.serve(t, string(c.id), "tcp", 80)
		c.serve(t, string(c.id), "udp", 81)
	}
	ports := []runtime.Port{tcp(8080, 80), udp(8081, 81)}
	e.publish(old, ports...)

	client, err := net.Dial("udp", hostAddress+":8081")
	must(t, err)
	defer func() { _ = client.Close() }()
	datagram := func(expected container) {
		t.Helper()
		_, err := client.Write([]byte("?"))
		must(t, err)
		must(t, client.SetDeadline(time.Now().Add(patience)))
		buf := make([]byte, 100)
		n, err := client.Read(buf)
		want(t, "datagram", string(buf[:n]), err, string(expected.id)+" "+hostAddress)
	}
	datagram(old)

	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := ask("tcp", hostAddress+":8080", patience); err != nil {
				failed <- err
				return
			}
		}
	}()
	for i := range 20 {
		to := []container{next, old}[i%2]
		e.publish(to, ports...)
		answer, err := ask("tcp", hostAddress+":8080", patience)
		want(t, "after the switch", answer, err, string(to.id)+" "+hostAddress)
		datagram(to)
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("a connection during the switches: %v", err)
	}
}

// What connection tracking remembers of a container goes with its addresses, whoever began it, and nothing else does.
func TestReleaseForgetsConnections(t *testing.T) {
	for name, others := range map[string]int{"beside few": 0, "beside many": 2500} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			a, b := e.container("a"), e.container("b")
			e.world.serve(t, "world", "tcp", 82)
			for i, c := range []container{a, b} {
				c.serve(t, string(c.id), "tcp", 80)
				c.serve(t, string(c.id), "udp", 81)
				e.publish(c, tcp(uint16(8080+2*i), 80), udp(uint16(8081+2*i), 81))
				for host, from := range map[string]string{hostAddress: worldAddress, "[" + hostAddress6 + "]": worldAddress6} {
					answer, err := e.world.ask(t, "tcp", fmt.Sprintf("%s:%d", host, 8080+2*i), patience)
					want(t, "tcp", answer, err, string(c.id)+" "+from)
					answer, err = e.world.ask(t, "udp", fmt.Sprintf("%s:%d", host, 8081+2*i), patience)
					want(t, "udp", answer, err, string(c.id)+" "+from)
				}
				for world, from := range map[string]string{worldAddress: hostAddress, "[" + worldAddress6 + "]": hostAddress6} {
					answer, err := c.ask(t, "tcp", world+":82", patience)
					want(t, "as a client", answer, err, "world "+from)
				}
			}
			for i := range others {
				conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", 10_000+i))
				must(t, err)
				_, err = conn.Write([]byte("?"))
				must(t, errors.Join(err, conn.Close()))
			}
			if remembered(t, a) != 6 || remembered(t, b) != 6 {
				t.Fatalf("before: %d, %d", remembered(t, a), remembered(t, b))
			}
			must(t, e.bridge.Release(background, a.id))
			if remembered(t, a) != 0 || remembered(t, b) != 6 {
				t.Errorf("after: %d of the one that went, %d of the other", remembered(t, a), remembered(t, b))
			}
		})
	}
}

// remembered counts the entries of connection tracking of a container.
func remembered(t testing.TB, c container) (n int) {
	t.Helper()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		must(t, err)
		for _, f := range flows {
			for _, own := range []netip.Addr{c.lease.IP, c.lease.IPv6} {
				if f.Reverse.SrcIP.Equal(own.AsSlice()) || f.Forward.SrcIP.Equal(own.AsSlice()) {
					n++
				}
			}
		}
	}
	return n
}

func TestPublishRefusesWhatAnotherNameHas(t *testing.T) {
	e := newEnv(t)
	a, b := e.container("a"), e.container("b")
	a.serve(t, "a", "tcp", 80)
	e.publish(a, tcp(8080, 80))
	specific := tcp(8080, 80)
	specific.HostIP = netip.MustParseAddr(hostAddress)
	for _, p := range []runtime.Port{tcp(8080, 80), specific} {
		if err := e.bridge.Publish(background, b.id, []runtime.Port{p}); !errors.Is(err, network.ErrPortTaken) || runtime.HintOf(err) == "" {
			t.Errorf("publish %+v: %v", p, err)
		}
	}
	answer, err := ask("tcp", hostAddress+":8080", patience)
	want(t, "the first still has it", answer, err, "a "+hostAddress)
}

// A rule of the administrator that drops is stronger than a published port, whatever comes first.
func TestAdministratorsDropStays(t *testing.T) {
	for _, priority := range []int32{-10, 10} {
		t.Run(fmt.Sprintf("priority %d", priority), func(t *testing.T) {
			e := newEnv(t)
			a := e.container("a")
			a.serve(t, "a", "tcp", 80)
			e.publish(a, tcp(8080, 80))
			e.world.serve(t, "world", "tcp", 80)

			conn := &nftables.Conn{}
			table := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
			p := nftables.ChainPriority(priority)
			chain := conn.AddChain(&nftables.Chain{
				Name: "forward", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: &p,
			})
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
			must(t, conn.Flush())
			t.Cleanup(func() { conn.DelTable(table); must(t, conn.Flush()) })
			e.repair()

			answer, err := e.world.ask(t, "tcp", hostAddress+":8080", impatience)
			wantNone(t, "in", answer, err)
			answer, err = a.ask(t, "tcp", worldAddress+":80", impatience)
			wantNone(t, "out", answer, err)

			must(t, e.bridge.Destroy(background))
			if _, err = conn.ListChain(table, "forward"); err != nil {
				t.Errorf("the administrator's chain: %v", err)
			}
			rules, err := conn.GetRules(table, chain)
			if err != nil || len(rules) != 1 {
				t.Errorf("the administrator's rules: %d, %v", len(rules), err)
			}
		})
	}
}

// The bridge routes 127.0.0.0/8, so that loopback reaches containers; no container may reach the server's loopback.
func TestLoopbackIsClosedToContainers(t *testing.T) {
	e := newEnv(t)
	a := e.container("a")
	l, err := net.ListenPacket("udp4", ":9")
	must(t, err)
	defer func() { _ = l.Close() }()
	g, err := e.bridge.Gateway(background)
	must(t, err)
	link, err := netlink.LinkByName(g.Interface)
	must(t, err)
	mac := network.MAC(link.Attrs().HardwareAddr)
	must(t, a.do(t, func() error {
		fd, to, rerr := raw("eth0")
		if rerr != nil {
			return rerr
		}
		defer func() { _ = unix.Close(fd) }()
		loopback := netip.MustParseAddr("127.0.0.1")
		for _, f := range [][]byte{
			frame(mac, a.lease.MAC, 0x0800, ipv4UDP(a.lease.IP, loopback, "to loopback")),
			frame(mac, a.lease.MAC, 0x0800, ipv4UDP(loopback, g.Address, "from loopback")),
			frame(mac, a.lease.MAC, 0x0800, ipv4UDP(a.lease.IP, g.Address, "to the bridge")),
		} {
			if rerr = unix.Sendto(fd, f, 0, to); rerr != nil {
				return rerr
			}
		}
		return nil
	}))
	must(t, l.SetDeadline(time.Now().Add(patience)))
	buf := make([]byte, 100)
	n, _, err := l.ReadFrom(buf)
	want(t, "the first that arrives", string(buf[:n]), err, "to the bridge")
}
