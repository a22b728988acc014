package manifest_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"reconciler/manifest"
)

// TestHostileFiles loads what nobody writes by accident. Each must be refused, quickly and in few words.
func TestHostileFiles(t *testing.T) {
	bomb := "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: x}\na0: &a0 {k: v}\n"
	for i := 1; i < 40; i++ {
		bomb += fmt.Sprintf("a%d: &a%d {x: *a%d, y: *a%d}\n", i, i, i-1, i-1)
	}
	listBomb := "a0: &a0 [x, x]\n"
	mergeBomb := "m0: &m0 {k0: v}\n"
	for i := 1; i < 40; i++ {
		listBomb += fmt.Sprintf("a%d: &a%d [*a%d, *a%d, *a%d]\n", i, i, i-1, i-1, i-1)
		mergeBomb += fmt.Sprintf("m%d: &m%d {<<: [*m%d, *m%d], k%d: v}\n", i, i, i-1, i-1, i)
	}
	chain := "c0: &c0 [x]\n"
	for i := 1; i < 100; i++ {
		chain += fmt.Sprintf("c%d: &c%d [*c%d]\n", i, i, i-1)
	}
	head := "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: x}\n"
	loopedEnv := head + "spec:\n  image: a\n  startupProbe: &p\n    exec: *p\n"
	for name, c := range map[string]struct{ data, want string }{
		"NUL":           {head + "spec: {image: a\x00}\n", "x.yaml:4:16: holds a NUL byte"},
		"invalid UTF-8": {head + "spec: {image: \"\xff\"}\n", "x.yaml:4:16: is not valid UTF-8"},
		"UTF-16":        {"\xff\xfea\x00p\x00", "x.yaml:1:1: is not valid UTF-8"},
		"too large":     {strings.Repeat("# 345678\n", 200_000), "x.yaml: cannot be read: too large"},
		"deep":          {head + "spec: " + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000), "x.yaml:4:70: is nested more than 64 levels deep"},
		"deeper":        {head + "spec: " + strings.Repeat("{a: ", 20_000), "not valid YAML"},
		"alias bomb":    {bomb + "spec: {image: a, env: *a39}\n", "x.yaml:1:1: holds more than 200000 values"},
		"list bomb":     {head + listBomb + "spec: {image: a, args: *a39}\n", "x.yaml:14:6: holds more than 200000 values"},
		"merge bomb":    {head + mergeBomb + "spec: {image: a, env: *m39}\n", "x.yaml:1:1: holds more than 200000 values"},
		"loop":          {loopedEnv, "x.yaml:7:11: the alias \"p\" stands inside of what it stands for"},
		"merge loop":    {head + "spec: &s\n  <<: *s\n  image: a\n", "x.yaml:5:7: the alias \"s\" stands inside"},
		"many values":   {head + "spec: {image: a, args: [" + strings.Repeat("a,", 300_000) + "]}\n", "holds more than 200000 values"},
		"many manifests": {
			strings.Repeat("--- {a: b}\n", 10_001),
			"more than 10000 manifests",
		},
		"bomb of an unknown field": {
			bomb + "spec: {image: a, foo: *a39, overrides: [{spec: {foo: *a39}}]}\n",
			"holds more than 200000 values",
		},
		"chain of aliases": {chain, "is nested more than 64 levels deep"},
		"unknown anchor":   {head + "spec: *nobody\n", "unknown anchor"},
		"tags":             {"!!python/object:os.system {}\n", "x.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Load(tree(map[string]string{"x.yaml": c.data}), manifest.Revision{}, manifest.Node{Name: "n"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.300v, want %q in it", err, c.want)
			}
			if err != nil && len(err.Error()) > 100_000 {
				t.Errorf("%d bytes of message", len(err.Error()))
			}
		})
	}
}

