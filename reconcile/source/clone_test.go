package source_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// A server whose own history is cut off is no damaged clone.
func TestServerIsShallow(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	old := r.Commit("old", sourcetest.Files{"a.yaml": "0"})
	first := r.Commit("one", sourcetest.Files{"a.yaml": "1"})
	second := r.CommitPush("two", sourcetest.Files{"a.yaml": "2"})
	r.Git("clone", "--quiet", "--bare", "--depth=2", "file://"+r.Bare, filepath.Join(r.Root, "mirror.git"))
	cfg := source.Config{
		URL:    sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{}).Repo("mirror.git"),
		Logger: slog.New(slog.NewTextHandler(healthy{t}, nil)),
	}
	s := open(t, cfg)
	fetched(t, s, second)
	if ok, err := s.Descends(t.Context(), first, second); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	_, err := s.Descends(t.Context(), old, second)
	refused(t, err, source.ErrUnknownCommit)
	fetched(t, s, second)
}

// A clone that forgot where it was cut off is found out by the question it cannot answer, and made again.
func TestShallowListLost(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.Commit("one", sourcetest.Files{"a.yaml": "1"})
	r.Commit("between", nil)
	second := r.CommitPush("two", sourcetest.Files{"a.yaml": "2"})
	cfg := source.Config{URL: sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{}).Repo("fleet.git"), StateDir: t.TempDir()}
	s := open(t, cfg)
	fetched(t, s, second)
	remove(t, cfg.StateDir, "repo.git/shallow")
	_, err := s.Descends(t.Context(), first, second)
	refused(t, err, source.ErrCorrupt)
	fetched(t, s, second)
	if ok, err := s.Descends(t.Context(), first, second); !ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
}

