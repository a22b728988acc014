package manifest_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"reconciler/manifest"
)

// fleet is a repository of n containers, one a file, as long as people write them.
func fleet(b *testing.B, n, nodes int) fstest.MapFS {
	b.Helper()
	read := func(name string) string {
		text, err := os.ReadFile("../testdata/largest/" + name)
		if err != nil {
			b.Fatal(err)
		}
		return string(text)
	}
	web, files := read("web.yaml"), map[string]string{"shared.yaml": read("shared.yaml")}
	for i := range n {
		files[fmt.Sprintf("apps/%03d/web-%05d.yaml", i/100, i)] = strings.ReplaceAll(web, "00000", fmt.Sprintf("%05d", i))
	}
	for i := range nodes {
		files["nodes.yaml"] += fmt.Sprintf("---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n%d, labels: {role: edge}}\n", i)
	}
	return tree(files)
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 1_000, 9_990} {
		files := fleet(b, n, 1)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				set, err := manifest.Load(files, manifest.Revision{}, manifest.Node{Name: "n0"})
				if err != nil || len(set.Workloads) != n {
					b.Fatal(len(set.Workloads), err)
				}
			}
		})
	}
}

func BenchmarkLoadAll(b *testing.B) {
	files := fleet(b, 1_000, 400)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := manifest.LoadAll(files, manifest.Revision{}, manifest.Node{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKept measures what a loaded set of the largest repository keeps in memory.
func BenchmarkKept(b *testing.B) {
	files := fleet(b, 9_990, 1)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		set, err := manifest.Load(files, manifest.Revision{}, manifest.Node{Name: "n0"})
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-kept")
		b.ReportMetric(float64(after.Sys)/(1<<20), "MiB-sys")
		runtime.KeepAlive(set)
	}
}
