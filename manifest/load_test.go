package manifest_test

import (
	"testing"
	"testing/fstest"

	"reconciler/manifest"
)

func tree(files map[string]string) fstest.MapFS {
	out := make(fstest.MapFS, len(files))
	for name, content := range files {
		out[name] = &fstest.MapFile{Data: []byte(content), Mode: 0o644}
	}
	return out
}

func mustLoad(t *testing.T, files map[string]string, node manifest.Node) manifest.Set {
	t.Helper()
	set, err := manifest.Load(tree(files), manifest.Revision{Commit: "c0ffee"}, node)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func container(name, spec string) string {
	return "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: " + name + "}\nspec:\n" + spec
}

func TestLoadOne(t *testing.T) {
	set := mustLoad(t, map[string]string{"web.yaml": container("web", "  image: web:1.4\n  env: {PORT: 8080, V: 1.10}\n")}, manifest.Node{Name: "n"})
	if len(set.Workloads) != 1 {
		t.Fatalf("workloads: %+v", set.Workloads)
	}
	w := set.Workloads[0]
	if w.Name.String() != "default/web" || w.Spec.Env["PORT"].Value != "8080" || w.Spec.Env["V"].Value != "1.10" || w.Digest == "" {
		t.Errorf("workload: %+v", w)
	}
	if got := w.Source.String(); got != "web.yaml:1:1" {
		t.Errorf("source: %s", got)
	}
}
