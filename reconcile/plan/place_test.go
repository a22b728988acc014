package plan_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// running returns the sum of what containers that run request.
func running(w *world) plan.Amounts {
	return requests(w, func(s runtime.Status, _ manifest.Workload) bool { return s.State == runtime.StateRunning })
}

// setAside returns the sum of what containers request that run or are started again, leaving out one name.
func setAside(w *world, but manifest.Name) plan.Amounts {
	return requests(w, func(s runtime.Status, of manifest.Workload) bool {
		policy := of.Spec.RestartPolicy
		ended := s.State == runtime.StateExited && !s.Stopped &&
			(policy == manifest.RestartNever || policy == manifest.RestartOnFailure && *s.ExitCode == 0)
		return !ended && of.Name != but
	})
}

func requests(w *world, counts func(runtime.Status, manifest.Workload) bool) (sum plan.Amounts) {
	for _, s := range w.list() {
		of, err := manifest.DecodeWorkload(s.Spec.Origin)
		if err != nil {
			w.t.Fatal(err)
		}
		if !counts(s, of) {
			continue
		}
		r := plan.RequestedBy(of)
		sum.CPUMillis, sum.Memory = sum.CPUMillis+r.CPUMillis, sum.Memory+r.Memory
	}
	return sum
}

// TestNeverMoreThanThereIs starts, changes and ends containers that want more room and more ports than the server has, in
// any order that plans allow. What runs never has more, no step fails for a port, and nobody waits for room that is there.
func TestNeverMoreThanThereIs(t *testing.T) {
	free := plan.Amounts{CPUMillis: 900, Memory: 9 << 20}
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.in.Facts.Capacity = plan.Amounts{CPUMillis: 1000, Memory: 10 << 20}
		w.in.Policy.Reserve = plan.Amounts{CPUMillis: 100, Memory: 1 << 20}
		order := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 0))
		w.mix = func(steps []plan.Step) { order.Shuffle(len(steps), reflect.Swapper(steps)) }
		w.did = func(s plan.Step, err error) {
			if err != nil {
				rt.Fatalf("%s %s: %v", s.Op, s.Name, err)
			}
			if has := running(w); has.CPUMillis > free.CPUMillis || has.Memory > free.Memory {
				rt.Fatalf("after %s %s what runs has %+v of %+v", s.Op, s.Name, has, free)
			}
		}
		for commit := range rapid.IntRange(1, 5).Draw(rt, "commits") {
			hash := fmt.Sprintf("%040x", commit+1)
			w.want(hash, greedy(rt)...)
			w.in.Approved[hash] = true
			for _, s := range w.list() {
				switch rapid.IntRange(0, 4).Draw(rt, "disturbance") {
				case 0:
					w.rt.Exit(s.ID, rapid.IntRange(0, 1).Draw(rt, "code"))
				case 1:
					w.in.History[manifest.Name(s.Spec.Name)] = plan.History{Restart: true}
				}
			}
			p := w.settle(func(p plan.Plan) { lawful(rt, w, p) })
			for _, h := range p.Held {
				if h.Reason != plan.ReasonInsufficient {
					continue
				}
				for _, v := range w.in.Desired.Workloads {
					has, want := setAside(w, v.Name), plan.RequestedBy(v)
					if v.Name == h.Name && has.CPUMillis+want.CPUMillis <= free.CPUMillis && has.Memory+want.Memory <= free.Memory {
						rt.Fatalf("%s is held for want of room and there is some: %s", h.Name, render(p))
					}
				}
			}
		}
	})
}

// greedy draws workloads that do not all fit, with ports that each is alone to want.
func greedy(t *rapid.T) []manifest.Workload {
	ports := rapid.Permutation([]int64{80, 81, 82, 83, 84, 85}).Draw(t, "ports")
	var list []manifest.Workload
	for i := range 6 {
		if rapid.IntRange(0, 3).Draw(t, "present") == 0 {
			continue
		}
		cpu, memory := manifest.MilliCPU(rapid.IntRange(0, 4).Draw(t, "cpu")*100), manifest.Bytes(rapid.IntRange(0, 4).Draw(t, "memory")<<20)
		spec := manifest.Spec{
			Image:         rapid.SampledFrom([]string{"example.com/app:1", "example.com/app:2"}).Draw(t, "image"),
			RestartPolicy: rapid.SampledFrom([]manifest.RestartPolicy{"", manifest.RestartOnFailure, manifest.RestartNever}).Draw(t, "policy"),
			Resources:     &manifest.Resources{Requests: &manifest.Requests{CPU: &cpu}, Limits: &manifest.Limits{Memory: &memory}},
		}
		if rapid.Bool().Draw(t, "published") {
			spec.Ports = []manifest.Port{{ContainerPort: 80, HostPort: &ports[i]}}
		}
		for _, before := range list {
			if rapid.IntRange(0, 4).Draw(t, "depends") == 0 {
				spec.DependsOn = append(spec.DependsOn, manifest.Dependency{Name: before.Name.Name})
			}
		}
		list = append(list, workload(named(fmt.Sprintf("c%d", i)), spec))
	}
	return list
}
