package linux_test

import (
	"errors"
	"fmt"
	"net"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netns"

	"reconciler/runtime"
)

// many is how many containers one server should hold without anything getting slower.
const many = 200

// BenchmarkManyContainers starts containers with everything on, one after another: own user ids, bridge, a published
// port, limits. It reports what the creation and start of one costs at the beginning and at the end, what a name costs to
// look up then, and fails where two have the same identity.
func BenchmarkManyContainers(b *testing.B) {
	for b.Loop() {
		e := newEnv(b)
		took := make([]time.Duration, many)
		ids := make([]runtime.ID, many)
		for i := range many {
			spec := e.bridged(fmt.Sprintf("c%d", i), "sleep 100000")
			spec.Limits = runtime.Resources{CPUMillis: 100, Memory: 32 << 20, Pids: 20, Ingress: 10_000_000, Egress: 10_000_000}
			spec.Ports = []runtime.Port{{HostPort: uint16(20_000 + i), ContainerPort: 80, Protocol: "TCP"}}
			if _, err := e.prepare(spec); err != nil {
				b.Fatal(err)
			}
			begun := time.Now()
			id, err := e.Create(b.Context(), spec)
			if err == nil {
				err = e.Start(b.Context(), id)
			}
			took[i], ids[i] = time.Since(begun), id
			if err != nil {
				b.Fatal(err)
			}
		}
		early, late := median(took[5:15]), median(took[many-10:])
		b.ReportMetric(float64(early.Microseconds())/1000, "ms/10th")
		b.ReportMetric(float64(late.Microseconds())/1000, "ms/200th")
		b.ReportMetric(float64(late)/float64(early), "200th/10th")
		e.distinct()
		b.ReportMetric(float64(e.lookup(ids[0]).Microseconds()), "µs/name")
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// distinct fails where two containers share a part of their identity.
func (e *env) distinct() {
	e.Helper()
	list, err := e.List(e.Context())
	if err != nil {
		e.Fatal(err)
	}
	seen := map[string]runtime.Name{}
	for _, st := range list {
		for _, part := range []string{"address " + st.IP, "MAC " + st.MAC, fmt.Sprintf("user ids from %d", st.FirstID), "host name " + st.Hostname} {
			if other, ok := seen[part]; ok || strings.HasSuffix(part, " ") || strings.HasSuffix(part, " 0") {
				e.Errorf("%s and %s have %s", other, st.Spec.Name, part)
			}
			seen[part] = st.Spec.Name
		}
	}
}

// lookup returns the median time that the name of another container costs, asked for in a container's network.
func (e *env) lookup(from runtime.ID) time.Duration {
	e.Helper()
	conf, _ := e.exec(from, "cat", "/etc/resolv.conf")
	server, _, _ := strings.Cut(strings.TrimPrefix(conf, "nameserver "), "\n")
	conn := &dns.Conn{Conn: e.dialFrom(from, "udp4", net.JoinHostPort(server, "53"))}
	defer func() { _ = conn.Close() }()
	took := make([]time.Duration, 101)
	for i := range took {
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("c%d.default.", i), dns.TypeA)
		a, rtt, err := new(dns.Client).ExchangeWithConn(q, conn)
		if took[i] = rtt; err != nil || len(a.Answer) != 1 {
			e.Fatalf("c%d: %v, %v", i, a, err)
		}
	}
	return median(took)
}

// dialFrom opens a socket in a container's network.
func (e *env) dialFrom(id runtime.ID, network, address string) (conn net.Conn) {
	e.Helper()
	ns, err := netns.GetFromPid(e.status(id).Pid)
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = ns.Close() }()
	done := make(chan error)
	go func() {
		goruntime.LockOSThread()
		own, err := netns.Get()
		if err == nil {
			err = netns.Set(ns)
		}
		if err == nil {
			conn, err = net.Dial(network, address) //nolint:noctx // it does not wait
		}
		done <- errors.Join(err, netns.Set(own), own.Close())
		goruntime.UnlockOSThread()
	}()
	if err := <-done; err != nil {
		e.Fatal(err)
	}
	return conn
}
