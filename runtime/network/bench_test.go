package network_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// beside are how many others are there: what one costs must not grow with their number.
var beside = []int{10, 100, 500}

// full has what makes an instance large: containers with an interface and a published port each.
func full(b *testing.B, n int) *env {
	e := newEnv(b)
	for i := range n {
		c := e.container(fmt.Sprintf("c%d", i))
		e.publish(c, tcp(uint16(10000+i), 80))
		if i == 0 { // connection tracking remembers something, as it does on every server
			c.serve(b, "c0", "tcp", 80)
			answer, err := ask("tcp", "127.0.0.1:10000", patience)
			want(b, "to a published port", answer, err, "c0 "+e.gateway().String())
		}
	}
	return e
}

func (e *env) gateway() netip.Addr {
	g, err := e.bridge.Gateway(background)
	must(e.t, err)
	return g.Address
}

// attachOne is what a start asks for.
func (e *env) attachOne(id runtime.ID, ns space, limits network.Limits, ports ...runtime.Port) {
	l, err := e.bridge.Lease(background, id, runtime.Name{Name: "x"}, nil)
	must(e.t, err)
	_, err = e.bridge.Gateway(background)
	must(e.t, err)
	must(e.t, e.bridge.Attach(background, l, ns.file, limits))
	must(e.t, e.bridge.Publish(background, id, ports))
}

// metered runs what is measured with something before and behind it that is not. Beside the time, which others on the
// machine stretch, it reports the processor's time of this process.
func metered(b *testing.B, before, measured, after func(id runtime.ID)) {
	var spent time.Duration
	for i := 0; b.Loop(); i++ {
		id := runtime.ID(fmt.Sprintf("x%d", i))
		b.StopTimer()
		before(id)
		begun := processorTime(b)
		b.StartTimer()
		measured(id)
		b.StopTimer()
		spent += processorTime(b) - begun
		after(id)
		b.StartTimer()
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(b.N), "cpu-µs/op")
}

func processorTime(t testing.TB) time.Duration {
	var u unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func nothing(runtime.ID) {}

func BenchmarkAttach(b *testing.B) {
	run := func(name string, n int, limits network.Limits, ports ...runtime.Port) {
		b.Run(name, func(b *testing.B) {
			e, ns := full(b, n), newSpace(b)
			metered(b, nothing,
				func(id runtime.ID) { e.attachOne(id, ns, limits, ports...) },
				func(id runtime.ID) { must(b, e.bridge.Release(background, id)) })
		})
	}
	for _, n := range beside {
		run(fmt.Sprintf("beside %d", n), n, network.Limits{})
	}
	run("published beside 500", 500, network.Limits{}, tcp(9999, 80))
	run("limited and published", 10, network.Limits{Ingress: 1_000_000_000, Egress: 1_000_000_000}, tcp(9999, 80))
}

// What a server costs that starts many at once, each address.
func BenchmarkLeaseTogether(b *testing.B) {
	const many = 8
	e := full(b, 50)
	each := func(id runtime.ID, do func(id runtime.ID) error) {
		var all sync.WaitGroup
		for i := range many {
			all.Go(func() {
				if err := do(runtime.ID(fmt.Sprintf("%s-%d", id, i))); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}
	metered(b, nothing, func(id runtime.ID) {
		each(id, func(id runtime.ID) error {
			_, err := e.bridge.Lease(background, id, runtime.Name{Name: string(id)}, nil)
			return err
		})
	}, func(id runtime.ID) {
		each(id, func(id runtime.ID) error { return e.bridge.Release(background, id) })
	})
}

func BenchmarkRelease(b *testing.B) {
	for _, n := range beside {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			e, ns := full(b, n), newSpace(b)
			metered(b,
				func(id runtime.ID) { e.attachOne(id, ns, network.Limits{}) },
				func(id runtime.ID) { must(b, e.bridge.Release(background, id)) }, nothing)
		})
	}
}

// What a server costs that takes many away at once, each.
func BenchmarkReleaseTogether(b *testing.B) {
	const many = 50
	e, ns := full(b, 50), make([]space, many)
	for i := range ns {
		ns[i] = newSpace(b)
	}
	metered(b, func(id runtime.ID) {
		for i := range ns {
			e.attachOne(runtime.ID(fmt.Sprintf("%s-%d", id, i)), ns[i], network.Limits{})
		}
	}, func(id runtime.ID) {
		var all sync.WaitGroup
		for i := range ns {
			all.Go(func() {
				if err := e.bridge.Release(background, runtime.ID(fmt.Sprintf("%s-%d", id, i))); err != nil {
					b.Error(err)
				}
			})
		}
		all.Wait()
	}, nothing)
}

// At rest nothing is changed, and the look must be cheap.
func BenchmarkRepair(b *testing.B) {
	for _, n := range beside {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			e := full(b, n)
			metered(b, nothing, func(runtime.ID) {
				if done := e.repair(); len(done) > 0 {
					b.Fatal(done)
				}
			}, nothing)
		})
	}
}