// An agent and commands beside it use one clone: each fetches, looks into history and reads while the others do.
func TestOneCloneForSeveral(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	old := r.Commit("old", sourcetest.Files{"a.yaml": "0"})
	first := r.CommitPush("first", sourcetest.Files{"a.yaml": "1"})
	cfg := source.Config{
		URL:      sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{}).Repo("fleet.git"),
		StateDir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(healthy{t}, nil)),
	}
	done := make(chan struct{})
	var beside sync.WaitGroup
	for i := range 3 {
		beside.Go(func() {
			s := open(t, cfg)
			for {
				rev, err := s.Fetch(t.Context())
				if err != nil {
					t.Errorf("%d: %v", i, err)
					return
				}
				if fsys, err := s.Tree(t.Context(), rev.Commit); err != nil {
					t.Errorf("%d: %v", i, err)
				} else if _, err := fs.ReadFile(fsys, "a.yaml"); err != nil {
					t.Errorf("%d: %v", i, err)
				}
				if ok, err := s.Descends(t.Context(), []string{old, first}[i%2], rev.Commit); !ok || err != nil {
					t.Errorf("%d: %v %v", i, ok, err)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 5 {
		fetched(t, open(t, cfg), r.CommitPush("more", sourcetest.Files{"a.yaml": fmt.Sprint(i)}))
	}
	close(done)
	beside.Wait()
}

// Only the branch is fetched: no other branch, no tag, and a new process goes on with the clone.
func TestCloneIsSmallAndKept(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	r.Git("tag", "v1")
	r.Git("checkout", "--quiet", "-b", "other")
	elsewhere := r.Commit("elsewhere", sourcetest.Files{"b.yaml": "2"})
	r.Git("push", "--quiet", "origin", "other", "v1")
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	cfg := source.Config{URL: h.Repo("fleet.git"), StateDir: t.TempDir()}
	s := open(t, cfg)
	fetched(t, s, first)
	if _, err := s.Resolve(t.Context(), elsewhere); !errors.Is(err, source.ErrUnknownCommit) {
		t.Errorf("a commit of another branch is here: %v", err)
	}
	if _, err := s.Resolve(t.Context(), "v1"); !errors.Is(err, source.ErrUnknownCommit) {
		t.Errorf("a tag is here: %v", err)
	}
	h.Requests()
	s = open(t, cfg)
	if content(t, tree(t, s, first), "a.yaml") != "1" {
		t.Error("the clone is not readable before a fetch")
	}
	fetched(t, s, first)
	if got := h.Requests(); len(got) != 1 {
		t.Errorf("the clone was not used again: %q", got)
	}
	cfg.Branch = "other"
	fetched(t, open(t, cfg), elsewhere)

	r2 := sourcetest.NewRepo(t)
	moved := r2.CommitPush("another repository", sourcetest.Files{"c.yaml": "3"})
	cfg.URL, cfg.Branch = sourcetest.GitHTTP(t, r2.Root, sourcetest.HTTPOptions{}).Repo("fleet.git"), ""
	fetched(t, open(t, cfg), moved)
}

// A damaged clone is made again, whatever is broken.
func TestCorruptClone(t *testing.T) {
	t.Parallel()
	damages := map[string]func(t *testing.T, dir string){
		"pack cut short": func(t *testing.T, dir string) { truncate(t, dir, "objects/pack/*.pack", 40) },
		"pack zeroed": func(t *testing.T, dir string) {
			for _, name := range glob(t, dir, "objects/pack/*.pack") {
				info, _ := os.Stat(name)
				replace(t, name, make([]byte, info.Size()))
			}
		},
		"index empty":  func(t *testing.T, dir string) { truncate(t, dir, "objects/pack/*.idx", 0) },
		"branch empty": func(t *testing.T, dir string) { truncate(t, dir, "refs/heads/main", 0) },
		"branch nonsense": func(t *testing.T, dir string) {
			replace(t, filepath.Join(dir, "refs/heads/main"), []byte(strings.Repeat("ab", 20)+"\n"))
		},
		"no HEAD":      func(t *testing.T, dir string) { remove(t, dir, "HEAD") },
		"no objects":   func(t *testing.T, dir string) { remove(t, dir, "objects") },
		"no config":    func(t *testing.T, dir string) { remove(t, dir, "config") },
		"config torn":  func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "config"), []byte("[core\x00")) },
		"is a file":    func(t *testing.T, dir string) { remove(t, dir, "."); replace(t, dir, nil) },
		"half a clone": func(t *testing.T, dir string) { remove(t, dir, "refs"); remove(t, dir, "objects") },
		"HEAD garbage": func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "HEAD"), []byte("\x1b[31m\x00")) },
		"no pack": func(t *testing.T, dir string) {
			for _, name := range glob(t, dir, "objects/pack/*.pack") {
				remove(t, name, ".")
			}
		},
		"no index": func(t *testing.T, dir string) {
			for _, name := range glob(t, dir, "objects/pack/*.idx") {
				remove(t, name, ".")
			}
		},
		"locks left": func(t *testing.T, dir string) {
			for _, name := range []string{"HEAD", "config", "shallow", "refs/heads/main", "packed-refs"} {
				replace(t, filepath.Join(dir, name+".lock"), nil)
			}
		},
		"all files empty": func(t *testing.T, dir string) {
			for _, name := range append(glob(t, dir, "objects/pack/*"), glob(t, dir, "[a-zH]*")...) {
				if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
					replace(t, name, nil)
				}
			}
		},
		"shallow torn": func(t *testing.T, dir string) { replace(t, filepath.Join(dir, "shallow"), []byte("zz")) },
	}
	r := sourcetest.NewRepo(t)
	r.Commit("zero", nil)
	first := r.CommitPush("one", sourcetest.Files{"a.yaml": "1", "b.bin": strings.Repeat("x", 5000)})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			cfg := source.Config{URL: h.Repo("fleet.git"), StateDir: t.TempDir()}
			running := open(t, cfg)
			fetched(t, running, first)
			damage(t, filepath.Join(cfg.StateDir, "repo.git"))
			fresh := open(t, cfg)
			fetched(t, fresh, first)
			second := r.CommitPush("two", sourcetest.Files{"a.yaml": fmt.Sprint(name)})
			fetched(t, fresh, second)
			fetched(t, running, second) // the one that had it open finds the new clone
			r.Git("reset", "--quiet", "--hard", first)
			r.Push()
			entries, _ := os.ReadDir(cfg.StateDir)
			if len(entries) != 2 {
				t.Errorf("left behind in the state directory: %v", entries)
			}
		})
	}
}