// Many documents may not ask for what one may not.
func TestHostileRepository(t *testing.T) {
	files := make(map[string]string)
	for i := range 60 {
		files[fmt.Sprintf("%02d.yaml", i)] = container(fmt.Sprintf("x-%d", i), "  image: a\n  nodeSelector: {zone: north}\n  args: &c ["+strings.Repeat("a,", 900)+"]\n"+
			"  initContainers:\n    - &i {name: i, args: *c}\n"+strings.Repeat("    - *i\n", 200))
	}
	want := "54.yaml:1:1: up to here the manifests hold more than 10000000 values for a node"
	if _, err := manifest.Load(tree(files), manifest.Revision{}, manifest.Node{Name: "n"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("documents: got %.300v, want %q", err, want)
	}

	files = map[string]string{"node.yaml": "apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n}\nspec: {defaults: {args: [" + strings.Repeat("a,", 150_000) + "]}}\n"}
	for i := range 100 {
		files[fmt.Sprintf("%02d.yaml", i)] = container(fmt.Sprintf("x-%d", i), "  image: a\n")
	}
	want = "up to here the manifests hold more than"
	if _, err := manifest.Load(tree(files), manifest.Revision{}, manifest.Node{Name: "n"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("defaults: got %.300v, want %q", err, want)
	}

	files = map[string]string{"x.yaml": container("x", "  image: a\n  overrides:\n"+strings.Repeat("    - {spec: {env: {A: b}}}\n", 2000))}
	if _, err := manifest.Load(tree(files), manifest.Revision{}, manifest.Node{Name: "n"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("overrides: got %.300v, want %q", err, want)
	}

	files = map[string]string{"x/.reconcilerignore": strings.Repeat("*.tmp\n", 1001)}
	want = "x/.reconcilerignore: holds more than 1000 patterns"
	if _, err := manifest.Load(tree(files), manifest.Revision{}, manifest.Node{Name: "n"}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("patterns: got %.300v, want %q", err, want)
	}
}

// However much is wrong, what is told stays readable.
func TestManyProblems(t *testing.T) {
	files := make(map[string]string)
	for i := range 1000 {
		files[fmt.Sprintf("%04d.yaml", i)] = container(fmt.Sprintf("x-%d", i), fmt.Sprintf("  image: a\n  dependsOn: [y-%d]\n  mounts: [{path: /a, config: c-%d}]\n", i, i))
	}
	_, err := manifest.Load(tree(files), manifest.Revision{}, manifest.Node{Name: "n"})
	if got := len(manifest.Problems(err)); got != 200 || !strings.HasSuffix(err.Error(), "\nonly the first 200 problems are told") {
		t.Errorf("%d problems: %.300v", got, err)
	}
}

// TestHostileNames keeps control characters of file names away from the terminal.
func TestHostileNames(t *testing.T) {
	_, err := manifest.Load(tree(map[string]string{"a\x1b[31m.yaml": "x"}), manifest.Revision{}, manifest.Node{Name: "n"})
	if err == nil || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("got %q", err)
	}
}

func TestPathThatIsNotThere(t *testing.T) {
	for path, want := range map[string]string{
		"deploy": "deploy: does not exist in the repository",
		"../x":   "../x: want a path inside the repository",
		"a.yaml": "a.yaml: cannot be read",
	} {
		_, err := manifest.Loader{Path: path}.Load(tree(map[string]string{"a.yaml": container("a", "  image: a\n")}), manifest.Revision{}, manifest.Node{Name: "n"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func TestEmptyRepositoryIsNoError(t *testing.T) {
	set, err := manifest.Load(fstest.MapFS{}, manifest.Revision{}, manifest.Node{Name: "n"})
	if err != nil || len(set.Workloads) != 0 || !set.NodeKnown {
		t.Errorf("got %+v, %v", set, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(container("a", "  image: a\n  env: {A: {label: x}}\n  overrides: [{spec: {args: [b]}}]\n")))
	f.Add([]byte("a: &a {<<: *a}\n---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n}\nspec: {defaults: {env: {A: b}}}\n"))
	f.Add([]byte(container("a", "  image: a\n  env: &e {A: b, <<: {C: d}}\n  overrides: [{spec: {env: {<<: *e, A: c}, mounts: [&m {path: /a, tmpfs: 1Mi}, *m]}}]\n")))
	f.Add([]byte("apiVersion: reconciler/v1\nkind: CronJob\nmetadata: {name: n}\nspec: {schedule: '* * * * *', timeZone: UTC, script: {inline: x}}\n"))
	f.Add([]byte("apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: n}\ndata: {a: b}\nfiles: {c: ./x.yaml}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		watchdog := time.AfterFunc(20*time.Second, func() { panic("still loading after 20 s") })
		defer watchdog.Stop()
		files := fstest.MapFS{"x.yaml": &fstest.MapFile{Data: data, Mode: 0o644}}
		sets, err := manifest.LoadAll(files, manifest.Revision{}, manifest.Node{Name: "n"})
		if err != nil {
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' && r != '\n' }) {
				t.Errorf("control characters in %q", err)
			}
			return
		}
		for _, s := range sets {
			for _, w := range s.Workloads {
				b, err := w.Encode()
				if err != nil {
					t.Fatal(err)
				}
				again, err := manifest.DecodeWorkload(b)
				if err != nil {
					t.Fatal(err)
				}
				if d := manifest.Diff(w, again); len(d) > 0 {
					t.Errorf("lost in storage: %+v", d)
				}
			}
		}
	})
}
