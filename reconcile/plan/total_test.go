package plan_test

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// TestTotal gives Compute inputs that no agent should ever have: circles, unknown states and kinds, broken origins,
// times from other centuries. It must give a lawful plan all the same.
func TestTotal(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{t: t}
		name := func() manifest.Name {
			return named(fmt.Sprintf("c%d", rapid.IntRange(0, 4).Draw(rt, "name")) + rapid.SampledFrom([]string{"", "", "", "#1", "#2", "#x"}).Draw(rt, "run"))
		}
		when := func() time.Time {
			return now.Add(time.Duration(rapid.Int64Range(-1e18, 1e18).Draw(rt, "time")))
		}
		set := func() manifest.Set {
			out := manifest.Set{
				Revision:  manifest.Revision{Commit: rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "commit")},
				NodeKnown: rapid.IntRange(0, 9).Draw(rt, "known") > 0,
				Node:      manifest.Node{Unschedulable: rapid.IntRange(0, 9).Draw(rt, "unschedulable") == 0},
			}
			for i := range 5 {
				spec := manifest.Spec{Image: rapid.SampledFrom([]string{"", "x", "y"}).Draw(rt, "image"), Network: rapid.SampledFrom([]manifest.Network{"", "none", "bridge", "odd", "container:c0", "container:c3"}).Draw(rt, "network")}
				for range rapid.IntRange(0, 2).Draw(rt, "dependencies") {
					spec.DependsOn = append(spec.DependsOn, manifest.Dependency{Name: rapid.SampledFrom([]string{"c0", "c1", "c2", "c3", "c4", "gone", "a/b/c", ""}).Draw(rt, "on")})
				}
				for range rapid.IntRange(0, 2).Draw(rt, "ports") {
					spec.Ports = append(spec.Ports, manifest.Port{ContainerPort: 1, HostPort: new(rapid.Int64Range(0, 3).Draw(rt, "port"))})
				}
				cpu := manifest.MilliCPU(rapid.SampledFrom([]int64{0, 1, 2, math.MaxInt64}).Draw(rt, "cpu"))
				spec.Resources = &manifest.Resources{Requests: &manifest.Requests{CPU: &cpu}}
				v := workload(named(fmt.Sprintf("c%d", i)), spec)
				v.Kind = rapid.SampledFrom([]manifest.Kind{"Container", "Container", "Container", "Job", "CronJob"}).Draw(rt, "kind")
				out.Workloads = append(out.Workloads, v)
			}
			return out
		}
		w.in = plan.Input{
			Desired: set(), Now: now, History: map[manifest.Name]plan.History{}, InFlight: map[manifest.Name]plan.InFlight{},
			Ancestry: rapid.SampledFrom([]plan.Ancestry{"", "moved", "else"}).Draw(rt, "ancestry"),
			Facts: plan.Facts{
				Capacity: plan.Amounts{CPUMillis: rapid.SampledFrom([]int64{-1, 0, 3, math.MaxInt64}).Draw(rt, "capacity")},
				Taken:    []plan.TakenPort{{Protocol: "TCP", Port: 3, By: "somebody"}},
			},
			Policy:   plan.Policy{Reserve: plan.Amounts{CPUMillis: rapid.SampledFrom([]int64{-1, 0, 1, math.MaxInt64}).Draw(rt, "reserve")}},
			KeptNode: rapid.SampledFrom([]string{"", "", "n0"}).Draw(rt, "kept"),
		}
		if rapid.Bool().Draw(rt, "accepted") {
			a := set()
			w.in.Accepted = &a
		}
		digests := []string{""}
		for _, v := range w.in.Desired.Workloads {
			digests = append(digests, v.Digest)
		}
		for i := range rapid.IntRange(0, 8).Draw(rt, "containers") {
			s := runtime.Status{
				ID: runtime.ID(fmt.Sprint("id", i)), CreatedAt: when(), FinishedAt: when(), Ran: time.Duration(rapid.Int64().Draw(rt, "ran")),
				State: rapid.SampledFrom([]runtime.State{"Running", "Exited", "Created", "Removing", "", "Odd"}).Draw(rt, "state"),
			}
			s.Spec.Name = runtime.Name(name())
			s.Spec.OriginDigest = rapid.SampledFrom(digests).Draw(rt, "digest")
			s.Spec.Origin = rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(rt, "origin")
			if rapid.Bool().Draw(rt, "readable") {
				s.Spec.Origin, _ = rapid.SampledFrom(w.in.Desired.Workloads).Draw(rt, "from").Encode()
			}
			w.in.Observed = append(w.in.Observed, s)
		}
		for range 2 {
			w.in.History[name()] = plan.History{
				Digest: rapid.SampledFrom(digests).Draw(rt, "failed"), Failures: rapid.IntRange(-1, 3).Draw(rt, "failures"), Crashes: rapid.Int().Draw(rt, "crashes"),
				NextTry: when(), LastFailure: when(), Reason: "Odd", Error: "odd",
			}
		}
		w.in.Ledger.Jobs = map[manifest.Name]plan.JobRecord{}
		for range rapid.IntRange(0, 4).Draw(rt, "jobs") {
			w.in.Ledger.Jobs[name()] = plan.JobRecord{
				Digest: rapid.SampledFrom(digests).Draw(rt, "of"), Result: rapid.SampledFrom([]plan.JobResult{"", "", "Succeeded", "Failed", "Replaced"}).Draw(rt, "result"),
				Container: rapid.SampledFrom([]runtime.ID{"", "id0", "id1"}).Draw(rt, "in"), Stale: rapid.SampledFrom([]runtime.ID{"", "id0", "id1"}).Draw(rt, "stale"),
				Starts: rapid.IntRange(0, 2).Draw(rt, "starts"), Counted: rapid.IntRange(0, 2).Draw(rt, "counted"), Failures: rapid.IntRange(-1, 9).Draw(rt, "lost"),
				Reason: "Odd", Message: "odd", Read: rapid.Bool().Draw(rt, "read"), Expired: rapid.Bool().Draw(rt, "expired"),
			}
		}
		p := plan.Compute(w.in)
		lawful(rt, w, p)
		w.inOrder(rt, p)
	})
}

