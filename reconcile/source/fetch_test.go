package source_test

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// What happens to a branch, over every transport.
func TestFetch(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			r := sourcetest.NewRepo(t)
			r.Commit("before", sourcetest.Files{"a.yaml": "old", "deep/er/b.yaml": "b"})
			first := r.CommitPush("Start\n\nReconciler-Allow: remove\n", sourcetest.Files{"a.yaml": "one"})
			cfg := w.cfg(t, r)
			cfg.Logger = slog.New(slog.NewTextHandler(healthy{t}, nil))
			s := open(t, cfg)
			rev := fetch(t, s)
			if rev.Commit != first || rev.Author != "Ada Lovelace <ada@example.com>" || rev.Subject != "Start" ||
				rev.Time.IsZero() || len(rev.Allow) != 1 || rev.Allow[0] != "remove" {
				t.Errorf("revision is %+v", rev)
			}
			if err := fstest.TestFS(fetched(t, s, first), "a.yaml", "deep/er/b.yaml"); err != nil {
				t.Error(err)
			}
			if again := fetch(t, s); again.Commit != first {
				t.Errorf("nothing new, but %s", again.Commit)
			}

			// A revert of the first commit that the clone has needs files that only its parent had.
			r.Git("revert", "--no-edit", "HEAD")
			r.Push()
			r.InBare("repack", "-a", "-d", "-b", "-q") // with a bitmap a server leaves out all that the client should have
			reverted := r.Head()
			if got := content(t, fetched(t, s, reverted), "a.yaml"); got != "old" {
				t.Errorf("after the revert a.yaml is %q", got)
			}
			if ok, err := s.Descends(t.Context(), first, reverted); !ok || err != nil {
				t.Errorf("the revert does not descend from what it reverts: %v %v", ok, err)
			}

			// A merge of a branch that began before the clone did.
			r.Git("checkout", "--quiet", "-b", "side", first+"~1")
			r.Commit("aside", sourcetest.Files{"side.yaml": "side"})
			r.Git("checkout", "--quiet", "main")
			r.Git("merge", "--quiet", "--no-edit", "side")
			r.Push()
			merged := r.Head()
			if got := content(t, fetched(t, s, merged), "side.yaml"); got != "side" {
				t.Errorf("side.yaml is %q", got)
			}
			for _, a := range []string{first, reverted, merged} {
				if ok, err := s.Descends(t.Context(), a, merged); !ok || err != nil {
					t.Errorf("the merge does not descend from %s: %v %v", a, ok, err)
				}
			}

			// The branch is moved back, then to another history.
			r.Git("reset", "--quiet", "--hard", first+"~1")
			r.Push()
			back := r.Head()
			fetched(t, s, back)
			if ok, err := s.Descends(t.Context(), merged, back); ok || err != nil {
				t.Errorf("the past descends from the future: %v %v", ok, err)
			}
			r.Git("checkout", "--quiet", "--orphan", "other")
			other := r.Commit("other", sourcetest.Files{"new.yaml": "new"})
			r.Push()
			fetched(t, s, other)
			if ok, err := s.Descends(t.Context(), back, other); ok || err != nil {
				t.Errorf("an unrelated history descends: %v %v", ok, err)
			}
			_, err := s.Descends(t.Context(), strings.Repeat("ab", 20), other)
			refused(t, err, source.ErrUnknownCommit)

			got, err := s.Resolve(t.Context(), other[:9])
			if err != nil || got.Commit != other {
				t.Errorf("resolve: %v %v", got, err)
			}
			_, err = s.Resolve(t.Context(), "deadbeef")
			refused(t, err, source.ErrUnknownCommit, "deadbeef")
		})
	}
}

