package manifest

import (
	"os"
	"testing"
	"testing/fstest"
)

// BenchmarkDigest is what each container of a commit costs before it is known whether there is anything to do for it.
func BenchmarkDigest(b *testing.B) {
	tree := fstest.MapFS{}
	for _, name := range []string{"web.yaml", "shared.yaml"} {
		text, err := os.ReadFile("../testdata/largest/" + name)
		if err != nil {
			b.Fatal(err)
		}
		tree[name] = &fstest.MapFile{Data: text}
	}
	set, err := Load(tree, Revision{}, Node{Name: "n0", Labels: map[string]string{"role": "edge"}})
	if err != nil || len(set.Workloads) != 1 {
		b.Fatal(len(set.Workloads), err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if set.Workloads[0].digest() != set.Workloads[0].Digest {
			b.Fatal("the digest is another one")
		}
	}
}