// inOrder fails unless the steps can be carried out with everyone after what it waits for.
func (w *world) inOrder(rt *rapid.T, p plan.Plan) {
	done := map[manifest.Name]bool{}
	rest := slices.Clone(p.Steps)
	for len(rest) > 0 {
		later := slices.DeleteFunc(slices.Clone(rest), func(s plan.Step) bool {
			return !slices.ContainsFunc(s.After, func(n manifest.Name) bool { return !done[n] })
		})
		if len(later) == len(rest) {
			rt.Fatalf("steps wait for each other: %s", render(p))
		}
		for _, s := range rest {
			done[s.Name] = done[s.Name] || !slices.ContainsFunc(later, func(l plan.Step) bool { return l.Name == s.Name })
		}
		rest = later
	}
}

// TestRemovalsOfACircle removes containers whose manifests depended on each other, which Load refuses by now.
func TestRemovalsOfACircle(t *testing.T) {
	w := newWorld(t)
	w.want("c1")
	w.in.Approved["c1"] = true
	for i := range 3 {
		spec := manifest.Spec{Image: "x", DependsOn: []manifest.Dependency{{Name: fmt.Sprintf("c%d", (i+1)%3)}}}
		lowered, err := plan.Lower(workload(named(fmt.Sprintf("c%d", i)), spec))
		if err != nil {
			t.Fatal(err)
		}
		w.rt.Put(runtime.Status{State: runtime.StateRunning, Spec: lowered})
	}
	w.settle(func(plan.Plan) {})
	if list := w.list(); len(list) != 0 {
		t.Errorf("%d containers are left", len(list))
	}
}
