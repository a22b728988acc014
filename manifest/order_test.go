package manifest_test

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"reconciler/manifest"
)

// TestOrderDoesNotMatter spreads the same manifests over files in any order: the same workloads must come out, for one
// node and for all.
func TestOrderDoesNotMatter(t *testing.T) {
	docs := []string{
		container("db", "  image: a\n  overrides: [{nodeSelector: {zone: north}, spec: {args: [x]}}]\n"),
		container("web", "  image: a\n  dependsOn: [db]\n  env: {Z: {label: zone}, M: {config: c, key: m}}\n"),
		container("web2", "  image: a\n  nodeSelector: {zone: south}\n  mounts: [{path: /v, volume: v, shared: true}, {path: /c, config: c}]\n"),
		container("web3", "  image: a\n  mounts: [{path: /v, volume: v, shared: true}]\n"),
		"apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: c}\ndata: {m: fast, n: slow}\n",
		"apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n1, labels: {zone: north}}\nspec: {defaults: {logs: {maxFiles: 2}}}\n",
		"apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: s1, labels: {zone: south}}\n",
	}
	load := func(order []string, files int) []manifest.Set {
		repo := make(map[string]string)
		for i, d := range order {
			repo[fmt.Sprintf("%d.yaml", i%files)] += "---\n" + d
		}
		sets, err := manifest.LoadAll(tree(repo), manifest.Revision{}, manifest.Node{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range sets {
			alone, err := manifest.Load(tree(repo), manifest.Revision{}, sets[i].Node)
			if err != nil || !reflect.DeepEqual(alone, sets[i]) {
				t.Fatalf("Load and LoadAll differ: %+v, %+v, %v", alone, sets[i], err)
			}
			sets[i].Node.Source = manifest.Position{}
			for j := range sets[i].Workloads {
				sets[i].Workloads[j].Source = manifest.Position{}
			}
		}
		return sets
	}
	want := load(docs, 1)
	rapid.Check(t, func(rt *rapid.T) {
		got := load(rapid.Permutation(docs).Draw(rt, "order"), rapid.IntRange(1, len(docs)).Draw(rt, "files"))
		if !reflect.DeepEqual(got, want) {
			rt.Errorf("got %+v, want %+v", got, want)
		}
	})
}
