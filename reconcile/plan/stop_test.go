package plan_test

import (
	"fmt"
	"slices"
	"testing"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// Dependants come first, also by a shared network; a circle ends, and what nobody can read depends on nothing.
func TestStopOrder(t *testing.T) {
	made := func(id, name, spec string) runtime.Status {
		w := loaded(t, fmt.Sprintf("metadata: {name: %s}\nspec: %s", name, spec))
		s, err := plan.Lower(w)
		if err != nil {
			t.Fatal(err)
		}
		return runtime.Status{ID: runtime.ID(id), Spec: s}
	}
	circle := func(name, on string) runtime.Status {
		s := made(name, name, "{image: x:1}")
		w, err := manifest.DecodeWorkload(s.Spec.Origin)
		if err != nil {
			t.Fatal(err)
		}
		w.Spec.DependsOn = []manifest.Dependency{{Name: on}}
		if s.Spec, err = plan.Lower(w); err != nil {
			t.Fatal(err)
		}
		return s
	}
	unknown := runtime.Status{ID: "unknown", Spec: runtime.Spec{Name: runtime.Name{Namespace: "default", Name: "unknown"}, Origin: []byte("?")}}
	db, api := made("db", "db", "{image: x:1}"), circle("api", "db")
	web, webNew := circle("web", "api"), circle("web", "api")
	webNew.ID = "web-new"
	side := circle("side", "web")
	got := ""
	for _, s := range plan.StopOrder([]runtime.Status{api, db, unknown, web, webNew, side}) {
		after := slices.Sorted(slices.Values(s.After))
		got += fmt.Sprintf("%s%v ", s.Status.ID, after)
	}
	if want := "side[] web[side] web-new[side] api[web web-new] db[api] unknown[] "; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	ring := plan.StopOrder([]runtime.Status{circle("a", "b"), circle("b", "a")})
	if len(ring) != 2 || len(ring[0].After)+len(ring[1].After) != 1 {
		t.Errorf("of a circle: %+v", ring)
	}
}
