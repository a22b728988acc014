package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"reconciler/reconcile/source/sourcetest"
)

func TestValidateExamples(t *testing.T) {
	for dir, nodes := range map[string]int{"../../examples/fleet": 3, "../../examples/registry": 1} {
		r := cli(t, nil, "validate", dir, "-o", "json")
		var got []validated
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
			t.Fatalf("%s: status %d: %v\n%s", dir, r.code, err, r.err)
		}
		if len(got[0].Nodes) != nodes || len(got[0].Warnings) != 0 {
			t.Errorf("%s: %+v", dir, got)
		}
	}
}

// What the README and the pages for users show is what the decoder takes.
func TestValidateDocs(t *testing.T) {
	for _, page := range []string{"README.md", "docs/getting-started.md", "docs/manifest.md"} {
		content, err := os.ReadFile(filepath.Join("../..", page))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, block := range strings.Split(string(content), "```yaml\n")[1:] {
			block, _, _ = strings.Cut(block, "```")
			if !strings.Contains(block, "apiVersion: reconciler/v1") {
				continue
			}
			found++
			dir := t.TempDir()
			files := sourcetest.Files{"page.yaml": block, "assets/logo.png": "png", "jobs/rotate.sh": "#!/bin/sh\n"}
			if strings.Contains(block, "db]") || strings.Contains(block, "web-tls") { // what the page leaves out
				files["rest.yaml"] = rest
			}
			sourcetest.WriteTree(t, dir, files)
			if r := cli(t, nil, "validate", dir, "--label", "zone=north", "--label", "role=edge", "--node", "edge-17"); r.code != 0 {
				t.Errorf("%s:\n%s\n%s", page, block, r.err)
			}
		}
		if found == 0 {
			t.Errorf("%s: no manifest found", page)
		}
	}
}

const rest = `apiVersion: reconciler/v1
kind: Container
metadata: {name: db, namespace: shop}
spec: {image: registry.example.com/db:1, network: none}
---
apiVersion: reconciler/v1
kind: Job
metadata: {name: seed, namespace: shop}
spec: {image: registry.example.com/db:1}
---
apiVersion: reconciler/v1
kind: Config
metadata: {name: web, namespace: shop}
data: {web.conf: "a"}
---
apiVersion: reconciler/v1
kind: Config
metadata: {name: defaults, namespace: shop}
data: {A: "a"}
---
apiVersion: reconciler/v1
kind: Secret
metadata: {name: web, namespace: shop}
spec: {fromDirectory: /etc/reconciler/secrets/web}
---
apiVersion: reconciler/v1
kind: Secret
metadata: {name: web-tls, namespace: shop}
spec: {fromDirectory: /etc/reconciler/secrets/web-tls}
`

func TestValidateProblems(t *testing.T) {
	r := cli(t, nil, "validate", "testdata/broken")
	if r.code != 1 || r.out != "" {
		t.Errorf("status %d, stdout %q", r.code, r.out)
	}
	for _, want := range []string{
		"testdata/broken/web.yaml:7:3: spec.memroy: unknown field",
		"testdata/broken/web.yaml:8:18: spec.restartPolicy: ",
		"error: 2 problems in 1 file",
	} {
		if !strings.Contains(r.err, want) {
			t.Errorf("stderr has no %q:\n%s", want, r.err)
		}
	}
	for _, args := range [][]string{{"validate", "/does/not/exist"}, {"validate"}} {
		if r := cli(t, nil, args...); r.code != 1 || !strings.Contains(r.err, "hint: ") {
			t.Errorf("%v: status %d\n%s", args, r.code, r.err)
		}
	}
}

// brokenCommit is one of testdata/broken: its files, and every problem that is told of them.
type brokenCommit struct {
	name  string
	files sourcetest.Files
	want  []string
}

func brokenCommits(t *testing.T) []brokenCommit {
	t.Helper()
	archives, err := filepath.Glob("../../testdata/broken/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives:", err)
	}
	var all []brokenCommit
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c := brokenCommit{name: strings.TrimSuffix(filepath.Base(name), ".txtar"), files: sourcetest.Files{}}
		for _, f := range archive.Files {
			if f.Name == "want" {
				c.want = strings.Split(strings.TrimSpace(string(f.Data)), "\n")
			} else {
				c.files[f.Name] = string(f.Data)
			}
		}
		all = append(all, c)
	}
	return all
}

// Every problem of a broken commit is printed, with the file as the user would name it.
func TestValidateBrokenCommits(t *testing.T) {
	for _, c := range brokenCommits(t) {
		dir := t.TempDir()
		sourcetest.WriteTree(t, dir, c.files)
		r := cli(t, nil, "validate", dir, "--node", "test")
		for _, want := range c.want {
			if r.code != 1 || !strings.Contains(r.err, dir+"/"+want+"\n") {
				t.Errorf("%s: status %d, want 1 and %q\n%s", c.name, r.code, want, r.err)
			}
		}
	}
}

// One file is checked with those that it refers to, and answers for its own mistakes only.
func TestValidateOneFile(t *testing.T) {
	dir := t.TempDir()
	sourcetest.WriteTree(t, dir, sourcetest.Files{
		"good.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: a}\nspec:\n  image: x:1\n  network: none\n  mounts: [{path: /c, config: c}]\n",
		"c.yaml":    "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: c}\ndata: {k: v}\n",
		"bad.yaml":  "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: b}\nspec: {}\n",
	})
	if r := cli(t, nil, "validate", filepath.Join(dir, "good.yaml")); r.code != 0 {
		t.Errorf("good.yaml: %s", r.err)
	}
	if r := cli(t, nil, "validate", filepath.Join(dir, "bad.yaml")); r.code != 1 || !strings.Contains(r.err, filepath.Join(dir, "bad.yaml")+":") {
		t.Errorf("bad.yaml: status %d\n%s", r.code, r.err)
	}
}

// Files may be named from the whole repository, and a link that leaves it leads nowhere.
func TestValidateBelowARepository(t *testing.T) {
	repo := sourcetest.NewRepo(t)
	repo.Write(sourcetest.Files{
		"shared/site.txt":  "text",
		"fleet/web.yaml":   "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: web}\nfiles: {site: ../shared/site.txt}\n",
		"fleet2/out.yaml":  "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: web}\nfiles: {site: ./passwd}\n",
		"fleet2/passwd":    sourcetest.Symlink + "/etc/passwd",
		"fleet3/dots.yaml": "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: web}\nfiles: {site: ../../../../etc/passwd}\n",
	})
	if r := cli(t, nil, "validate", filepath.Join(repo.Work, "fleet")); r.code != 0 {
		t.Errorf("a file beside the path: %s", r.err)
	}
	for _, dir := range []string{"fleet2", "fleet3"} {
		if r := cli(t, nil, "validate", filepath.Join(repo.Work, dir)); r.code != 1 || !strings.Contains(r.err, ".yaml:4:") {
			t.Errorf("%s: status %d\n%s", dir, r.code, r.err)
		}
	}
}
