package network_test

import (
	"io"
	"math"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"reconciler/runtime/network"
)

// rate measures what a TCP connection makes arrive in another namespace, frames in bits a second, once it has settled.
// The kernel's counter is right also for the moments in which TCP waits for something that was lost.
func rate(t testing.TB, from, to space, address netip.Addr, port uint16) float64 {
	t.Helper()
	var l net.Listener
	must(t, to.do(t, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(address, port).String())
		return err
	}))
	defer func() { _ = l.Close() }()
	var conn net.Conn
	must(t, from.do(t, func() (err error) {
		conn, err = net.DialTimeout("tcp", l.Addr().String(), patience)
		return err
	}))
	defer func() { _ = conn.Close() }()
	end, err := l.Accept()
	must(t, err)
	defer func() { _ = end.Close() }()
	go func() { _, _ = io.Copy(io.Discard, end) }()
	go func() { _, _ = io.Copy(conn, endless{}) }()
	<-time.After(settle)
	start, before := time.Now(), to.received(t)
	<-time.After(measure)
	return float64(to.received(t)-before) * 8 / time.Since(start).Seconds()
}

// received is how many bytes have come in by eth0.
func (s space) received(t testing.TB) (n uint64) {
	t.Helper()
	must(t, s.do(t, func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			n = link.Attrs().Statistics.RxBytes
		}
		return err
	}))
	return n
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// within fails the test where a rate is further from the limit than a tenth.
func within(t testing.TB, what string, got, limit float64) {
	t.Helper()
	if math.Abs(got-limit) > limit/10 {
		t.Errorf("%s: %.2f Mbit/s, want %.2f within a tenth", what, got/1e6, limit/1e6)
	}
	t.Logf("%s: %.2f of %.2f Mbit/s", what, got/1e6, limit/1e6)
}

func TestBandwidthIsLimitedBothWays(t *testing.T) {
	const limit = 4_000_000
	e := newEnv(t)
	a := e.container("a", network.Limits{Ingress: limit, Egress: limit})
	b := e.container("b")
	within(t, "to a neighbour", rate(t, a.space, b.space, b.lease.IP, 1000), limit)
	within(t, "from a neighbour", rate(t, b.space, a.space, a.lease.IP, 1000), limit)
	within(t, "to the world", rate(t, a.space, e.world, netip.MustParseAddr(worldAddress), 1000), limit)
}

// A rate is measured once TCP has found it, and the bucket that was full at first is empty.
const settle, measure = time.Second, 2 * time.Second

func TestBandwidthChangesWhileRunning(t *testing.T) {
	e := newEnv(t)
	a := e.container("a", network.Limits{Ingress: 1_000_000, Egress: 1_000_000})
	b := e.container("b")
	for _, l := range []network.Limits{{Ingress: 2_000_000, Egress: 0}, {Ingress: 0, Egress: 3_000_000}} {
		must(t, e.bridge.Limit(background, a.id, l))
		must(t, e.bridge.Limit(background, a.id, l))
		out, in := rate(t, a.space, b.space, b.lease.IP, 1000), rate(t, b.space, a.space, a.lease.IP, 1000)
		for what, r := range map[string]struct{ got, limit float64 }{"egress": {out, float64(l.Egress)}, "ingress": {in, float64(l.Ingress)}} {
			if r.limit > 0 {
				within(t, what, r.got, r.limit)
			} else if r.got < 20e6 {
				t.Errorf("%s without a limit: %.2f Mbit/s", what, r.got/1e6)
			}
		}
	}
	must(t, e.bridge.Limit(background, a.id, network.Limits{}))
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if l.Type() == "ifb" && l.Attrs().Name != "ifb0" && l.Attrs().Name != "ifb1" {
			t.Errorf("device %s is left after the limit went", l.Attrs().Name)
		}
	}
	if err := e.bridge.Limit(background, "nobody", network.Limits{}); err == nil {
		t.Error("limited what is not attached")
	}
}
