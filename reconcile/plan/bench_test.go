package plan_test

import (
	"fmt"
	"testing"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// populated is a world of n workloads of which the first running run unchanged.
func populated(b *testing.B, n, running int) *world {
	b.Helper()
	w := newWorld(b)
	var list []manifest.Workload
	for i := range n {
		spec := manifest.Spec{Image: "example.com/app:1", Env: map[string]manifest.EnvValue{"PORT": {Value: "8080"}}}
		if i > 0 {
			spec.DependsOn = []manifest.Dependency{{Name: fmt.Sprintf("c%05d", i-1)}}
		}
		list = append(list, workload(named(fmt.Sprintf("c%05d", i)), spec))
	}
	w.want("c1", list[:running]...)
	w.apply(w.compute())
	w.want("c2", list...)
	w.in.Observed, w.in.Now, w.in.Lowered = w.list(), w.clock, new(plan.Lowered)
	if got := len(w.in.Observed); got != running {
		b.Fatalf("%d containers run, want %d", got, running)
	}
	for _, s := range w.in.Observed {
		if s.State != runtime.StateRunning {
			b.Fatalf("%s is %s", s.Spec.Name, s.State)
		}
		w.in.History[manifest.Name(s.Spec.Name)] = plan.History{Good: s.ID}
	}
	return w
}

func BenchmarkCompute(b *testing.B) {
	for _, c := range []struct{ workloads, running int }{{100, 100}, {1_000, 1_000}, {10_000, 10_000}, {1_000, 100}, {10_000, 0}} {
		b.Run(fmt.Sprintf("workloads=%d/running=%d", c.workloads, c.running), func(b *testing.B) {
			w := populated(b, c.workloads, c.running)
			b.ReportAllocs()
			for b.Loop() {
				if p := w.computeOnly(); len(p.Steps) != c.workloads-c.running {
					b.Fatalf("%d steps", len(p.Steps))
				}
			}
		})
	}
}
