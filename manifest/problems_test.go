package manifest_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"

	"reconciler/manifest"
)

// TestProblems loads the tree of each archive in testdata/problems, and of those that are shared, and compares every
// problem and warning with its section "want". The comment of an archive may name the node and its labels,
// "node: edge-1 zone=north", or say "all nodes".
func TestProblems(t *testing.T) {
	var archives []string
	for _, dir := range []string{"testdata/problems", "../testdata/broken"} {
		found, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
		if err != nil || len(found) == 0 {
			t.Fatal("no archives in", dir, err)
		}
		archives = append(archives, found...)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files := make(fstest.MapFS)
			want := -1
			for i, f := range ar.Files {
				if f.Name == "want" {
					want = i
					continue
				}
				files[f.Name] = &fstest.MapFile{Data: f.Data, Mode: 0o644}
			}
			got := outcome(files, string(ar.Comment))
			if want < 0 {
				want = len(ar.Files)
				ar.Files = append(ar.Files, txtar.File{Name: "want"})
			}
			if flag.Lookup("update").Value.String() == "true" {
				ar.Files[want].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(ar.Files[want].Data) {
				t.Errorf("got:\n%s\nwant:\n%s", got, ar.Files[want].Data)
			}
		})
	}
}

func outcome(files fstest.MapFS, comment string) string {
	node := manifest.Node{Name: "test", Labels: map[string]string{}}
	loader := manifest.Loader{}
	var all bool
	for line := range strings.Lines(comment) {
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[0] == "all":
			all = true
		case len(words) == 2 && words[0] == "path:":
			loader.Path = words[1]
		case len(words) > 1 && words[0] == "node:":
			node.Name = words[1]
			for _, l := range words[2:] {
				key, value, _ := strings.Cut(l, "=")
				node.Labels[key] = value
			}
		}
	}
	var sets []manifest.Set
	var err error
	if all {
		sets, err = loader.LoadAll(files, manifest.Revision{}, node)
	} else {
		var set manifest.Set
		set, err = loader.Load(files, manifest.Revision{}, node)
		sets = []manifest.Set{set}
	}
	var b strings.Builder
	if err != nil {
		b.WriteString(err.Error() + "\n")
	}
	for _, w := range sets[0].Warnings {
		b.WriteString("warning: " + w.Error() + "\n")
	}
	if err == nil {
		for _, s := range sets {
			b.WriteString("node " + s.Node.Name + ":")
			for _, w := range s.Workloads {
				b.WriteString(" " + w.Name.Short())
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}
