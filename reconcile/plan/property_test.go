package plan_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// genWorkload draws one workload. It depends only on names before its own, so that there is no circle.
func genWorkload(t *rapid.T, i int) manifest.Workload {
	spec := manifest.Spec{
		Image:         rapid.SampledFrom([]string{"example.com/app:1", "example.com/app:2", "example.com/app:latest"}).Draw(t, "image"),
		RestartPolicy: rapid.SampledFrom([]manifest.RestartPolicy{"", manifest.RestartOnFailure, manifest.RestartNever}).Draw(t, "policy"),
	}
	if rapid.Bool().Draw(t, "limited") {
		n := manifest.Bytes(rapid.Int64Range(1, 2).Draw(t, "memory") << 20)
		spec.Resources = &manifest.Resources{Limits: &manifest.Limits{Memory: &n}}
	}
	for d := range i {
		if rapid.IntRange(0, 3).Draw(t, "depends") == 0 {
			spec.DependsOn = append(spec.DependsOn, manifest.Dependency{Name: fmt.Sprintf("c%d", d)})
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "published") == 0 {
		port := int64(80 + rapid.IntRange(0, 2).Draw(t, "port"))
		spec.Ports = []manifest.Port{{ContainerPort: 80, HostPort: &port}}
	}
	if i > 0 && rapid.IntRange(0, 3).Draw(t, "shares") == 0 {
		spec.Network, spec.Ports = manifest.Network(fmt.Sprintf("container:c%d", rapid.IntRange(0, i-1).Draw(t, "with"))), nil
	}
	if rapid.IntRange(0, 9).Draw(t, "elsewhere") == 0 {
		spec.Platform = &manifest.Platform{Architectures: []string{"riscv64"}}
	}
	if rapid.IntRange(0, 9).Draw(t, "hostPath") == 0 {
		spec.Mounts = []manifest.Mount{{Path: "/x", HostPath: "/etc"}}
	}
	return workload(named(fmt.Sprintf("c%d", i)), spec)
}

func genSet(t *rapid.T) []manifest.Workload {
	var list []manifest.Workload
	for i := range 6 {
		if rapid.IntRange(0, 3).Draw(t, "present") > 0 {
			list = append(list, genWorkload(t, i))
		}
	}
	return list
}

// disturb does to the world what servers do: exits, reboots, leftovers of interrupted updates, neighbours, verbs.
func disturb(t *rapid.T, w *world) {
	for _, s := range w.list() {
		name := manifest.Name(s.Spec.Name)
		switch rapid.IntRange(0, 9).Draw(t, "disturbance") {
		case 0:
			w.rt.Exit(s.ID, rapid.IntRange(0, 2).Draw(t, "code"))
		case 1:
			w.rt.OOM(s.ID)
		case 2:
			s.ID, s.CreatedAt, s.Pid, s.Serving = "", time.Time{}, 0, false
			s.State = rapid.SampledFrom([]runtime.State{runtime.StateCreated, runtime.StateRunning, runtime.StateExited, runtime.StateRemoving}).Draw(t, "state")
			if len(s.Spec.Origin) > 0 {
				w.rt.Put(s)
			}
		case 3:
			h := w.in.History[name]
			h.Restart = true
			w.in.History[name] = h
		case 4:
			w.rt.Fail(fake.Op(rapid.SampledFrom([]string{"prepare", "create", "start", "update", "stop", "remove"}).Draw(t, "op")),
				s.Spec.Name, rapid.IntRange(1, 3).Draw(t, "times"), errors.New("boom"))
		case 5:
			if err := w.rt.Remove(w.t.Context(), s.ID); err != nil {
				continue
			}
			w.foreign = slices.DeleteFunc(w.foreign, func(id runtime.ID) bool { return id == s.ID })
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "reboot") == 0 {
		w.rt.Reboot()
	}
	if rapid.Bool().Draw(t, "neighbour") {
		n := runtime.Name{Namespace: "default", Name: fmt.Sprintf("c%d", rapid.IntRange(0, 7).Draw(t, "name"))}
		w.foreign = append(w.foreign, w.rt.Put(runtime.Status{State: runtime.StateExited, Spec: runtime.Spec{Name: n}}))
	}
}

// lawful fails unless p is a plan that Compute may give for w as it is.
func lawful(t *rapid.T, w *world, p plan.Plan) {
	if p.ID() == "" {
		t.Fatal("plan without ID")
	}
	if again := plan.Compute(w.in); !reflect.DeepEqual(again, p) {
		t.Fatalf("the same input gives\n%s\nand\n%s", render(p), render(again))
	}
	kept := w.in
	kept.Lowered = &w.lowered
	if again := plan.Compute(kept); !reflect.DeepEqual(again, p) {
		t.Fatalf("with what was lowered before the plan is\n%s\nand not\n%s", render(again), render(p))
	}
	mixed := w.in
	mixed.Observed = slices.Clone(mixed.Observed)
	mixed.Desired.Workloads = slices.Clone(mixed.Desired.Workloads)
	r := rand.New(rand.NewPCG(1, uint64(len(mixed.Observed))))
	r.Shuffle(len(mixed.Observed), reflect.Swapper(mixed.Observed))
	r.Shuffle(len(mixed.Desired.Workloads), reflect.Swapper(mixed.Desired.Workloads))
	if again := plan.Compute(mixed); !reflect.DeepEqual(again, p) {
		t.Fatalf("another order of the same input gives\n%s\nand\n%s", render(p), render(again))
	}
	names, ours := map[manifest.Name]bool{}, map[runtime.ID]bool{}
	for _, s := range w.in.Observed {
		ours[s.ID] = len(s.Spec.Origin) > 0
	}
	for _, s := range p.Steps {
		if names[s.Name] {
			t.Fatalf("two steps for %s: %s", s.Name, render(p))
		}
		names[s.Name] = true
		if s.Reason == "" {
			t.Fatalf("step without a reason: %s", render(p))
		}
		for _, r := range s.Remove {
			if !ours[r.ID] || r.ID == s.ID {
				t.Fatalf("takes away %s: %s", r.ID, render(p))
			}
		}
		if s.ID != "" && !ours[s.ID] {
			t.Fatalf("touches %s: %s", s.ID, render(p))
		}
	}
	for _, s := range p.Steps {
		for _, a := range s.After {
			if !names[a] || a == s.Name {
				t.Fatalf("%s waits for %s: %s", s.Name, a, render(p))
			}
		}
	}
	held := map[manifest.Name]bool{}
	for _, h := range p.Held {
		if held[h.Name] || h.Reason == "" || h.Message == "" || !h.Until.IsZero() && (p.Wake.IsZero() || p.Wake.After(h.Until)) {
			t.Fatalf("bad hold of %s: %s", h.Name, render(p))
		}
		held[h.Name] = true
	}
}

// asWanted fails unless the world is what was asked for, apart from what is held.
func asWanted(t *rapid.T, w *world, p plan.Plan) {
	held := map[manifest.Name]bool{}
	for _, h := range p.Held {
		held[h.Name] = true
		if !slices.Contains([]string{runtime.ReasonIncompatible, runtime.ReasonNotAllowed, plan.ReasonDependency, plan.ReasonPortConflict, plan.ReasonRolledBack}, h.Reason) {
			t.Fatalf("%s is held for ever: %s", h.Name, render(p))
		}
	}
	here := map[manifest.Name]runtime.Status{}
	for _, s := range w.list() {
		if slices.Contains(w.foreign, s.ID) {
			continue
		}
		name := manifest.Name(s.Spec.Name)
		if _, twice := here[name]; twice && !held[name] {
			t.Fatalf("two containers of %s are left", name)
		}
		here[name] = s
	}
	for _, want := range w.in.Desired.Workloads {
		s, ok := here[want.Name]
		delete(here, want.Name)
		if held[want.Name] {
			continue
		}
		ended := s.State == runtime.StateExited && (want.Spec.RestartPolicy == manifest.RestartNever || want.Spec.RestartPolicy == manifest.RestartOnFailure && *s.ExitCode == 0)
		if !ok || s.Spec.OriginDigest != want.Digest || s.State != runtime.StateRunning && !ended {
			t.Fatalf("%s is %s, made from what is wanted: %v", want.Name, s.State, s.Spec.OriginDigest == want.Digest)
		}
	}
	for name := range here {
		if !held[name] {
			t.Fatalf("%s is left", name)
		}
	}
}

func TestConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		for commit := range rapid.IntRange(1, 4).Draw(rt, "commits") {
			hash := fmt.Sprintf("%040x", commit+1)
			w.want(hash, genSet(rt)...)
			w.in.Approved[hash] = true
			disturb(rt, w)
			p := w.settle(func(p plan.Plan) { lawful(rt, w, p) })
			asWanted(rt, w, p)
			left := w.list()
			for _, id := range w.foreign {
				if !slices.ContainsFunc(left, func(s runtime.Status) bool { return s.ID == id }) {
					rt.Fatalf("container %s, which is not ours, is gone", id)
				}
			}
			before := len(w.rt.Calls())
			if again := w.settle(func(plan.Plan) {}); len(again.Steps) != 0 || len(w.rt.Calls()) != before || again.ID() != p.ID() {
				rt.Fatalf("not idempotent: %s", render(again))
			}
		}
	})
}

