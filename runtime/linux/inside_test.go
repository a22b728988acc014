package linux_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// within is a context that ends long after what is waited for should have come.
func (e *env) within() context.Context {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), time.Minute)
	e.Cleanup(cancel)
	return ctx
}

// A command's output is its last bytes, however much it was, of both streams; its user is the container's.
func TestExecKeepsTheEndOfTheOutput(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("web", "sleep", "1000")
	uid := int64(1000)
	spec.Security.User = &uid
	id := e.start(spec)
	res, err := e.Exec(e.within(), id, []string{"sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; id -u; echo the end >&2; exit 7"})
	if err != nil {
		t.Fatal(err)
	}
	if res.Code != 7 || len(res.Output) != runtime.MaxExecOutput {
		t.Errorf("code %d, %d bytes", res.Code, len(res.Output))
	}
	if end := string(res.Output[len(res.Output)-20:]); !strings.Contains(end, "1000\n") || !strings.Contains(end, "the end\n") {
		t.Errorf("the output ends with %q", end)
	}
	if _, err = e.Exec(e.within(), id, []string{"/bin/nothing"}); err == nil || errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("a command that is not there: %v", err)
	}
}

// A command that is given up ends with everything that it started, also where that ignores being hung up.
func TestExecThatIsGivenUpLeavesNothing(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.spec("web", "sleep", "1000"))
	ctx, cancel := context.WithCancel(t.Context())
	given := make(chan error, 1)
	go func() {
		_, err := e.Exec(ctx, id, []string{"sh", "-c", "trap '' HUP; echo $$ >/tmp/started; sleep 1000 & sleep 1000"})
		given <- err
	}()
	e.until(func() bool { _, code := e.exec(id, "cat", "/tmp/started"); return code == 0 })
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	e.until(func() bool {
		out, _ := e.exec(id, "ps")
		return strings.Count(out, "sleep 1000") == 1 // the container's own
	})
}

// until looks until something is so.
func (e *env) until(so func() bool) {
	e.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			e.Fatal("not within a minute")
		}
	}
}

// Connections begin inside of the container's network, whatever that is, and leave the process's threads where they were.
func TestDial(t *testing.T) {
	e := newEnv(t)
	const answer = "while :; do echo $HOSTNAME | nc -l -p 4711; done"
	web := e.start(e.bridged("web", answer))
	alone := e.start(e.sh("alone", answer))
	side := e.sh("side", "sleep 1000")
	side.Network = runtime.NetworkContainerPrefix + "web"
	shares := e.start(side)
	host := e.sh("host", "sleep 1000")
	host.Network = runtime.NetworkHost
	server := e.start(host)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, acceptErr := l.Accept()
			if acceptErr != nil {
				return
			}
			_, _ = conn.Write([]byte("server\n"))
			_ = conn.Close()
		}
	}()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, c := range []struct {
		id       runtime.ID
		to, said string
	}{
		{web, ":4711", "web"},
		{web, "127.0.0.1:4711", "web"},
		{web, "localhost:4711", "web"},
		{web, "[::1]:4711", "web"},
		{web, net.JoinHostPort(e.status(web).IP, "4711"), "web"},
		{alone, ":4711", "alone"},
		{shares, ":4711", "web"},
		{server, ":" + port, "server"},
		{server, net.JoinHostPort(e.status(web).IP, "4711"), "web"},
	} {
		e.until(func() bool { // nc listens again
			conn, dialErr := e.Dial(e.within(), c.id, "tcp", c.to)
			if dialErr != nil {
				if !strings.Contains(dialErr.Error(), "refused") {
					t.Fatal(dialErr)
				}
				return false
			}
			defer func() { _ = conn.Close() }()
			got, readErr := io.ReadAll(conn)
			if readErr != nil || len(got) > 0 && strings.TrimSpace(string(got)) != c.said {
				t.Errorf("%s in %s: %q, %v; want %q", c.to, c.id, got, readErr, c.said)
			}
			return len(got) > 0
		})
	}
	if _, err = e.Dial(e.within(), alone, "tcp", ":"+port); err == nil {
		t.Error("a container without a network reaches the server's")
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if ns, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && ns != own {
			t.Errorf("thread %s is in %s, not %s", task.Name(), ns, own)
		}
	}
}

// An attempt to connect ends with its context, and there is nothing to connect to in a container that ended.
func TestDialGivesUp(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.bridged("web", "sleep 1000"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	// TEST-NET-1: nobody answers, or no way leads there.
	if _, err := e.Dial(ctx, id, "tcp", "192.0.2.1:9"); err == nil {
		t.Error("connected")
	}
	for _, bad := range []string{"", "web", "127.0.0.1:http", "127.0.0.1:0", "127.0.0.1:65536"} {
		if _, err := e.Dial(t.Context(), id, "tcp", bad); err == nil {
			t.Errorf("%q: connected", bad)
		}
	}
	if err := e.Stop(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Dial(t.Context(), id, "tcp", "127.0.0.1:80"); !errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("after its end: %v", err)
	}
}

// Who calls a port where nobody listens may get that very port for itself, and would be connected with itself.
func TestDialIsNotConnectedWithItself(t *testing.T) {
	e := newEnv(t)
	spec := e.bridged("web", "sleep 1000")
	spec.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "4713 4713"}
	id := e.start(spec)
	for _, to := range []string{":4713", "127.0.0.1:4713"} {
		if conn, err := e.Dial(e.within(), id, "tcp", to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: connected with %v, %v", to, conn, err)
		}
	}
}

// A datagram has a way there and back: here to the name server and from it.
func TestDialUDP(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.bridged("web", "sleep 1000"))
	conf, _ := e.exec(id, "cat", "/etc/resolv.conf")
	server := strings.TrimSpace(strings.TrimPrefix(conf, "nameserver "))
	conn, err := e.Dial(e.within(), id, "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	answer, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion("web.default.", dns.TypeA), &dns.Conn{Conn: conn})
	if err != nil || len(answer.Answer) != 1 {
		t.Errorf("%v, %v", answer, err)
	}
}

func TestSignalReachesProcess1(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.sh("web", "trap 'echo again' HUP; echo ready; while :; do sleep 0.1; done"))
	e.said(id, "ready")
	for _, name := range []string{"SIGHUP", "HUP", "1"} {
		if err := e.Signal(t.Context(), id, name); err != nil {
			t.Fatal(err)
		}
	}
	e.said(id, "again")
	if err := e.Signal(t.Context(), id, "SIGNOTHING"); err == nil || errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("no such signal: %v", err)
	}
	if st := e.status(id); st.Pid == 0 || st.Starts != 1 {
		t.Errorf("status %+v", st)
	}
}
