package manifest_test

import (
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"

	"reconciler/manifest"
)

// keyedTree is a tree that tells the keys of its files' contents, as a commit's does. It counts the YAML that is read.
type keyedTree struct {
	fstest.MapFS

	reads map[string]int
	dirs  map[string][]fs.DirEntry
}

type keyedEntry struct {
	fs.DirEntry

	key string
}

func (e keyedEntry) ContentKey() string { return e.key }

func keyed(files map[string]string) keyedTree {
	k := keyedTree{MapFS: tree(files), reads: make(map[string]int), dirs: make(map[string][]fs.DirEntry)}
	for name := range files { // MapFS looks at every file for each directory
		for dir := path.Dir(name); k.dirs[dir] == nil; dir = path.Dir(dir) {
			k.dirs[dir], _ = k.MapFS.ReadDir(dir)
		}
	}
	return k
}

func (k keyedTree) Open(name string) (fs.File, error) {
	k.reads[name]++
	if k.MapFS[name] == nil && k.dirs[name] == nil { // MapFS looks at every file
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return k.MapFS.Open(name)
}

func (k keyedTree) ReadDir(name string) ([]fs.DirEntry, error) {
	entries := slices.Clone(k.dirs[name])
	for i, e := range entries {
		if !e.IsDir() {
			entries[i] = keyedEntry{e, string(k.MapFS[path.Join(name, e.Name())].Data)}
		}
	}
	return entries, nil
}

// TestCacheMakesNoDifference changes a repository at random, mistakes and warnings included: with the files of the commits
// before in a cache, each commit must come to the same as without.
func TestCacheMakesNoDifference(t *testing.T) {
	node := func(name, rest string) string {
		return fmt.Sprintf("apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: %s, %s}\n", name, rest)
	}
	config := func(name, rest string) string {
		return fmt.Sprintf("apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: %s}\n%s\n", name, rest)
	}
	secret := func(dir string) string {
		return "apiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: s}\nspec: {fromDirectory: " + dir + "}\n"
	}
	script := "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: job}\nspec: {script: {file: run.sh}, image: a}\n"
	choices := map[string][]string{
		"n1.yaml": {
			node("n1", "labels: {zone: north}"), node("n1", "labels: {zone: south}"), "", node("n2", "labels: {zone: x}"),
			node("n1", "labels: {zone: north}") + "spec: {defaults: {logs: {maxFiles: 2}}}\n", node("n1", "labels: {}") + "spec: {newer: 1}\n",
		},
		"n2.yaml":  {node("n2", "labels: {zone: south}"), "", node("n2", "labels: {rack: r}"), node("n2", "labels: {}") + "spec: {newer: 1}\n"},
		"c.yaml":   {config("c", "data: {m: fast, n: slow}"), config("c", "data: {m: slow}"), config("d", "data: {}"), config("c", "data: {m: \"\\0\"}"), ""},
		"cf.yaml":  {config("f", "files: {m: ./content}"), config("f", "data: {m: x}"), config("c", "data: {m: twice}"), ""},
		"content":  {"one", "two"},
		"s.yaml":   {secret("/etc/a"), secret("/etc/b"), secret("relative"), ""},
		"job.yaml": {script, "", script + "---\n" + container("job2", "  image: a\n")},
		"run.sh":   {"#!/bin/sh\ntrue\n", "#!/bin/sh\nfalse\n", "no script"},
		"web.yaml": {
			container("web", "  image: a\n  dependsOn: [db]\n  env: {Z: {label: zone}, M: {config: c, key: m}}\n"),
			container("web", "  image: a\n  env: {N: {node: name}, S: {secret: s, key: k}}\n  mounts: [{path: /f, config: f}]\n"),
			container("web", "  image: a\n  nodeSelector: {zone: south}\n  newer: 1\n"),
			container("web", "  image: a\n  nodeSelector: {zone: nowhere}\n"),
			container("web", "  image: a\n  overrides: [{nodeSelector: {zone: north}, spec: {args: [x]}}]\n"),
			"a: [", container("web", "  image: [\n"), container("web", "  imag: a\n"),
		},
		"web2.yaml": {
			container("web2", "  image: a\n  mounts: [{path: /v, volume: v, shared: true}, {path: /c, config: c}]\n"),
			container("web2", "  image: a\n  mounts: [{path: /v, volume: v}]\n  envFrom: [{config: c}]\n"),
			container("web", "  image: a\n"), "", "# nothing but a word: Node\n",
		},
		"db.yaml": {
			container("db", "  image: a\n  mounts: [{path: /v, volume: v, shared: true}]\n"), "",
			container("db", "  image: a\n  dependsOn: [web]\n  ports: [{containerPort: 1, hostPort: 80}]\n"),
			"---\n" + container("db", "  image: b\n") + "---\n" + container("db2", "  image: b\n  ports: [{containerPort: 1, hostPort: 80}]\n"),
		},
		".reconcilerignore": {"", "web2.yaml\n"},
	}
	rapid.Check(t, func(rt *rapid.T) {
		loader := manifest.Loader{Cache: new(manifest.Cache)}
		repo := map[string]string{}
		for name, texts := range choices {
			repo[name] = texts[0]
		}
		me := manifest.Node{Name: "n1", Labels: map[string]string{"zone": "given"}}
		for step := range rapid.IntRange(1, 12).Draw(rt, "steps") {
			for range rapid.IntRange(0, 2).Draw(rt, "changes") {
				name := rapid.SampledFrom(sortedNames(choices)).Draw(rt, "file")
				repo[name] = rapid.SampledFrom(choices[name]).Draw(rt, "text")
			}
			if rapid.IntRange(0, 9).Draw(rt, "move") == 0 {
				me.Name = rapid.SampledFrom([]string{"n1", "n2"}).Draw(rt, "node")
			}
			rev := manifest.Revision{Commit: fmt.Sprint(step)}
			want, wantErr := manifest.Load(keyed(repo), rev, me)
			got, err := loader.Load(keyed(repo), rev, me)
			if fmt.Sprint(err) != fmt.Sprint(wantErr) {
				rt.Fatalf("with the cache: %v\nwithout: %v", err, wantErr)
			}
			if err == nil && !reflect.DeepEqual(got, want) || !reflect.DeepEqual(got.Warnings, want.Warnings) {
				rt.Fatalf("with the cache: %+v\nwithout: %+v", got, want)
			}
		}
	})
}

// TestCacheReadsWhatChanged wants the content of a file to be looked at once, whatever changes beside it, and nothing to be
// kept of what went.
func TestCacheReadsWhatChanged(t *testing.T) {
	files := map[string]string{
		"nodes.yaml": "apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n1, labels: {role: web}}\n",
		"c.yaml":     "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: c}\ndata: {m: fast}\n",
		"a.yaml":     container("a", "  image: a\n  env: {M: {config: c, key: m}}\n"),
		"b.yaml":     container("b", "  image: a\n"),
		"other.yaml": container("other", "  image: a\n  nodeSelector: {role: [web, db]}\n"),
	}
	loader := manifest.Loader{Cache: new(manifest.Cache)}
	load := func(reads ...string) {
		t.Helper()
		k := keyed(files)
		if _, err := loader.Load(k, manifest.Revision{}, manifest.Node{Name: "n1"}); err != nil {
			t.Fatal(err)
		}
		for name := range files {
			want := 0
			for _, r := range reads {
				if r == name || r == "all" {
					want = 1
				}
			}
			if k.reads[name] != want {
				t.Errorf("%s was read %d times, want %d", name, k.reads[name], want)
			}
		}
	}
	load("all")
	load()
	files["b.yaml"] = container("b", "  image: b\n")
	load("b.yaml")
	files["c.yaml"] += "# a comment\n"
	load("c.yaml")
	b := files["b.yaml"]
	delete(files, "b.yaml")
	load()
	files["b.yaml"] = b
	load("b.yaml")
	files["nodes.yaml"] += "---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n2, labels: {role: db}}\n"
	load("all")
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
