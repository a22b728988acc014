package linux_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"reconciler/runtime"
)

// resolved are the IPv4 addresses that a name has for a container.
func (e *env) resolved(from runtime.ID, name string) (addresses []string) {
	e.Helper()
	conf, _ := e.exec(from, "cat", "/etc/resolv.conf")
	server, _, _ := strings.Cut(strings.TrimPrefix(conf, "nameserver "), "\n")
	conn, err := e.Dial(e.within(), from, "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	msg, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion(name+".default.", dns.TypeA), &dns.Conn{Conn: conn})
	if err != nil {
		e.Fatal(err)
	}
	for _, rr := range msg.Answer {
		if a, ok := rr.(*dns.A); ok {
			addresses = append(addresses, a.A.String())
		}
	}
	return addresses
}

func ports(tcp, udp uint16) []runtime.Port {
	return []runtime.Port{{HostPort: tcp, ContainerPort: 80, Protocol: "TCP"}, {HostPort: udp, ContainerPort: 81, Protocol: "UDP"}}
}

// While the way to a name goes from one container to the other and back, no request fails: each new connection reaches the
// one that serves, a long one stays where it began, datagrams of one client and the name in DNS follow.
func TestServeUnderLoad(t *testing.T) {
	e := newEnv(t)
	tcp, udp := freePort(t), freePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", tcp)
	old := e.start(e.answering("web", "old", ports(tcp, udp)...))
	e.said(old, "listening")
	client := e.start(e.bridged("client", "sleep 1000"))
	long, datagrams := e.connected("tcp", address), e.connected("udp", fmt.Sprintf("127.0.0.1:%d", udp))
	expect := func(what, want string, ask func() (string, error)) {
		t.Helper()
		if got, err := ask(); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", what, got, err, want)
		}
	}
	expect("a long connection", "old", func() (string, error) { return asked(long) })
	next := e.start(e.answering("web", "new", ports(tcp, udp)...))
	e.said(next, "listening")
	if a, b := e.status(old), e.status(next); a.IP == b.IP || !a.Serving || b.Serving {
		t.Fatalf("at %s serving %v, and at %s serving %v", a.IP, a.Serving, b.IP, b.Serving)
	}
	expect("beside one that does not serve", "old", func() (string, error) { return askedAnew(e.within(), address) })
	if got, want := e.resolved(client, "web"), []string{e.status(old).IP}; !slices.Equal(got, want) {
		t.Errorf("the name means %v, want %v", got, want)
	}

	var load sync.WaitGroup
	var requests atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, 4)
	for range cap(failed) {
		load.Go(func() {
			for ctx.Err() == nil {
				if _, err := askedAnew(context.WithoutCancel(ctx), address); err != nil {
					failed <- err
					return
				}
				requests.Add(1)
			}
		})
	}
	for i := range 30 {
		to, who := next, "new"
		if i%2 == 1 {
			to, who = old, "old"
		}
		if err := e.Serve(e.within(), to, true); err != nil {
			t.Fatal(err)
		}
		expect("a new connection", who, func() (string, error) { return askedAnew(e.within(), address) })
		expect("the same client's datagram", who, func() (string, error) { return asked(datagrams) })
		expect("a long connection", "old", func() (string, error) { return asked(long) })
		if got, want := e.resolved(client, "web"), []string{e.status(to).IP}; !slices.Equal(got, want) {
			t.Errorf("the name means %v, want %v", got, want)
		}
	}
	stop()
	load.Wait()
	close(failed)
	for err := range failed {
		t.Errorf("a request during the switches: %v", err)
	}
	t.Logf("%d requests", requests.Load())
	if n := requests.Load(); n < 100 {
		t.Errorf("only %d requests: this shows nothing", n)
	}

	// Nobody serves: no way in, but the long connection stays.
	if err := e.Serve(e.within(), old, false); err != nil {
		t.Fatal(err)
	}
	if got, err := askedAnew(e.within(), address); err == nil {
		t.Errorf("nobody serves, and %q answers", got)
	}
	if got := e.resolved(client, "web"); len(got) != 0 {
		t.Errorf("nobody serves, and the name means %v", got)
	}
	expect("a long connection", "old", func() (string, error) { return asked(long) })
}

// Drain waits for connections through published ports, and for no others.
func TestDrainWaitsForConnections(t *testing.T) {
	e := newEnv(t)
	tcp, udp := freePort(t), freePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", tcp)
	old := e.start(e.answering("web", "old", ports(tcp, udp)...))
	e.said(old, "listening")
	next := e.start(e.answering("web", "new", ports(tcp, udp)...))
	e.said(next, "listening")
	long, direct := e.connected("tcp", address), e.connected("tcp", net.JoinHostPort(e.status(old).IP, "80"))
	for _, conn := range []net.Conn{long, direct} {
		if who, err := asked(conn); who != "old" || err != nil {
			t.Fatalf("%q, %v", who, err)
		}
	}
	if err := e.Serve(e.within(), next, true); err != nil {
		t.Fatal(err)
	}
	other := e.connected("tcp", address) // the new one's
	if who, err := asked(other); who != "new" || err != nil {
		t.Fatalf("%q, %v", who, err)
	}
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := e.Drain(short, old); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drained with a connection open: %v", err)
	}
	drained := make(chan error, 1)
	go func() { drained <- e.Drain(e.within(), old) }()
	if who, err := asked(long); who != "old" || err != nil {
		t.Errorf("%q, %v", who, err)
	}
	_ = long.Close()
	if err := <-drained; err != nil {
		t.Errorf("after its last connection: %v", err)
	}
	if who, err := asked(direct); who != "old" || err != nil {
		t.Errorf("the direct connection: %q, %v", who, err)
	}
	// A container that ends has no connections any more, whatever connection tracking remembers.
	go func() { drained <- e.Drain(e.within(), next) }()
	if err := e.Stop(e.within(), next, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Errorf("after its end: %v", err)
	}
}

