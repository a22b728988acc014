package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestEveryFieldHasAClass fails for a field of Spec that Classes() does not speak of.
func TestEveryFieldHasAClass(t *testing.T) {
	table := Classes()
	used := make(map[string]bool)
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		if _, ok := table[path]; ok {
			used[path] = true
		}
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		_, covered := table[path]
		if typ.Kind() == reflect.Struct && typ.NumField() > 0 && !strings.Contains(path, "..") {
			fields := make(typeCache).of(typ).fields
			for _, f := range fields {
				walk(typ.FieldByIndex(f.index).Type, strings.TrimPrefix(path+"."+f.name, "."))
			}
			if len(fields) > 0 && !covered {
				return
			}
		}
		for p := path; p != ""; p = parent(p) {
			if _, ok := table[p]; ok {
				return
			}
		}
		t.Errorf("spec.%s has no class: add it to Classes()", path)
	}
	walk(reflect.TypeFor[Spec](), "")
	for path := range table {
		if !used[path] {
			t.Errorf("Classes() speaks of %s, which is no field", path)
		}
	}
}

func parent(path string) string {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return ""
	}
	return path[:i]
}

// TestDiff compares, for each archive in testdata/diffs, the workloads of the directories old and new.
func TestDiff(t *testing.T) {
	archives, err := filepath.Glob("testdata/diffs/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatal("no archives:", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files, want := make(fstest.MapFS), -1
			for i, f := range ar.Files {
				if f.Name == "want" {
					want = i
				}
				files[f.Name] = &fstest.MapFile{Data: f.Data, Mode: 0o644}
			}
			delete(files, "want")
			load := func(dir string) Workload {
				set, loadErr := Loader{Path: dir}.Load(files, Revision{}, Node{Name: "n"})
				if loadErr != nil || len(set.Workloads) != 1 {
					t.Fatalf("%s: %v, %d workloads", dir, loadErr, len(set.Workloads))
				}
				return set.Workloads[0]
			}
			var b strings.Builder
			changes := Diff(load("old"), load("new"))
			for _, c := range changes {
				fmt.Fprintf(&b, "%s: %s -> %s (%s)\n", c.Field, c.From, c.To, c.Class)
			}
			fmt.Fprintf(&b, "strongest: %s\n", Strongest(changes))
			if want < 0 {
				want, ar.Files = len(ar.Files), append(ar.Files, txtar.File{Name: "want"})
			}
			if *update {
				ar.Files[want].Data = []byte(b.String())
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if b.String() != string(ar.Files[want].Data) {
				t.Errorf("got:\n%swant:\n%s", b.String(), ar.Files[want].Data)
			}
		})
	}
}

// TestDiffSeesEveryField changes each field of Spec by itself and wants Diff to say so.
func TestDiffSeesEveryField(t *testing.T) {
	base := Workload{Kind: KindContainer, Name: Name{"default", "web"}}
	for _, f := range make(typeCache).of(reflect.TypeFor[Spec]()).fields {
		changed := base
		v := reflect.ValueOf(&changed.Spec).Elem().FieldByIndex(f.index)
		fill(v)
		changes := Diff(base, changed)
		if len(changes) == 0 || !strings.HasPrefix(changes[0].Field, "spec."+f.name) {
			t.Errorf("%s: %+v", f.name, changes)
		}
		if back := Diff(changed, base); len(back) != len(changes) {
			t.Errorf("%s: back %+v", f.name, back)
		}
		if same := Diff(changed, changed); len(same) != 0 {
			t.Errorf("%s: differs from itself: %+v", f.name, same)
		}
	}
}

// fill puts something into v that no default is.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		item := reflect.New(v.Type().Elem()).Elem()
		fill(item)
		v.SetMapIndex(reflect.ValueOf("key"), item)
	case reflect.String:
		v.SetString("something")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64:
		v.SetInt(7)
	case reflect.Uint32, reflect.Uint8:
		v.SetUint(7)
	}
}
