package manifest_test

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"reconciler/manifest"
)

// fleet is a repository of n containers, one a file, as long as people write them.
func fleet(b *testing.B, n, nodes int) keyedTree {
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
		files[fleetFile(i)] = strings.ReplaceAll(web, "00000", fmt.Sprintf("%05d", i))
	}
	for i := range nodes {
		files["nodes.yaml"] += fmt.Sprintf("---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n%d, labels: {role: edge}}\n", i)
	}
	return keyed(files)
}

func fleetFile(i int) string { return fmt.Sprintf("apps/%03d/web-%05d.yaml", i/100, i) }

// reportCPU tells the processor time of one round beside its time by the clock, which others on the machine lengthen. It
// returns what is to be called after the last.
func reportCPU(b *testing.B) (done func()) {
	b.Helper()
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op") }
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 1_000, 9_990} {
		files := fleet(b, n, 1)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
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

// BenchmarkKept measures what a loaded set of the largest repository keeps in memory, all of it being for this node, and the
// cache beside it.
func BenchmarkKept(b *testing.B) {
	files := fleet(b, 9_990, 1)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		loader := manifest.Loader{Cache: new(manifest.Cache)}
		set, err := loader.Load(files, manifest.Revision{}, manifest.Node{Name: "n0"})
		if err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-kept")
		b.ReportMetric(float64(after.Sys)/(1<<20), "MiB-sys")
		runtime.KeepAlive(set)
		runtime.KeepAlive(loader)
	}
}

// BenchmarkLoadOneChanged measures a commit that changes one file of a repository that was read before: with all of it for
// this node, and with a hundredth.
func BenchmarkLoadOneChanged(b *testing.B) {
	for _, n := range []int{100, 1_000, 9_990} {
		for _, share := range []int{1, 100} {
			b.Run(fmt.Sprintf("manifests=%d/ours=%d", n, (n+share-1)/share), func(b *testing.B) {
				files := fleet(b, n, 1)
				for i := range n {
					if i%share != 0 {
						f := files.MapFS[fleetFile(i)]
						f.Data = bytes.Replace(f.Data, []byte("role: [edge, core]"), []byte("role: [other]"), 1)
					}
				}
				files.MapFS["nodes.yaml"].Data = append(files.MapFS["nodes.yaml"].Data,
					"---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: other, labels: {role: other}}\n"...)
				loader := manifest.Loader{Cache: new(manifest.Cache)}
				load := func() {
					set, err := loader.Load(files, manifest.Revision{}, manifest.Node{Name: "n0"})
					if err != nil || len(set.Workloads) != (n+share-1)/share {
						b.Fatal(len(set.Workloads), err)
					}
				}
				load()
				original := files.MapFS[fleetFile(0)].Data
				changed := bytes.Replace(original, []byte("8080"), []byte("9090"), 1)
				b.ReportAllocs()
				defer reportCPU(b)()
				for i := 0; b.Loop(); i++ {
					files.MapFS[fleetFile(0)].Data = changed
					if i%2 == 1 {
						files.MapFS[fleetFile(0)].Data = original
					}
					load()
				}
			})
		}
	}
}
