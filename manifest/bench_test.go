package manifest_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/fstest"

	"reconciler/manifest"
)

// fleet is a repository of n containers, one a file, as long as people write them.
func fleet(n, nodes int) fstest.MapFS {
	files := make(map[string]string, n+1)
	for i := range n {
		files[fmt.Sprintf("apps/%03d/web-%05d.yaml", i/100, i)] = container(fmt.Sprintf("web-%05d", i), fmt.Sprintf(`
  nodeSelector: {role: [edge, core]}
  image: registry.example.com/shop/web:1.4.%d
  command: [/usr/bin/web]
  args: [--port, "8080", --name, $(NAME)]
  env:
    PORT: 8080
    NAME: web-%d
    MODE: {config: settings, key: mode}
    TOKEN: {secret: tokens, key: web}
  resources: {limits: {cpu: 250m, memory: 64Mi, pids: 200}}
  logs: {maxSize: 10Mi, maxFiles: 3}
  mounts:
    - {path: /data, volume: web-%d}
    - {path: /etc/web, config: settings}
    - {path: /tmp, tmpfs: 64Mi}
  securityContext:
    runAsUser: 1000
    capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
`, i, i, i))
	}
	files["shared.yaml"] = "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: settings}\ndata: {mode: fast}\n" +
		"---\napiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: tokens}\nspec: {fromDirectory: /etc/tokens}\n"
	for i := range nodes {
		files["nodes.yaml"] += fmt.Sprintf("---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n%d, labels: {role: edge}}\n", i)
	}
	return tree(files)
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{100, 1_000, 9_990} {
		files := fleet(n, 1)
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
	files := fleet(1_000, 400)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := manifest.LoadAll(files, manifest.Revision{}, manifest.Node{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKept measures what a loaded set of the largest repository keeps in memory.
func BenchmarkKept(b *testing.B) {
	files := fleet(9_990, 1)
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
