package linux_test

import (
	"fmt"
	"testing"
	"time"

	"reconciler/runtime"
)

// measured is what a container uses now.
func (e *env) measured(id runtime.ID) runtime.Stats {
	e.Helper()
	all, err := e.Stats(e.within())
	if err != nil {
		e.Fatal(err)
	}
	for _, m := range all {
		if m.ID == id {
			return m
		}
	}
	e.Fatalf("%s is not measured", id)
	return runtime.Stats{}
}

func TestStatsTellWhatIsUsed(t *testing.T) {
	const mi = 1 << 20
	e := newEnv(t)
	port := freePort(t)
	spec := e.bridged("web", `
		mkdir -p /srv; head -c 3000000 /dev/zero >/srv/index.html; busybox httpd -p 80 -h /srv; sleep 1000 & sleep 1000 & echo listening
		wait`)
	spec.Ports = []runtime.Port{{HostPort: port, ContainerPort: 80, Protocol: "TCP"}}
	spec.Limits = runtime.Resources{Memory: 256 * mi, Pids: 50, Disk: 64 * mi, Egress: 1_000_000_000}
	limited := e.start(spec)
	free := e.start(e.sh("free", "head -c 5000000 /dev/zero >/tmp/file; ln /tmp/file /tmp/other; echo listening; exec sleep 1000"))
	e.said(limited, "listening")
	e.said(free, "listening")

	first := e.measured(limited)
	if got := get(t, fmt.Sprintf("127.0.0.1:%d", port)); len(got) != 3_000_000 {
		t.Fatalf("got %d bytes", len(got))
	}
	e.exec(limited, "/bin/busybox", "timeout", "1", "sh", "-c", "while :; do :; done")
	m := e.measured(limited)
	if sent, received := m.NetworkSent-first.NetworkSent, m.NetworkReceived-first.NetworkReceived; sent < 3_000_000 || sent > 4_000_000 || received <= 0 || received > 1_000_000 {
		t.Errorf("sent %d and received %d bytes, want the 3,000,000 that were asked for and little", sent, received)
	}
	// On a busy server the loop got less of its second.
	if cpu := m.CPU - first.CPU; cpu < 50*time.Millisecond || cpu > time.Minute {
		t.Errorf("%v of processors", cpu)
	}
	if m.Pids != 4 || m.PidsLimit != 50 || m.MemoryLimit != 256*mi || m.Memory <= 0 || m.Memory > 100*mi {
		t.Errorf("%d processes of %d, memory %d of %d", m.Pids, m.PidsLimit, m.Memory, m.MemoryLimit)
	}
	if m.DiskLimit != 64*mi || m.Disk < 3_000_000 || m.Disk > 5_000_000 {
		t.Errorf("disk %d of %d", m.Disk, m.DiskLimit)
	}
	if m = e.measured(free); m.Disk < 5_000_000 || m.Disk > 6_000_000 || m.DiskLimit != 0 || m.NetworkSent != 0 || m.MemoryLimit != 0 {
		t.Errorf("without limits: %+v", m)
	}
	// Another start begins at nothing.
	e.restart(free)
	if m = e.measured(free); m.CPU > time.Minute {
		t.Errorf("after a restart: %+v", m)
	}
}

// BenchmarkStats is what looking at a hundred containers costs.
func BenchmarkStats(b *testing.B) {
	e := newEnv(b)
	for i := range 100 {
		e.start(e.bridged(fmt.Sprintf("c%d", i), "sleep 100000"))
	}
	for b.Loop() {
		if all, err := e.Stats(b.Context()); err != nil || len(all) != 100 {
			b.Fatal(len(all), err)
		}
	}
}