// A clone of depth 1 that knows nothing of an older commit has to find out, not guess.
func TestDescendsBeyondAShallowClone(t *testing.T) {
	for _, w := range ways[:3] {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			r := sourcetest.NewRepo(t)
			var commits []string
			for i := range 5 {
				commits = append(commits, r.Commit(fmt.Sprint(i), sourcetest.Files{"a.yaml": fmt.Sprint(i)}))
			}
			r.Push()
			cfg := w.cfg(t, r)
			cfg.StateDir = t.TempDir()
			s := open(t, cfg)
			head := fetched(t, s, commits[4])
			shallow := filepath.Join(cfg.StateDir, "repo.git", "shallow")
			if b, err := os.ReadFile(shallow); err != nil || strings.TrimSpace(string(b)) != commits[4] {
				t.Fatalf("the clone is not shallow: %q %v", b, err)
			}
			if ok, err := s.Descends(t.Context(), commits[1], commits[4]); !ok || err != nil {
				t.Fatalf("4 does not descend from 1: %v %v", ok, err)
			}
			if b, err := os.ReadFile(shallow); err == nil && len(b) > 0 {
				t.Errorf("still cut off at %q", b)
			}
			if content(t, tree(t, s, commits[1]), "a.yaml") != "1" || content(t, head, "a.yaml") != "4" {
				t.Error("a tree is not readable after deepening")
			}
			next := r.CommitPush("next", sourcetest.Files{"a.yaml": "2"})
			fetched(t, s, next)
			if ok, err := s.Descends(t.Context(), next, commits[4]); ok || err != nil {
				t.Errorf("backwards: %v %v", ok, err)
			}
		})
	}
}

// A poll that finds nothing new is one request, and no pack; one that does is two. The connection stays.
func TestWarmFetch(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	const patience = time.Second
	s := open(t, source.Config{URL: h.Repo("fleet.git"), Timeout: patience})
	fetched(t, s, first)
	h.Requests()
	<-time.After(2 * patience) // a poll comes long after the one before
	fetched(t, s, first)
	if got := h.Requests(); len(got) != 1 || got[0] != "GET /fleet.git/info/refs" {
		t.Errorf("nothing new cost %q", got)
	}
	second := r.CommitPush("two", sourcetest.Files{"a.yaml": "2"})
	fetched(t, s, second)
	if got := h.Requests(); len(got) != 2 || got[1] != "POST /fleet.git/git-upload-pack" {
		t.Errorf("one new commit cost %q", got)
	}
	if n := h.Connections(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// Readers, polls and questions about history at the same time.
func TestConcurrent(t *testing.T) {
	for _, w := range []way{ways[0], ways[3]} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			r := sourcetest.NewRepo(t)
			old := r.Commit("old", sourcetest.Files{"a.yaml": "0"})
			first := r.CommitPush("first", sourcetest.Files{"a.yaml": "1", "b/c.yaml": "c", "big.bin": strings.Repeat("x", 2<<20)})
			s := open(t, w.cfg(t, r))
			fsys := tree(t, s, fetch(t, s).Commit)
			done := make(chan struct{})
			var readers sync.WaitGroup
			for i := range 2 {
				readers.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						time.Sleep(time.Millisecond) // leaves the processor to the git program
						for name, want := range map[string]int{"a.yaml": 1, "b/c.yaml": 1, "big.bin": 2 << 20} {
							if b, err := fs.ReadFile(onlyOpen{fsys}, name); err != nil || len(b) != want {
								t.Errorf("%s: %d bytes, %v", name, len(b), err)
								return
							}
						}
						if i == 0 {
							if ok, err := s.Descends(t.Context(), old, first); !ok || err != nil {
								t.Errorf("%v %v", ok, err)
								return
							}
						}
					}
				})
			}
			for i := range 3 {
				fetched(t, s, r.CommitPush("more", sourcetest.Files{"a.yaml": fmt.Sprint(i), "big.bin": sourcetest.Removed}))
			}
			close(done)
			readers.Wait()
		})
	}
}

func TestLargeFile(t *testing.T) {
	t.Parallel()
	for _, w := range []way{ways[0], ways[3]} {
		t.Run(w.name, func(t *testing.T) {
			r := sourcetest.NewRepo(t)
			big := strings.Repeat("not really random, but long\n", 100_000)
			commit := r.CommitPush("big", sourcetest.Files{"big.bin": big, "a.yaml": "1"})
			s := open(t, w.cfg(t, r))
			if fetch(t, s).Commit != commit {
				t.Fatal("wrong commit")
			}
			fsys := tree(t, s, commit)
			_, err := fs.ReadFile(fsys, "big.bin")
			refused(t, err, source.ErrTooLarge, "big.bin")
			f, err := fsys.Open("big.bin")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			info, err := f.Stat()
			if err != nil || info.Size() != int64(len(big)) {
				t.Fatalf("%v %v", info, err)
			}
			got, err := io.ReadAll(f)
			if err != nil || string(got) != big {
				t.Errorf("%d bytes of %d: %v", len(got), len(big), err)
			}
		})
	}
}
