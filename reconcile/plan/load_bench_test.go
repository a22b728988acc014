package plan_test

import (
	"fmt"
	"io/fs"
	"os"
	goruntime "runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// BenchmarkLoadAndPlan measures the largest repository that is promised, 10,000 manifests each in a file of its own, on
// its way from the tree to a plan that makes all of them: from memory, and from the objects of a real clone that nothing
// was read of. MiB-sys is all that the process ever had from the kernel, so run one of them at a time, once:
//
//	go test -run - -bench LoadAndPlan/git -benchtime 1x ./reconcile/plan
func BenchmarkLoadAndPlan(b *testing.B) {
	const n = 9_989 // with the eleven others the limit
	read := func(name string) string {
		text, err := os.ReadFile("../../testdata/largest/" + name)
		if err != nil {
			b.Fatal(err)
		}
		return string(text)
	}
	web, files := read("web.yaml"), sourcetest.Files{"shared.yaml": read("shared.yaml")}
	for i := range n {
		files[fmt.Sprintf("apps/%03d/web-%05d.yaml", i/100, i)] = strings.ReplaceAll(web, "00000", fmt.Sprintf("%05d", i))
	}
	for i := range 9 {
		files["nodes.yaml"] += fmt.Sprintf("---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n%d, labels: {role: edge}}\n", i)
	}
	memory := fstest.MapFS{}
	for name, text := range files {
		memory[name] = &fstest.MapFile{Data: []byte(text)}
	}
	b.Run("memory", func(b *testing.B) {
		loadAndPlan(b, n, func() (fs.FS, manifest.Revision) { return memory, manifest.Revision{Commit: "c1"} })
	})
	b.Run("git", func(b *testing.B) {
		r := sourcetest.NewRepo(b)
		r.CommitPush("many", files)
		loadAndPlan(b, n, func() (fs.FS, manifest.Revision) {
			s, err := source.Open(source.Config{URL: r.Bare, StateDir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			rev, err := s.Fetch(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			tree, err := s.Tree(b.Context(), rev.Commit)
			if err != nil {
				b.Fatal(err)
			}
			return tree, rev
		})
	})
}

func loadAndPlan(b *testing.B, want int, open func() (fs.FS, manifest.Revision)) {
	b.Helper()
	b.ReportAllocs()
	var peak uint64
	for b.Loop() {
		b.StopTimer()
		tree, rev := open()
		goruntime.GC()
		b.StartTimer()
		set, err := manifest.Load(tree, rev, manifest.Node{Name: "n0"})
		if err != nil {
			b.Fatal(err)
		}
		p := plan.Compute(plan.Input{Desired: set, Policy: plan.Policy{MaxRemove: 50, AllowSecretPath: []string{"/etc/tokens"}}, Now: time.Unix(1767355200, 0)})
		if len(p.Steps) != want {
			b.Fatalf("%d steps, want %d: blocked %v, held %d", len(p.Steps), want, p.Blocked, len(p.Held))
		}
		b.StopTimer()
		var m goruntime.MemStats
		goruntime.ReadMemStats(&m)
		peak = max(peak, m.Sys)
		goruntime.KeepAlive(set)
		b.StartTimer()
	}
	b.ReportMetric(float64(peak)/(1<<20), "MiB-sys")
}
