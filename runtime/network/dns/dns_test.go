package dns_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime/network/dns"
)

const inNamespace = "RECONCILER_TEST_DNS_NAMESPACE"

// TestMain runs the tests in a network namespace of their own: they need port 53.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(inNamespace) != "" {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
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

// Where things are in these tests: all of 127.0.0.0/8 is this namespace's.
var (
	server   = netip.MustParseAddr("127.0.0.1")
	upstream = netip.MustParseAddr("127.0.1.1")
	web      = netip.MustParseAddr("127.0.0.10")
	db       = netip.MustParseAddr("127.0.0.11")
	stranger = netip.MustParseAddr("127.0.0.12") // in another namespace
	outside  = netip.MustParseAddr("127.9.9.9")
	web6     = netip.MustParseAddr("fd00::10")
)

func names() dns.Names {
	return dns.Names{
		Listen: []netip.Addr{server}, Sources: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/24"), netip.MustParsePrefix("fd00::/64")},
		Containers: []dns.Container{
			{Namespace: "shop", Name: "web", Addresses: []netip.Addr{web, web6}},
			{Namespace: "shop", Name: "db", Addresses: []netip.Addr{db}},
			{Namespace: "shop", Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.13")}, Hidden: true},
			{Namespace: "other", Name: "web", Addresses: []netip.Addr{stranger}},
		},
	}
}

type env struct {
	t      testing.TB
	path   string
	resolv string
}

// start runs a server until the test ends.
func start(t testing.TB, n *dns.Names) *env {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	e := &env{t: t, path: filepath.Join(dir, "names.json"), resolv: filepath.Join(dir, "resolv.conf")}
	e.resolvConf("nameserver " + upstream.String())
	if n != nil {
		e.write(*n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := dns.New(dns.Config{NamesFile: e.path, ResolvConf: e.resolv, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *env) write(n dns.Names) {
	e.t.Helper()
	if err := dns.WriteNames(e.path, n); err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) resolvConf(content string) {
	e.t.Helper()
	temp := e.resolv + ".new"
	if err := os.WriteFile(temp, []byte(content+"\n"), 0o600); err != nil {
		e.t.Fatal(err)
	}
	if err := os.Rename(temp, e.resolv); err != nil {
		e.t.Fatal(err)
	}
}

// askAt asks a server; a refused question is asked again, as a server that starts has no event to wait for.
func askAt(at, from netip.Addr, protocol, name string, kind uint16, wait time.Duration) (*mdns.Msg, error) {
	var local net.Addr = &net.UDPAddr{IP: from.AsSlice()}
	if protocol == "tcp" {
		local = &net.TCPAddr{IP: from.AsSlice()}
	}
	c := &mdns.Client{Net: protocol, Timeout: wait, Dialer: &net.Dialer{LocalAddr: local, Timeout: wait}}
	q := new(mdns.Msg).SetQuestion(name, kind)
	deadline := time.Now().Add(wait)
	for {
		r, _, err := c.Exchange(q, netip.AddrPortFrom(at, 53).String())
		if !errors.Is(err, unix.ECONNREFUSED) || time.Now().After(deadline) {
			return r, err
		}
		goruntime.Gosched()
	}
}

const patience, impatience = 10 * time.Second, 200 * time.Millisecond

// said is an answer in one line: code, and data of its records.
func said(r *mdns.Msg, err error) string {
	if err != nil {
		return err.Error()
	}
	words := []string{mdns.RcodeToString[r.Rcode]}
	for _, rr := range r.Answer {
		words = append(words, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(words, " ")
}

// serveUpstream is this server's own nameserver: it knows every name that begins with "known".
func serveUpstream(t testing.TB, at netip.Addr, handler mdns.HandlerFunc) {
	t.Helper()
	for _, protocol := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		s := &mdns.Server{Addr: netip.AddrPortFrom(at, 53).String(), Net: protocol, Handler: handler, NotifyStartedFunc: func() { close(started) }}
		go func() { _ = s.ListenAndServe() }()
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
}

func known(w mdns.ResponseWriter, q *mdns.Msg) {
	r := new(mdns.Msg).SetReply(q)
	switch name := q.Question[0].Name; {
	case strings.HasPrefix(name, "large"):
		for i := range 100 {
			r.Answer = append(r.Answer, &mdns.A{
				Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeA, Class: mdns.ClassINET}, A: net.IPv4(192, 0, 2, byte(i)),
			})
		}
		if w.RemoteAddr().Network() == "udp" {
			r.Truncate(mdns.MinMsgSize)
		}
	case strings.HasPrefix(name, "known"):
		r.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: name, Rrtype: mdns.TypeA, Class: mdns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}}
	default:
		r.Rcode = mdns.RcodeNameError
	}
	_ = w.WriteMsg(r)
}

func TestAnswers(t *testing.T) {
	n := names()
	start(t, &n)
	serveUpstream(t, upstream, known)
	const a, aaaa, ptr, mx, any = mdns.TypeA, mdns.TypeAAAA, mdns.TypePTR, mdns.TypeMX, mdns.TypeANY
	for _, c := range []struct {
		what string
		from netip.Addr
		name string
		kind uint16
		want string
	}{
		{"a neighbour", web, "db.", a, "NOERROR 127.0.0.11"},
		{"itself, without the one that is not ready", db, "web.", a, "NOERROR 127.0.0.10"},
		{"by IPv6", db, "web.", aaaa, "NOERROR fd00::10"},
		{"upper case", db, "WeB.", a, "NOERROR 127.0.0.10"},
		{"a type that it has not", web, "db.", aaaa, "NOERROR"},
		{"a type that nobody has", web, "db.", mx, "NOERROR"},
		{"all types", db, "web.", any, "NOERROR 127.0.0.10 fd00::10"},
		{"with the namespace", web, "web.other.", a, "NOERROR 127.0.0.12"},
		{"its own namespace's", stranger, "web.", a, "NOERROR 127.0.0.12"},
		{"not another namespace's", stranger, "db.", a, "NXDOMAIN"},
		{"from another namespace with it", stranger, "db.shop.", a, "NOERROR 127.0.0.11"},
		{"one that is not ready asks too", netip.MustParseAddr("127.0.0.13"), "db.", a, "NOERROR 127.0.0.11"},
		{"somebody on the bridge without a name", netip.MustParseAddr("127.0.0.99"), "db.", a, "NXDOMAIN"},
		{"by address", web, "11.0.0.127.in-addr.arpa.", ptr, "NOERROR db.shop."},
		{"by IPv6 address", web, "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, "NOERROR web.shop."},
		{"an address of the bridge that nobody has", web, "77.0.0.127.in-addr.arpa.", ptr, "NXDOMAIN"},
		{"an IPv6 address of the bridge that nobody has", web, "1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, "NXDOMAIN"},
		{"the world", web, "known.example.", a, "NOERROR 192.0.2.1"},
		{"what the world has not", web, "unknown.example.", a, "NXDOMAIN"},
	} {
		for _, protocol := range []string{"udp", "tcp"} {
			if got := said(askAt(server, c.from, protocol, c.name, c.kind, patience)); got != c.want {
				t.Errorf("%s by %s: %q, want %q", c.what, protocol, got, c.want)
			}
		}
	}
	if r, err := askAt(server, outside, "udp", "db.shop.", a, impatience); err == nil {
		t.Errorf("from outside: %s", said(r, err))
	}
	if r, err := askAt(server, outside, "tcp", "known.example.", a, impatience); err == nil {
		t.Errorf("from outside by TCP: %s", said(r, err))
	}
}

func TestLargeAnswersComeByTCP(t *testing.T) {
	n := names()
	start(t, &n)
	serveUpstream(t, upstream, known)
	r, err := askAt(server, web, "udp", "large.example.", mdns.TypeA, patience)
	if err != nil || !r.Truncated || len(r.Answer) >= 100 {
		t.Errorf("by UDP: %v, %v: want a short answer that says it is cut", r, err)
	}
	if r, err = askAt(server, web, "tcp", "large.example.", mdns.TypeA, patience); err != nil || len(r.Answer) != 100 {
		t.Errorf("by TCP: %s", said(r, err))
	}
}

func TestTheNextNameserverAnswers(t *testing.T) {
	n := names()
	e := start(t, &n)
	failing := netip.MustParseAddr("127.0.1.2")
	serveUpstream(t, failing, func(w mdns.ResponseWriter, q *mdns.Msg) {
		_ = w.WriteMsg(new(mdns.Msg).SetRcode(q, mdns.RcodeServerFailure))
	})
	serveUpstream(t, upstream, known)
	closed, itself := "127.0.1.3", server.String()
	e.resolvConf(fmt.Sprintf("nameserver %s\nnameserver %s\nnameserver %s", itself, closed, failing))
	if got := said(askAt(server, web, "udp", "known.example.", mdns.TypeA, patience)); got != "SERVFAIL" {
		t.Errorf("only bad ones: %q", got)
	}
	// It is read again when it was replaced.
	e.resolvConf(fmt.Sprintf("nameserver %s\nnameserver %s\nnameserver %s", closed, failing, upstream))
	if got := said(askAt(server, web, "udp", "known.example.", mdns.TypeA, patience)); got != "NOERROR 192.0.2.1" {
		t.Errorf("a good one among bad ones: %q", got)
	}
	e.resolvConf("")
	if err := os.Remove(e.resolv); err != nil {
		t.Fatal(err)
	}
	if got := said(askAt(server, web, "udp", "db.", mdns.TypeA, patience)); got != "NOERROR 127.0.0.11" {
		t.Errorf("own names without any: %q", got)
	}
}

// Names appear, change and go with the file, and so do the addresses that are listened on; a broken one changes nothing.
func TestFollowsTheNamesFile(t *testing.T) {
	e := start(t, nil)
	n := names()
	e.write(n)
	if got := said(askAt(server, web, "udp", "db.", mdns.TypeA, patience)); got != "NOERROR 127.0.0.11" {
		t.Fatalf("after it appeared: %q", got)
	}
	n.Containers[1].Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.21")}
	e.write(n)
	if got := said(askAt(server, web, "udp", "db.", mdns.TypeA, patience)); got != "NOERROR 127.0.0.21" {
		t.Errorf("after an address changed: %q", got)
	}
	if err := os.WriteFile(e.path+".bad", []byte("{garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(e.path+".bad", e.path); err != nil {
		t.Fatal(err)
	}
	if got := said(askAt(server, web, "udp", "db.", mdns.TypeA, patience)); got != "NOERROR 127.0.0.21" {
		t.Errorf("with a broken file: %q", got)
	}
	second := netip.MustParseAddr("127.0.0.2")
	// An address that is nobody's yet is no reason not to answer on the others.
	n.Listen = []netip.Addr{netip.MustParseAddr("203.0.113.1"), second}
	e.write(n)
	if got := said(askAt(second, web, "tcp", "db.", mdns.TypeA, patience)); got != "NOERROR 127.0.0.21" {
		t.Errorf("on another address: %q", got)
	}
}

// One container whose questions hang does not take the names of another.
func TestOneContainerCannotTakeAllPlaces(t *testing.T) {
	n := names()
	start(t, &n)
	hang := make(chan struct{})
	arrived := make(chan struct{}, 1000)
	serveUpstream(t, upstream, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "hang") {
			arrived <- struct{}{}
			<-hang
		}
		known(w, q)
	})
	defer close(hang)
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: stranger.AsSlice()}, &net.UDPAddr{IP: server.AsSlice(), Port: 53})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got := said(askAt(server, web, "udp", "db.", mdns.TypeA, patience)); got != "NOERROR 127.0.0.11" {
		t.Fatal(got)
	}
	for i := range 64 {
		q, err := new(mdns.Msg).SetQuestion(fmt.Sprintf("hang%d.example.", i), mdns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(q); err != nil {
			t.Fatal(err)
		}
		<-arrived
	}
	if got := said(askAt(server, stranger, "udp", "known.example.", mdns.TypeA, patience)); got != "SERVFAIL" {
		t.Errorf("the container itself: %q", got)
	}
	if got := said(askAt(server, web, "udp", "known.example.", mdns.TypeA, patience)); got != "NOERROR 192.0.2.1" {
		t.Errorf("another container: %q", got)
	}
}

func BenchmarkAnswer(b *testing.B) {
	n := names()
	for i := range 200 {
		n.Containers = append(n.Containers, dns.Container{
			Namespace: "shop", Name: fmt.Sprintf("c%d", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, byte(20 + i)})},
		})
	}
	start(b, &n)
	for b.Loop() {
		if got := said(askAt(server, web, "udp", "c100.", mdns.TypeA, patience)); got != "NOERROR 127.0.0.120" {
			b.Fatal(got)
		}
	}
}

// Another server goes on with the sockets of one that ended: who asked in between is answered, by UDP and TCP.
func TestInheritedSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "names.json")
	if err := dns.WriteNames(path, names()); err != nil {
		t.Fatal(err)
	}
	serve := func(sockets []*os.File) (s *dns.Server, end func()) {
		s = dns.New(dns.Config{NamesFile: path, Sockets: sockets, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		return s, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	first, end := serve(nil)
	if _, err := askAt(server, web, "udp", "db.shop.", mdns.TypeA, time.Minute); err != nil {
		t.Fatal(err)
	}
	sockets := first.Sockets()
	end()
	if len(sockets) != 2 {
		t.Fatalf("%d sockets", len(sockets))
	}
	type answer struct {
		r   *mdns.Msg
		err error
	}
	answers := make(chan answer, 2)
	for _, protocol := range []string{"udp", "tcp"} {
		at := netip.AddrPortFrom(server, 53).String()
		conn, err := (&net.Dialer{}).DialContext(t.Context(), protocol, at)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		dc := &mdns.Conn{Conn: conn}
		if err := dc.WriteMsg(new(mdns.Msg).SetQuestion("db.shop.", mdns.TypeA)); err != nil {
			t.Fatal(err)
		}
		go func() {
			r, err := dc.ReadMsg()
			answers <- answer{r, err}
		}()
	}
	_, end = serve(sockets)
	defer end()
	for range 2 {
		if a := <-answers; a.err != nil || len(a.r.Answer) != 1 {
			t.Errorf("asked meanwhile: %v, %v", a.r, a.err)
		}
	}
}
