package network_test

import (
	"fmt"
	"testing"

	"reconciler/runtime"
	"reconciler/runtime/network"
)

// beside are how many others are there: what one costs must not grow with their number.
var beside = []int{10, 100, 500}

// full has what makes an instance large: containers with an interface and a published port each.
func full(b *testing.B, n int) *env {
	e := newEnv(b)
	for i := range n {
		e.publish(e.container(fmt.Sprintf("c%d", i)), tcp(uint16(10000+i), 80))
	}
	return e
}

// attachOne is what a start asks for.
func (e *env) attachOne(id runtime.ID, ns space, limits network.Limits, ports ...runtime.Port) {
	l, err := e.bridge.Lease(background, id, runtime.Name{Name: "x"}, nil)
	must(e.t, err)
	must(e.t, e.bridge.Attach(background, l, ns.file, limits))
	must(e.t, e.bridge.Publish(background, id, ports))
}

func BenchmarkAttach(b *testing.B) {
	for _, n := range beside {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			e := full(b, n)
			ns := newSpace(b)
			for i := 0; b.Loop(); i++ {
				id := runtime.ID(fmt.Sprintf("x%d", i))
				e.attachOne(id, ns, network.Limits{})
				b.StopTimer()
				must(b, e.bridge.Release(background, id))
				b.StartTimer()
			}
		})
	}
	b.Run("limited, published", func(b *testing.B) {
		e := full(b, 10)
		ns := newSpace(b)
		for i := 0; b.Loop(); i++ {
			id := runtime.ID(fmt.Sprintf("x%d", i))
			e.attachOne(id, ns, network.Limits{Ingress: 1_000_000_000, Egress: 1_000_000_000}, tcp(9999, 80))
			b.StopTimer()
			must(b, e.bridge.Release(background, id))
			b.StartTimer()
		}
	})
}

func BenchmarkRelease(b *testing.B) {
	for _, n := range beside {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			e := full(b, n)
			ns := newSpace(b)
			for i := 0; b.Loop(); i++ {
				id := runtime.ID(fmt.Sprintf("x%d", i))
				b.StopTimer()
				e.attachOne(id, ns, network.Limits{})
				b.StartTimer()
				must(b, e.bridge.Release(background, id))
			}
		})
	}
}

// At rest nothing is changed, and the look must be cheap.
func BenchmarkRepair(b *testing.B) {
	for _, n := range beside {
		b.Run(fmt.Sprintf("beside %d", n), func(b *testing.B) {
			e := full(b, n)
			for b.Loop() {
				if done := e.repair(); len(done) > 0 {
					b.Fatal(done)
				}
			}
		})
	}
}
