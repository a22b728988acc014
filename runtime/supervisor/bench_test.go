package supervisor

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// pss returns the proportional set size of a process in bytes: its own memory and its part of what it shares.
func pss(t testing.TB, pid int) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no Pss")
	return 0
}

// BenchmarkStart measures a container's start, two at a time, and what 100 of them cost the supervisor.
func BenchmarkStart(b *testing.B) {
	e := newEnv(b)
	v, err := e.c.Version(e.ctx())
	if err != nil {
		b.Fatal(err)
	}
	empty := pss(b, v.Pid)
	const count = 100
	reqs := make([]StartRequest, count)
	for i := range reqs {
		id := fmt.Sprint("c", i)
		reqs[i] = e.bundle(id, e.spec(id, "sleep", "100000"))
	}
	for b.Loop() {
		began := time.Now()
		var wg sync.WaitGroup
		next := make(chan StartRequest)
		for range 2 {
			wg.Go(func() {
				for req := range next {
					if _, err := e.c.Start(e.ctx(), req, nil); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for _, req := range reqs {
			next <- req
		}
		close(next)
		wg.Wait()
		b.ReportMetric(float64(time.Since(began).Milliseconds())*2/count, "ms/start")
		full := pss(b, v.Pid)
		b.ReportMetric(float64(full)/1e6, "MB-pss")
		b.ReportMetric(float64(full-empty)/count/1e3, "kB-pss/container")
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", v.Pid))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(threads)), "threads")
		b.StopTimer()
		for _, req := range reqs {
			if err := e.c.Delete(e.ctx(), req.ID); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
}
