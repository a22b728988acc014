package linux_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"reconciler/runtime"
)

// bridged is a container of the busybox image with an address of its own.
func (e *env) bridged(name, script string) runtime.Spec {
	spec := e.sh(name, script)
	spec.Network = runtime.NetworkBridge
	return spec
}

// freePort is a TCP port of this server that nobody has now.
func freePort(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// get is what a web server at address says; empty where none answers.
func get(t testing.TB, address string) string {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + address + "/") //nolint:noctx // it has a timeout
	if err != nil {
		t.Log(err)
		return ""
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

// serve says who it is to everybody who asks; it listens once that is said.
const serve = `mkdir -p /srv; echo "$HOSTNAME says hello" >/srv/index.html; busybox httpd -p 80 -h /srv && echo listening; sleep 1000`

// Containers are known by addresses and names of their own, to each other and to the server.
func TestBridge(t *testing.T) {
	e := newEnv(t)
	port := freePort(t)
	web := e.bridged("web", serve)
	web.Ports = []runtime.Port{{HostPort: port, ContainerPort: 80, Protocol: "TCP"}}
	id := e.start(web)
	e.said(id, "listening")
	st := e.status(id)
	client := e.start(e.bridged("client", "sleep 1000"))
	other := e.status(client)
	if st.IP == "" || st.MAC == "" || st.IP == other.IP || st.MAC == other.MAC || st.FirstID == 0 {
		t.Errorf("web is %s %s, the client %s %s", st.IP, st.MAC, other.IP, other.MAC)
	}
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", port)); got != "web says hello\n" {
		t.Errorf("through the published port: %q", got)
	}
	for _, name := range []string{"web", "web.default", st.IP} {
		if out, code := e.exec(client, "sh", "-c", "busybox wget -q -O - http://"+name+"/"); out != "web says hello\n" || code != 0 {
			t.Errorf("%s from a neighbour: %q, %d", name, out, code)
		}
	}
	out, _ := e.exec(id, "sh", "-c", "ip -o addr; cat /etc/hosts /etc/resolv.conf; ip route")
	e.expect(out, "inet "+st.IP+"/", "127.0.0.1/8", st.IP+"\tweb\n", "nameserver ", "default via ")

	// Another start has the same address, and so has the next container of the name.
	e.restart(id)
	e.said(id, "listening")
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", port)); got != "web says hello\n" || e.status(id).IP != st.IP {
		t.Errorf("after a restart at %s: %q", e.status(id).IP, got)
	}
	if err := e.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", port)); got != "" {
		t.Error("the port is open after the removal")
	}
	if again := e.start(web); e.status(again).IP != st.IP {
		t.Errorf("the successor has %s, not %s", e.status(again).IP, st.IP)
	}
}

// Ports and bandwidth change on the running container.
func TestNetworkChangesInPlace(t *testing.T) {
	e := newEnv(t)
	first, second := freePort(t), freePort(t)
	spec := e.bridged("web", serve)
	spec.Ports = []runtime.Port{{HostPort: first, ContainerPort: 80, Protocol: "TCP"}}
	id := e.start(spec)
	e.said(id, "listening")
	pid := e.status(id).Pid
	spec.Ports = []runtime.Port{{HostPort: second, ContainerPort: 80, Protocol: "TCP"}}
	spec.Limits.Egress = 10_000_000
	if err := e.Update(t.Context(), id, spec); err != nil {
		t.Fatal(err)
	}
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", second)); got != "web says hello\n" || e.status(id).Pid != pid {
		t.Errorf("got %q", got)
	}
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", first)); got != "" {
		t.Error("the old port is still open")
	}
	for allow, may := range map[string]bool{"192.0.2.0/24": false, "127.0.0.0/8": true} {
		spec.Ports = []runtime.Port{{HostPort: second, ContainerPort: 80, Protocol: "TCP", Allow: []netip.Prefix{netip.MustParsePrefix(allow)}}}
		if err := e.Update(t.Context(), id, spec); err != nil {
			t.Fatal(err)
		}
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", second), 10*time.Second)
		if err == nil {
			_ = conn.Close()
		}
		if (err == nil) != may || e.status(id).Pid != pid || e.status(id).Starts != 1 {
			t.Errorf("allowed from %s: %v", allow, err)
		}
	}
}

// Who shares a network has its addresses, its names and its users; without the other it does not start.
func TestSharedNetwork(t *testing.T) {
	e := newEnv(t)
	side := e.sh("side", "sleep 1000")
	side.Network = runtime.NetworkContainerPrefix + "web"
	orphan := e.create(side)
	err := e.Start(t.Context(), orphan)
	if runtime.ReasonOf(err) != runtime.ReasonDependencyNotReady || runtime.IsPermanent(err) {
		t.Errorf("alone: %v", err)
	}
	web := e.start(e.bridged("web", serve))
	e.said(web, "listening")
	if err = e.Start(t.Context(), orphan); err != nil {
		t.Fatal(err)
	}
	a, b := e.status(web), e.status(orphan)
	if a.IP != b.IP || a.MAC != b.MAC || a.FirstID != b.FirstID || e.hostUID(orphan) != a.FirstID {
		t.Errorf("web %+v, side %+v", a, b)
	}
	if b.Shares == nil || *b.Shares != (runtime.StartOf{ID: web, Starts: 1}) {
		t.Errorf("it shares the network of %+v", b.Shares)
	}
	if out, code := e.exec(orphan, "sh", "-c", "busybox wget -q -O - http://127.0.0.1/; hostname"); out != "web says hello\nside\n" || code != 0 {
		t.Errorf("inside: %q", out)
	}
}

// Who must have user ids of its own does not get the server's by way of the network that it shares; who need not is told.
func TestSharedNetworkOfTheServersUsers(t *testing.T) {
	e := newEnv(t)
	web := e.bridged("web", "sleep 1000")
	web.Security.HostUsers = new(true)
	e.start(web)
	side := e.sh("side", "sleep 1000")
	side.Network = runtime.NetworkContainerPrefix + "web"
	id := e.start(side)
	if st := e.status(id); st.FirstID != 0 || !strings.Contains(strings.Join(st.Warnings, "\n"), "the server's user ids") {
		t.Errorf("it has %+v", st)
	}
	side.Security.HostUsers = new(false)
	err := e.Start(t.Context(), e.create(side))
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || runtime.IsPermanent(err) {
		t.Errorf("got %v", err)
	}
}

// Names and servers that a manifest asks for stand in the container's files.
func TestNamesOfTheManifest(t *testing.T) {
	e := newEnv(t)
	for _, network := range []runtime.Network{runtime.NetworkNone, runtime.NetworkBridge, runtime.NetworkHost} {
		spec := e.sh("web-"+string(network), "cat /etc/hosts; cat /etc/resolv.conf")
		spec.Network = network
		spec.ExtraHosts = map[string]string{"printer": "10.1.2.3"}
		spec.DNS = runtime.DNS{Nameservers: []netip.Addr{netip.MustParseAddr("10.9.9.9")}, Search: []string{"example.com"}, Options: []string{"ndots:2"}}
		out, _ := e.run(spec)
		e.expect(out, "10.1.2.3\tprinter\n", "search example.com\nnameserver 10.9.9.9\noptions ndots:2\n")
		if strings.Count(out, "nameserver") != 1 {
			t.Errorf("%s has other name servers too:\n%s", network, out)
		}
	}
}
