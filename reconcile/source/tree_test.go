package source_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// Trees are the same whether they come from a commit or a directory.
func TestTree(t *testing.T) {
	t.Parallel()
	files := sourcetest.Files{
		"apps/web.yaml": "web", "apps/sub/x.yaml": "x", "a.yaml": "a", "a/b.yaml": "sorts after a.yaml for git",
		"link.yaml": sourcetest.Symlink + "apps/web.yaml", "apps/up.yaml": sourcetest.Symlink + "../a.yaml",
		"dir": sourcetest.Symlink + "apps", "twice.yaml": sourcetest.Symlink + "dir/up.yaml", "empty.yaml": "",
		"name with \x1b[31m and\nnewline.yaml": "odd", ".git-like/config": "harmless", "apps/.gitmodules": "not at the top",
	}
	hostile := sourcetest.Files{
		"out.yaml": sourcetest.Symlink + "../../../../etc/passwd", "abs.yaml": sourcetest.Symlink + "/etc/passwd",
		"deep/out": sourcetest.Symlink + "../..", "loop": sourcetest.Symlink + "loop", "ping": sourcetest.Symlink + "pong",
		"pong": sourcetest.Symlink + "./ping", "over.yaml": sourcetest.Symlink + "deep/../../x", "dangling": sourcetest.Symlink + "nothing",
	}
	for name, make := range map[string]func(t *testing.T, f sourcetest.Files) (fs.FS, *source.Source){
		"commit": func(t *testing.T, f sourcetest.Files) (fs.FS, *source.Source) {
			r := sourcetest.NewRepo(t)
			r.CommitPush("all", f)
			s := open(t, source.Config{URL: r.Bare})
			return tree(t, s, fetch(t, s).Commit), s
		},
		"directory": func(t *testing.T, f sourcetest.Files) (fs.FS, *source.Source) {
			dir := t.TempDir()
			sourcetest.WriteTree(t, dir, f)
			s := open(t, source.Config{URL: dir})
			return tree(t, s, fetch(t, s).Commit), s
		},
	} {
		t.Run(name, func(t *testing.T) {
			fsys, _ := make(t, files)
			if err := fstest.TestFS(fsys, "apps/web.yaml", "apps/sub/x.yaml", "a.yaml", "a/b.yaml", "link.yaml", "empty.yaml"); err != nil {
				t.Error(err)
			}
			for name, want := range map[string]string{
				"link.yaml": "web", "apps/up.yaml": "a", "dir/web.yaml": "web", "dir/up.yaml": "a", "twice.yaml": "a", "empty.yaml": "",
			} {
				if got := content(t, fsys, name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
			keys := map[string]string{}
			if err := fs.WalkDir(fsys, ".", func(name string, e fs.DirEntry, err error) error {
				if k, ok := e.(manifest.Keyed); ok {
					keys[name] = k.ContentKey()
				}
				return err
			}); err != nil {
				t.Error(err)
			}
			for name, key := range keys {
				f := files[name]
				if link := strings.HasPrefix(f, sourcetest.Symlink); (key == "") != (link || f == "" && name != "empty.yaml") {
					t.Errorf("%s has the key %q", name, key)
				}
				for other, same := range keys {
					if key != "" && same != "" && (key == same) != (f == files[other]) {
						t.Errorf("%s and %s have the keys %q and %q", name, other, key, same)
					}
				}
			}
			_, err := fs.ReadFile(fsys, "a.yaml/b")
			if !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}

			fsys, _ = make(t, hostile)
			for name := range hostile {
				for _, read := range []func() error{
					func() error { _, e := fs.ReadFile(fsys, name); return e },
					func() error { _, e := fsys.Open(name); return e },
					func() error { _, e := fs.Stat(fsys, name); return e },
					func() error { _, e := fs.ReadDir(fsys, name); return e },
					func() error { _, e := fsys.Open(name + "/etc/passwd"); return e },
				} {
					err = read()
					if name == "dangling" {
						if !errors.Is(err, fs.ErrNotExist) {
							t.Errorf("%s: %v", name, err)
						}
						continue
					}
					refused(t, err, source.ErrSymlink, name)
				}
			}
			entries, err := fs.ReadDir(fsys, ".")
			if err != nil || len(entries) != len(hostile) {
				t.Errorf("they can still be listed: %v %v", entries, err)
			}
		})
	}
}

func TestSubmodule(t *testing.T) {
	t.Parallel()
	inner := sourcetest.NewRepo(t)
	inner.CommitPush("inner", sourcetest.Files{"inner.yaml": "inner"})
	r := sourcetest.NewRepo(t)
	r.Commit("outer", sourcetest.Files{"a.yaml": "a"})
	r.Git("submodule", "--quiet", "add", inner.Bare, "vendor/inner")
	commit := r.CommitPush("with a submodule", nil)
	fsys := fetched(t, open(t, source.Config{URL: r.Bare}), commit)
	if err := fstest.TestFS(fsys, "a.yaml", "vendor/inner"); err != nil {
		t.Error(err)
	}
	_, err := fs.ReadFile(fsys, "vendor/inner/inner.yaml")
	refused(t, err, source.ErrSubmodule, "vendor/inner")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("what is not fetched does not exist")
	}
}

