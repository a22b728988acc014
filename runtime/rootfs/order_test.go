package rootfs

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"reconciler/runtime"
)

// Whatever order the mounts come in, what lies below another mount comes after it, and any order gives the same.
func TestMountsAreOrderedParentsFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		paths := rapid.SliceOfNDistinct(rapid.StringMatching(`(/[a-c-]{1,2}){1,3}`), 1, 8, rapid.ID[string]).Draw(t, "paths")
		var mounts []runtime.Mount
		for _, p := range paths {
			mounts = append(mounts, runtime.Mount{Path: p, Tmpfs: &runtime.Tmpfs{}})
		}
		ordered, err := orderMounts(mounts)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range ordered {
			for _, later := range ordered[i+1:] {
				if strings.HasPrefix(m.Path, later.Path+"/") {
					t.Fatalf("%s is mounted before %s", m.Path, later.Path)
				}
			}
		}
		again, err := orderMounts(rapid.Permutation(mounts).Draw(t, "permuted"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range again {
			if again[i].Path != ordered[i].Path {
				t.Fatalf("another order: %v and %v", again, ordered)
			}
		}
	})
}
