package fleet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"reconciler/manifest"
)

// commit loads files as a commit, which has to be a good one.
func commit(t *testing.T, r Repository, name string, files map[string]string) Commit {
	t.Helper()
	tree := fstest.MapFS{}
	for path, text := range files {
		tree[path] = &fstest.MapFile{Data: []byte("apiVersion: reconciler/v1\n" + text)}
	}
	c, problems, err := r.Load(tree, manifest.Revision{Commit: name})
	if err != nil || len(problems) > 0 {
		t.Fatalf("%s: %v %v", name, err, problems)
	}
	return c
}

func container(name, image string) string {
	return fmt.Sprintf("kind: Container\nmetadata: {name: %s}\nspec: {image: %s, network: none}\n", name, image)
}

func node(name string) string { return "kind: Node\nmetadata: {name: " + name + "}\n" }

// Nodes that change alike are told together; one that is new gets everything, and says so apart.
func TestDiff(t *testing.T) {
	r := Repository{Path: "."}
	base := commit(t, r, "base", map[string]string{"a.yaml": container("a", "x:1"), "n1.yaml": node("n1"), "n2.yaml": node("n2")})
	head := commit(t, r, "head", map[string]string{
		"a.yaml": container("a", "x:2"), "n1.yaml": node("n1"), "n2.yaml": node("n2"), "n3.yaml": node("n3"),
	})
	d, err := r.Diff(base, head, "")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range d.Changes {
		got = append(got, fmt.Sprintf("%s %s %v of %d", c.Op, c.Name.Short(), c.Nodes, c.Of))
	}
	slices.Sort(got)
	if want := []string{"create a [n3] of 3", "replace a [n1 n2] of 3"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if len(d.Blocked) != 0 {
		t.Errorf("blocked: %+v", d.Blocked)
	}
	if _, err := r.Diff(base, head, "n4"); err == nil || !strings.Contains(err.Error(), `"n4"`) {
		t.Errorf("a node of neither commit: %v", err)
	}
}

// A manifest that is valid and that no runtime could run is a problem of the commit, with its place.
func TestLoadFindsWhatNoRuntimeCanRun(t *testing.T) {
	tree := fstest.MapFS{"a.yaml": &fstest.MapFile{Data: []byte("apiVersion: reconciler/v1\n" +
		"kind: Container\nmetadata: {name: a}\nspec: {image: x:1, network: none, env: {ZONE: {label: zone}}}\n")}}
	_, problems, err := Repository{Path: "."}.Load(tree, manifest.Revision{Commit: "c"})
	if err != nil || len(problems) != 1 || problems[0].Position.File != "a.yaml" || !strings.Contains(problems[0].Message, "zone") {
		t.Errorf("%v %+v", err, problems)
	}
}