// Objects that git would never write.
func TestHostileObjects(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "a"})
	blob := r.Git("rev-parse", "HEAD:a.yaml")
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	raw := func(t *testing.T, entries ...string) string { // mode SP name NUL hash
		t.Helper()
		var b strings.Builder
		for i := 0; i < len(entries); i += 3 {
			b.WriteString(entries[i] + " " + entries[i+1] + "\x00")
			var h []byte
			if _, err := fmt.Sscanf(entries[i+2], "%x", &h); err != nil {
				t.Fatal(err)
			}
			b.Write(h)
		}
		cmd := exec.Command("git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally")
		cmd.Dir, cmd.Env, cmd.Stdin = r.Bare, sourcetest.Env(), strings.NewReader(b.String())
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	commitTree := func(t *testing.T, tree string) fs.FS {
		t.Helper()
		commit := r.InBare("commit-tree", "-m", "hostile", tree)
		r.InBare("update-ref", "refs/heads/main", commit)
		s := open(t, source.Config{URL: r.Bare})
		return treeOf(t, s, fetch(t, s).Commit)
	}
	walk := func(fsys fs.FS) error {
		return fs.WalkDir(fsys, ".", func(_ string, _ fs.DirEntry, err error) error { return err })
	}
	for _, name := range []string{"..", ".", "a/b", "../../etc/passwd", ""} {
		t.Run("entry named "+name, func(t *testing.T) {
			sub := raw(t, "100644", name, blob)
			err := walk(commitTree(t, raw(t, "40000", "d", sub)))
			if err == nil || !strings.Contains(err.Error(), "malformed") {
				t.Errorf("%v", err)
			}
			if name == "" {
				return // git does not send it
			}
			s := open(t, source.Config{URL: h.Repo("fleet.git"), Path: "d/e"})
			_, err = s.Tree(t.Context(), fetch(t, s).Commit)
			refused(t, err, err, "malformed")
			if errors.Is(err, source.ErrUnreachable) {
				t.Errorf("the network is blamed: %v", err)
			}
		})
	}
	t.Run("two entries of one name", func(t *testing.T) {
		err := walk(commitTree(t, raw(t, "40000", "d", raw(t, "100644", "x", blob, "100755", "x", blob))))
		if err == nil || !strings.Contains(err.Error(), "malformed") {
			t.Errorf("%v", err)
		}
	})
	t.Run(".git inside", func(t *testing.T) {
		if got := content(t, commitTree(t, raw(t, "40000", ".git", raw(t, "100644", "config", blob))), ".git/config"); got != "a" {
			t.Errorf("%q", got)
		}
	})
	t.Run("a bomb of directories", func(t *testing.T) {
		dir := raw(t, "100644", "x", blob)
		for range 12 {
			var entries []string
			for i := range 10 {
				entries = append(entries, "40000", fmt.Sprint(i), dir)
			}
			dir = raw(t, entries...)
		}
		refused(t, walk(commitTree(t, dir)), source.ErrTooLarge)
	})
	t.Run("very deep", func(t *testing.T) {
		dir := raw(t, "100644", "x", blob)
		for range 200 {
			dir = raw(t, "40000", "d", dir)
		}
		refused(t, walk(commitTree(t, dir)), source.ErrTooLarge, "deep")
	})
	t.Run("missing objects", func(t *testing.T) {
		gone := strings.Repeat("ab", 20)
		fsys := commitTree(t, raw(t, "100644", "f", gone, "40000", "z", gone))
		_, err := fs.ReadFile(fsys, "f")
		refused(t, err, source.ErrCorrupt)
		_, err = fs.ReadDir(fsys, "z")
		refused(t, err, source.ErrCorrupt)
	})
}