// Who does not serve publishes nothing at a start either, and who serves takes its ports back.
func TestStartsKeepWhoServes(t *testing.T) {
	e := newEnv(t)
	tcp, udp := freePort(t), freePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", tcp)
	old := e.start(e.answering("web", "old", ports(tcp, udp)...))
	e.said(old, "listening")
	next := e.start(e.answering("web", "new", ports(tcp, udp)...))
	if err := e.Serve(e.within(), next, true); err != nil {
		t.Fatal(err)
	}
	for _, id := range []runtime.ID{old, next, old} {
		e.restart(id)
		e.said(id, "listening")
		if who, err := askedAnew(e.within(), address); who != "new" || err != nil {
			t.Errorf("after a start of %s: %q, %v", id, who, err)
		}
	}
	// In place, the ports of one that does not serve are for later.
	moved := e.status(old).Spec
	moved.Ports = ports(freePort(t), udp)
	if err := e.Update(e.within(), old, moved); err != nil {
		t.Fatal(err)
	}
	if who, err := askedAnew(e.within(), address); who != "new" || err != nil {
		t.Errorf("after an update of the other: %q, %v", who, err)
	}
	if err := e.Serve(e.within(), old, true); err != nil {
		t.Fatal(err)
	}
	if who, err := askedAnew(e.within(), fmt.Sprintf("127.0.0.1:%d", moved.Ports[0].HostPort)); who != "old" || err != nil {
		t.Errorf("at its own port: %q, %v", who, err)
	}
	if who, err := askedAnew(e.within(), address); err == nil {
		t.Errorf("the other's port still leads to %q", who)
	}
}

// A port that a container of another name has is refused at the switch, and everything stays as it was.
func TestServeRefusesAPortThatIsTaken(t *testing.T) {
	e := newEnv(t)
	tcp, udp, taken := freePort(t), freePort(t), freePort(t)
	old := e.start(e.answering("web", "old", ports(tcp, udp)...))
	e.said(old, "listening")
	e.start(e.answering("db", "db", ports(taken, freePort(t))...))
	next := e.start(e.answering("web", "new", ports(taken, udp)...))
	err := e.Serve(e.within(), next, true)
	if err == nil || runtime.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	if who, err := askedAnew(e.within(), fmt.Sprintf("127.0.0.1:%d", tcp)); who != "old" || err != nil || !e.status(old).Serving || e.status(next).Serving {
		t.Errorf("%q, %v", who, err)
	}
}

// An address goes from a container that does not run to its successor and comes back; two that run never share one.
func TestAddressesOfSuccessors(t *testing.T) {
	e := newEnv(t)
	spec := e.bridged("web", "sleep 1000")
	old := e.start(spec)
	first := e.status(old).IP
	stop := func(id runtime.ID) {
		t.Helper()
		if err := e.Stop(e.within(), id, 0); err != nil {
			t.Fatal(err)
		}
	}
	again := func(id runtime.ID) string {
		t.Helper()
		if err := e.Start(e.within(), id); err != nil {
			t.Fatal(err)
		}
		return e.status(id).IP
	}
	// Recreate, and going back.
	stop(old)
	next := e.start(spec)
	if got := e.status(next).IP; got != first {
		t.Errorf("the successor has %s, not %s", got, first)
	}
	stop(next)
	if got := again(old); got != first {
		t.Errorf("going back, the old one has %s, not %s", got, first)
	}
	if got := again(next); got == first || got == "" {
		t.Errorf("beside the old one its successor has %s", got)
	}
	if err := e.Remove(e.within(), next); err != nil {
		t.Fatal(err)
	}
	// StartFirst.
	beside := e.start(spec)
	if a, b := e.status(old).IP, e.status(beside).IP; a == b || b == "" {
		t.Errorf("side by side: %s and %s", a, b)
	}
}

// Many starts and stops of two containers of one name at once: they never share an address while both run.
func TestRacingSuccessorsShareNoAddress(t *testing.T) {
	e := newEnv(t)
	ids := []runtime.ID{e.create(e.bridged("web", "sleep 1000")), e.create(e.bridged("web", "sleep 1000"))}
	var both sync.WaitGroup
	var meetings atomic.Int64
	for _, id := range ids {
		both.Go(func() {
			for range 12 {
				if err := e.Start(e.within(), id); err != nil {
					t.Error(err)
					return
				}
				list, err := e.List(e.within())
				if err != nil {
					t.Error(err)
					return
				}
				if len(list) == 2 && list[0].State == runtime.StateRunning && list[1].State == runtime.StateRunning {
					meetings.Add(1)
					if list[0].IP == list[1].IP {
						t.Errorf("both run at %s", list[0].IP)
					}
				}
				if err := e.Stop(e.within(), id, 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	both.Wait()
	t.Logf("they met %d times", meetings.Load())
}

// BenchmarkServe is a switch on a server with a hundred other containers.
func BenchmarkServe(b *testing.B) {
	e := newEnv(b)
	for i := range 100 {
		e.start(e.bridged(fmt.Sprintf("c%d", i), "sleep 100000"))
	}
	tcp, udp := freePort(b), freePort(b)
	ids := []runtime.ID{e.start(e.answering("web", "old", ports(tcp, udp)...)), e.start(e.answering("web", "new", ports(tcp, udp)...))}
	for i := 1; b.Loop(); i++ {
		if err := e.Serve(b.Context(), ids[i%2], true); err != nil {
			b.Fatal(err)
		}
	}
}
