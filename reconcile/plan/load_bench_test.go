package plan_test

import (
	"fmt"
	"io/fs"
	goruntime "runtime"
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
	const n = 9_990 // with the ten others the limit
	files := sourcetest.Files{}
	for i := range n {
		files[fmt.Sprintf("apps/%03d/web-%05d.yaml", i/100, i)] = fmt.Sprintf(`apiVersion: reconciler/v1
kind: Container
metadata: {name: web-%05d, labels: {app: web}}
spec:
  nodeSelector: {role: [edge, core]}
  image: registry.example.com/shop/web:1.4.%d
  command: [/usr/bin/web]
  args: [--port, "8080", --name, $(NAME)]
  env: {PORT: 8080, NAME: web-%d, MODE: {config: settings, key: mode}}
  network: none
  resources: {limits: {cpu: 250m, memory: 64Mi, pids: 200}}
  logs: {maxSize: 10Mi, maxFiles: 3}
  mounts:
    - {path: /data, volume: web-%d}
    - {path: /etc/web, config: settings}
    - {path: /tmp, tmpfs: 64Mi}
  securityContext: {runAsUser: 1000, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
`, i, i, i, i)
	}
	files["settings.yaml"] = "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: settings}\ndata: {mode: fast}\n"
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
		p := plan.Compute(plan.Input{Desired: set, Policy: plan.Policy{MaxRemove: 50}, Now: time.Unix(1767355200, 0)})
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