func TestGuardHoldsWithoutApproval(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.want(fmt.Sprintf("%040x", 1), genSet(rt)...)
		w.in.Approved[w.in.Desired.Revision.Commit] = true
		w.settle(func(plan.Plan) {})
		total := len(w.list())
		w.want(fmt.Sprintf("%040x", 2), genSet(rt)...)
		p := w.compute()
		lawful(rt, w, p)
		removed := 0
		for _, s := range p.Steps {
			if s.Op == plan.OpRemove {
				removed++
			}
		}
		if p.Blocked != nil {
			if removed > 0 {
				rt.Fatalf("blocked and removes: %s", render(p))
			}
			return
		}
		if removed > 0 && removed == total || removed >= 3 && removed*2 > total {
			rt.Fatalf("removes %d of %d: %s", removed, total, render(p))
		}
	})
}

// TestInFlightLeavesNothingToDo shows that a plan whose steps are all in flight has none.
func TestInFlightLeavesNothingToDo(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		for commit := range 2 {
			hash := fmt.Sprintf("%040x", commit+1)
			w.want(hash, genSet(rt)...)
			w.in.Approved[hash] = true
			if commit == 0 {
				w.settle(func(plan.Plan) {})
			}
		}
		disturb(rt, w)
		p := w.compute()
		w.in.InFlight = map[manifest.Name]plan.InFlight{}
		for _, s := range p.Steps {
			w.in.InFlight[s.Name] = plan.InFlight{Op: s.Op, Digest: s.Workload.Digest}
		}
		if again := w.compute(); len(again.Steps) != 0 || len(again.Cancel) != 0 {
			rt.Fatalf("with all of\n%s\nin flight there is still\n%s", render(p), render(again))
		}
	})
}
