package network_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// hold makes the container in s accept connections on a port and keep them; what it accepts comes by the channel.
func (s space) hold(t testing.TB, port int) <-chan net.Conn {
	t.Helper()
	accepted := make(chan net.Conn, 5000)
	must(t, s.do(t, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					close(accepted)
					return
				}
				accepted <- conn
			}
		}()
		return nil
	}))
	return accepted
}

// pairOf connects, and returns both ends.
func pairOf(t testing.TB, from *space, address string, accepted <-chan net.Conn) (client, server net.Conn) {
	t.Helper()
	dial := func() error {
		var err error
		client, err = net.DialTimeout("tcp", address, patience)
		return err
	}
	if from == nil {
		must(t, dial())
	} else {
		must(t, from.do(t, dial))
	}
	server = <-accepted
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

func (e *env) connections(c container, want int, when string) {
	e.t.Helper()
	got, err := e.bridge.Connections(background, c.id)
	if err != nil || got != want {
		e.t.Errorf("%s: %d connections, %v; want %d", when, got, err, want)
	}
}

// What counts are connections by way of published ports, of both families, until both sides have closed them; also after
// the ports lead elsewhere.
func TestConnectionsAreThoseOfPublishedPorts(t *testing.T) {
	e := newEnv(t)
	old, next, other := e.containerAs("web-1", "web"), e.containerAs("web-2", "web"), e.container("other")
	held := old.hold(t, 80)
	e.publish(old, tcp(8080, 80))
	e.connections(old, 0, "before the first")
	var clients, servers []net.Conn
	for _, c := range []struct {
		from *space
		to   string
	}{
		{&e.world, hostAddress + ":8080"},
		{&e.world, "[" + hostAddress6 + "]:8080"},
		{nil, "127.0.0.1:8080"},
		{&other.space, hostAddress + ":8080"},
	} {
		client, server := pairOf(t, c.from, c.to, held)
		clients, servers = append(clients, client), append(servers, server)
	}
	pairOf(t, &other.space, net.JoinHostPort(old.lease.IP.String(), "80"), held) // not by a published port
	answer, err := other.ask(t, "tcp", "127.0.0.1:1", impatience)
	wantNone(t, "nobody", answer, err)
	e.connections(old, 4, "four by published ports")
	e.publish(next, tcp(8080, 80))
	e.connections(old, 4, "after the switch")
	e.connections(next, 0, "the new one")

	// Closed on one side: the other may still have something to say.
	half, ok := clients[0].(*net.TCPConn)
	if !ok {
		t.Fatal("not TCP")
	}
	must(t, half.CloseWrite())
	_, err = servers[0].Read(make([]byte, 1))
	if err != io.EOF { //nolint:errorlint // Read returns it as it is
		t.Fatal(err)
	}
	e.connections(old, 4, "one of them closed on one side")
	for i := range clients {
		must(t, clients[i].Close())
		_, err = servers[i].Read(make([]byte, 1))
		if err != io.EOF { //nolint:errorlint // Read returns it as it is
			t.Fatal(err)
		}
		must(t, servers[i].Close())
	}
	for end := 0; ; end++ { // the last packets are on their way
		if n, err := e.bridge.Connections(background, old.id); err != nil || n == 0 {
			must(t, err)
			break
		}
		if end == 10_000 {
			t.Fatal("closed connections still count")
		}
	}
	e.connections(container{id: "nobody"}, 0, "who has no lease")
}

// A container that is published closes what others of its name had, also what it has not itself.
func TestPublishClosesWhatTheOldOneHad(t *testing.T) {
	e := newEnv(t)
	old, next := e.containerAs("web-1", "web"), e.containerAs("web-2", "web")
	for _, c := range []container{old, next} {
		c.serve(t, string(c.id), "tcp", 80)
	}
	e.publish(old, tcp(8080, 80), tcp(9090, 80))
	e.publish(next, tcp(8080, 80))
	answer, err := ask("tcp", hostAddress+":8080", patience)
	want(t, "what both have", answer, err, "web-2 "+hostAddress)
	answer, err = ask("tcp", hostAddress+":9090", impatience)
	wantNone(t, "what the old one had", answer, err)
	e.publish(old, tcp(9090, 80)) // nothing that the other has
	answer, err = ask("tcp", hostAddress+":8080", impatience)
	wantNone(t, "what the other had", answer, err)
	e.publish(next, tcp(8080, 80))
	must(t, e.bridge.Unpublish(background, runtime.Name{Namespace: "default", Name: "web"}))
	answer, err = ask("tcp", hostAddress+":8080", impatience)
	wantNone(t, "unpublished", answer, err)
	leases, err := e.bridge.Leases()
	must(t, err)
	for _, l := range leases {
		if len(l.Ports) > 0 {
			t.Errorf("%s has %d ports", l.ID, len(l.Ports))
		}
	}
}

// The next of a name has the address of one that is idle, and nobody of one that is not.
func TestLeaseTakesOverFromWhoIsIdle(t *testing.T) {
	e := newEnv(t)
	web := runtime.Name{Namespace: "default", Name: "web"}
	old := e.containerAs("web-1", "web")
	old.serve(t, "old", "tcp", 80)
	e.publish(old, tcp(8080, 80))
	beside, err := e.bridge.Lease(background, "web-2", web, func(runtime.ID) bool { return false })
	must(t, err)
	if beside.IP == old.lease.IP {
		t.Errorf("both have %s", beside.IP)
	}
	next, err := e.bridge.Lease(background, "web-3", web, func(runtime.ID) bool { return true })
	must(t, err)
	if next.IP != old.lease.IP {
		t.Errorf("it has %s, and not %s, which was published", next.IP, old.lease.IP)
	}
	if err = e.bridge.Attach(background, old.lease, old.file, network.Limits{}); err == nil {
		t.Error("who has no lease any more can be attached")
	}
	answer, err := ask("tcp", hostAddress+":8080", impatience)
	wantNone(t, "the port of who lost its address", answer, err)
	leases, err := e.bridge.Leases()
	must(t, err)
	if len(leases) != 1 || leases[0].ID != "web-3" {
		t.Errorf("leases %+v", leases)
	}
}

// BenchmarkConnections is one look among thousands of connections, to a container that has half of them.
func BenchmarkConnections(b *testing.B) {
	e := newEnv(b)
	old, next := e.containerAs("web-1", "web"), e.containerAs("web-2", "web")
	const each = 2000
	must(b, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 20_000, Max: 20_000}))
	for _, c := range []container{old, next} {
		held := c.hold(b, 80)
		e.publish(c, tcp(8080, 80))
		for range each {
			pairOf(b, nil, hostAddress+":8080", held)
		}
	}
	for b.Loop() {
		if n, err := e.bridge.Connections(background, old.id); err != nil || n != each {
			b.Fatal(n, err)
		}
	}
}