func treeOf(t *testing.T, s *source.Source, commit string) fs.FS {
	t.Helper()
	return tree(t, s, commit)
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sourcetest.WriteTree(t, dir, sourcetest.Files{"a.yaml": "1", "sub/b.yaml": "2", ".git/HEAD": "x"})
	s := open(t, source.Config{URL: dir})
	first := fetch(t, s)
	if !strings.HasPrefix(first.Commit, "dir:") || len(first.Commit) != 68 || first.Time.IsZero() || !strings.Contains(first.Subject, "2 files") {
		t.Errorf("%+v", first)
	}
	if again := fetch(t, s); again.Commit != first.Commit || !again.Time.Equal(first.Time) {
		t.Errorf("nothing changed, but %+v", again)
	}
	if other := fetch(t, open(t, source.Config{URL: dir})); other.Commit != first.Commit {
		t.Error("another process sees another revision")
	}
	old := tree(t, s, first.Commit)
	seen := map[string]bool{first.Commit: true}
	for name, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("9"), 0o600) },
		"name":    func() error { return os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "bus")) },
		"mode":    func() error { return os.Chmod(filepath.Join(dir, "a.yaml"), 0o755) },
		"link":    func() error { return os.Symlink("a.yaml", filepath.Join(dir, "l")) },
		"empty":   func() error { return os.Mkdir(filepath.Join(dir, "empty"), 0o755) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		rev := fetch(t, s)
		if seen[rev.Commit] {
			t.Errorf("a changed %s is not seen", name)
		}
		seen[rev.Commit] = true
	}
	if content(t, old, "a.yaml") != "1" || content(t, old, "sub/b.yaml") != "2" {
		t.Error("the tree that was open changed with the directory")
	}
	if ok, err := s.Descends(t.Context(), first.Commit, fetch(t, s).Commit); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	_, err := s.Descends(t.Context(), strings.Repeat("ab", 20), fetch(t, s).Commit)
	refused(t, err, source.ErrUnknownCommit)
	_, err = s.Tree(t.Context(), "dir:"+strings.Repeat("0", 64))
	refused(t, err, source.ErrUnknownCommit)
	rev, err := s.Resolve(t.Context(), fetch(t, s).Commit[:12])
	if err != nil || rev.Commit != fetch(t, s).Commit {
		t.Errorf("%v %v", rev, err)
	}
	if _, err := open(t, source.Config{URL: "file://" + dir}).Fetch(t.Context()); !errors.Is(err, source.ErrNotFound) {
		t.Errorf("a file URL of a directory that is no repository: %v", err)
	}
}

// A large file is not kept, so it is checked when it is read.
func TestDirectoryLargeFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(name, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, source.Config{URL: dir})
	fsys := tree(t, s, fetch(t, s).Commit)
	if err := fstest.TestFS(onlyOpen{fsys}, "image.tar"); err != nil {
		t.Error(err)
	}
	changed := make([]byte, 3<<20)
	changed[2<<20] = 1
	if err := os.WriteFile(name, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := fs.ReadFile(onlyOpen{fsys}, "image.tar")
	refused(t, err, source.ErrChanged, "image.tar")
}

// onlyOpen hides ReadFile, which has a limit.
type onlyOpen struct{ fsys fs.FS }

func (o onlyOpen) Open(name string) (fs.File, error) { return o.fsys.Open(name) }

// A fifo or socket in the directory must not block, and a change within one clock tick must be seen.
func TestDirectoryOddities(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := exec.Command("mkfifo", filepath.Join(dir, "fifo")).Run(); err != nil {
		t.Skipf("needs mkfifo: %v", err)
	}
	name := filepath.Join(dir, "a.yaml")
	stamp := time.Now().Add(-time.Hour)
	s := open(t, source.Config{URL: dir})
	seen := map[string]bool{}
	for i := range 50 {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(f, "%02d", i); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, stamp, stamp); err != nil { // same inode, size and mtime
			t.Fatal(err)
		}
		rev := fetch(t, s)
		if seen[rev.Commit] {
			t.Fatalf("write %d is not seen", i)
		}
		seen[rev.Commit] = true
	}
	entries, err := fs.ReadDir(tree(t, s, fetch(t, s).Commit), ".")
	if err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
}

// A work tree is its files by its path, and its commits by its .git or file URL.
func TestWorkTree(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "committed"})
	r.Write(sourcetest.Files{"a.yaml": "edited"})
	s := open(t, source.Config{URL: r.Work})
	if got := content(t, tree(t, s, fetch(t, s).Commit), "a.yaml"); got != "edited" {
		t.Errorf("%q", got)
	}
	for _, url := range []string{"file://" + r.Work, filepath.Join(r.Work, ".git")} {
		if got := content(t, fetched(t, open(t, source.Config{URL: url}), commit), "a.yaml"); got != "committed" {
			t.Errorf("%s: %q", url, got)
		}
	}
}
