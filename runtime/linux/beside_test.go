package linux_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// BenchmarkBeside starts and removes a container with everything on beside others that run. It reports what the start, the
// removal, a list, and a look for what is to be repaired cost this process, without the supervisor: what one costs must not
// depend on how many there are.
func BenchmarkBeside(b *testing.B) {
	for _, others := range []int{10, 100, 500} {
		b.Run(fmt.Sprint(others), func(b *testing.B) {
			e := newEnv(b)
			e.crowd(others)
			costs := map[string]*cost{}
			measure := func(what string, do func() error) {
				if costs[what] == nil {
					costs[what] = &cost{}
				}
				if err := costs[what].of(do); err != nil {
					b.Fatalf("%s: %v", what, err)
				}
			}
			spec := e.bridged("one-more", "sleep 100000")
			if _, err := e.prepare(spec); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				var id runtime.ID
				measure("start", func() (err error) {
					if id, err = e.Create(b.Context(), spec); err != nil {
						return err
					}
					return e.Start(b.Context(), id)
				})
				measure("list", func() error { _, err := e.List(b.Context()); return err })
				measure("repair", func() error { _, err := e.Repair(b.Context()); return err })
				measure("remove", func() error {
					if err := e.Stop(b.Context(), id, 0); err != nil {
						return err
					}
					return e.Remove(b.Context(), id)
				})
			}
			for what, c := range costs {
				b.ReportMetric(float64(c.cpu.Microseconds())/1000/float64(len(c.wall)), what+"-cpu-ms")
				b.ReportMetric(float64(median(c.wall).Microseconds())/1000, what+"-ms")
			}
		})
	}
}

// BenchmarkTogether starts 100 containers with everything on, two at a time, and stops and removes them all at once. It reports
// what each of them took, and cost this process.
func BenchmarkTogether(b *testing.B) {
	const n = 100
	var start, remove cost
	for b.Loop() {
		e := newEnv(b)
		_ = start.of(func() error { e.crowd(n); return nil })
		list, err := e.List(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		_ = remove.of(func() error {
			var wg sync.WaitGroup
			for _, st := range list {
				wg.Go(func() {
					if err := errors.Join(e.Stop(b.Context(), st.ID, 0), e.Remove(b.Context(), st.ID)); err != nil {
						b.Errorf("remove %s: %v", st.ID, err)
					}
				})
			}
			wg.Wait()
			return nil
		})
	}
	for what, c := range map[string]*cost{"start": &start, "remove": &remove} {
		each := float64(n * len(c.wall))
		b.ReportMetric(float64(c.cpu.Microseconds())/1000/each, what+"-cpu-ms")
		b.ReportMetric(float64(median(c.wall).Microseconds())/1000/n, what+"-ms")
	}
}

// crowd starts so many containers, two at a time.
func (e *env) crowd(n int) {
	e.Helper()
	names := make(chan string)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for name := range names {
				spec := e.bridged(name, "sleep 100000")
				_, err := e.prepare(spec)
				var id runtime.ID
				if err == nil {
					id, err = e.Create(e.Context(), spec)
				}
				if err == nil {
					err = e.Start(e.Context(), id)
				}
				if err != nil {
					e.Errorf("start %s: %v", name, err)
				}
			}
		})
	}
	for i := range n {
		names <- fmt.Sprintf("other-%d", i)
	}
	close(names)
	wg.Wait()
	if e.Failed() {
		e.FailNow()
	}
}

// cost is what something cost this process and its children, and how long each time took.
type cost struct {
	cpu  time.Duration
	wall []time.Duration
}

func (c *cost) of(do func() error) error {
	begun, before := time.Now(), cpuTime()
	err := do()
	c.wall, c.cpu = append(c.wall, time.Since(begun)), c.cpu+cpuTime()-before
	return err
}

func cpuTime() time.Duration {
	var all time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			all += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return all
}