// Damage that shows only while a file is read is an error that says so, and is repaired by the next fetch.
func TestDamageFoundWhileReading(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.CommitPush("one", sourcetest.Files{"a.yaml": strings.Repeat("0123456789", 50)})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	cfg := source.Config{URL: h.Repo("fleet.git"), StateDir: t.TempDir()}
	s := open(t, cfg)
	if fetch(t, s).Commit != first {
		t.Fatal("wrong commit")
	}
	fsys := tree(t, s, first)
	for _, name := range glob(t, cfg.StateDir, "repo.git/objects/pack/*") {
		if err := os.Chmod(name, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".pack") {
			// In place, as a bad disk would: the descriptor that is open sees it too.
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			info, _ := f.Stat()
			if _, err := f.WriteAt(make([]byte, info.Size()-12), 12); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
		}
	}
	_, err := fs.ReadFile(fsys, "a.yaml")
	refused(t, err, source.ErrCorrupt)
	fetched(t, s, first)
	if _, err := fs.ReadFile(fsys, "a.yaml"); err != nil {
		t.Errorf("the tree that was open does not read on: %v", err)
	}
}

// A clone that has grown many packs is made again, small.
func TestManyPacks(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "0"})
	server := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	cfg := source.Config{URL: server.Repo("fleet.git"), StateDir: t.TempDir()}
	s := open(t, cfg)
	first := fetch(t, s).Commit
	pack := glob(t, cfg.StateDir, "repo.git/objects/pack/*.pack")[0]
	for i := range 99 {
		for _, ext := range []string{".pack", ".idx"} {
			b, err := os.ReadFile(strings.TrimSuffix(pack, ".pack") + ext)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, filepath.Join(filepath.Dir(pack), fmt.Sprintf("pack-%040x%s", i, ext)), b)
		}
	}
	next := r.CommitPush("two", sourcetest.Files{"a.yaml": "1"})
	fetched(t, s, next)
	if n := len(glob(t, cfg.StateDir, "repo.git/objects/pack/*.pack")); n != 1 {
		t.Errorf("%d packs", n)
	}
	server.Requests()
	if ok, err := s.Descends(t.Context(), first, next); !ok || err != nil {
		t.Errorf("history is lost: %v %v", ok, err)
	}
	if asked := server.Requests(); len(asked) > 0 {
		t.Errorf("to see that the branch went on, the whole history was fetched: %v", asked)
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s in %s: %v", pattern, dir, err)
	}
	return names
}

// replace puts a new file in the place of another, which may be write-protected and open.
func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	_ = os.Remove(name)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, dir, pattern string, size int64) {
	t.Helper()
	for _, name := range glob(t, dir, pattern) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, name, b[:min(size, int64(len(b)))])
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// Two that follow different branches on one state directory, as an agent and `plan --branch other` beside it: each makes
// the clone its own, and neither takes it for damaged.
func TestCloneChangesHands(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	r.Git("checkout", "--quiet", "-b", "other")
	elsewhere := r.Commit("elsewhere", sourcetest.Files{"b.yaml": "2"})
	r.Git("push", "--quiet", "origin", "other")
	r.Git("checkout", "--quiet", "main")
	var log bytes.Buffer
	cfg := source.Config{
		URL: sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{}).Repo("fleet.git"), StateDir: t.TempDir(),
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}
	agent := open(t, cfg)
	fetched(t, agent, first)
	cfg.Branch = "other"
	beside := open(t, cfg)
	fetched(t, beside, elsewhere)
	fetched(t, agent, first)
	fetched(t, beside, elsewhere)
	fetched(t, agent, r.CommitPush("two", sourcetest.Files{"a.yaml": "2"}))
	if text := log.String(); strings.Contains(text, "damaged") || !strings.Contains(text, "another") {
		t.Errorf("logged:\n%s", text)
	}
}
