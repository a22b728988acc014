package source_test

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// Reading a repository on this machine runs no program, and writes nothing.
func TestNoGitProgramIsNeeded(t *testing.T) {
	r := sourcetest.NewRepo(t)
	r.Commit("zero", nil)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	before := listing(t, r.Bare)
	t.Setenv("PATH", "")
	for _, url := range []string{r.Bare, "file://" + r.Bare} {
		state := t.TempDir()
		s := open(t, source.Config{URL: url, StateDir: state})
		fetched(t, s, commit)
		if ok, err := s.Descends(t.Context(), fetch(t, s).Commit, commit); !ok || err != nil {
			t.Error(ok, err)
		}
		if entries, _ := os.ReadDir(state); len(entries) > 0 {
			t.Errorf("written to the state directory: %v", entries)
		}
	}
	if after := listing(t, r.Bare); after != before {
		t.Errorf("the repository was changed:\n%s\n%s", before, after)
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if err == nil {
			b.WriteString(p + " " + info.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Another process repacks and prunes the repository that we read.
func TestRepackedUnderneath(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.CommitPush("one", sourcetest.Files{"a.yaml": "1", "b/c.yaml": "c"})
	s := open(t, source.Config{URL: r.Bare})
	if fetch(t, s).Commit != first {
		t.Fatal("wrong commit")
	}
	old := tree(t, s, first)
	for range 3 {
		r.InBare("repack", "-a", "-d", "-q")
		r.InBare("pack-refs", "--all")
		r.InBare("prune-packed")
		if content(t, old, "b/c.yaml") != "c" {
			t.Fatal("not readable")
		}
		fetched(t, s, r.CommitPush("more", sourcetest.Files{"a.yaml": time.Now().String()}))
	}
}

// A repository that is removed while it is read says nothing of the commit.
func TestRemovedUnderneath(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	s := open(t, source.Config{URL: r.Bare})
	if fetch(t, s).Commit != first {
		t.Fatal("wrong commit")
	}
	fsys := tree(t, s, first)
	if err := os.RemoveAll(r.Bare); err != nil {
		t.Fatal(err)
	}
	_, err := fs.ReadFile(fsys, "a.yaml")
	refused(t, err, source.ErrCorrupt)
	_, err = s.Fetch(t.Context())
	refused(t, err, source.ErrNotFound, r.Bare)
}

func TestOpenLocal(t *testing.T) {
	r := sourcetest.NewRepo(t)
	base := r.CommitPush("base", sourcetest.Files{"a.yaml": "1"})
	head := r.CommitPush("head", sourcetest.Files{"a.yaml": "2", "sub/b.yaml": "b"})
	r.Git("tag", "-a", "-m", "annotated", "v1", base)
	linked := filepath.Join(t.TempDir(), "linked")
	r.Git("worktree", "add", "--quiet", "--detach", linked, head)
	shared := filepath.Join(t.TempDir(), "shared")
	r.Git("clone", "--quiet", "--shared", r.Bare, shared)
	t.Setenv("PATH", "")
	for _, dir := range []string{r.Work, filepath.Join(r.Work, "sub"), filepath.Join(r.Work, ".git"), r.Bare, linked, shared} {
		s, err := source.OpenLocal(dir)
		if err != nil {
			t.Fatal(err)
		}
		if rev := fetch(t, s); rev.Commit != head {
			t.Errorf("%s: HEAD is %s", dir, rev.Commit)
		}
		for name, want := range map[string]string{"HEAD": head, "HEAD~1": base, "main": head, base[:7]: base, strings.ToUpper(head[:8]): head, head: head} {
			if dir == linked && name == "main" {
				continue
			}
			rev, err := s.Resolve(t.Context(), name)
			if err != nil || rev.Commit != want {
				t.Errorf("%s: %s is %s, want %s: %v", dir, name, rev.Commit, want, err)
			}
		}
		if content(t, tree(t, s, base), "a.yaml") != "1" {
			t.Errorf("%s: base is not readable", dir)
		}
		for _, name := range []string{"", "nope", "HEAD~9", "-x", "deadbeef", "dir:x", "\x1b[31m"} {
			_, err := s.Resolve(t.Context(), name)
			refused(t, err, source.ErrUnknownCommit)
		}
	}
	s, err := source.OpenLocal(r.Work)
	if err != nil {
		t.Fatal(err)
	}
	if rev, tagErr := s.Resolve(t.Context(), "v1"); tagErr != nil || rev.Commit != base {
		t.Errorf("annotated tag: %v %v", rev, tagErr)
	}
	_, err = source.OpenLocal(t.TempDir())
	refused(t, err, source.ErrNotFound, "clone")
	_, err = source.OpenLocal(filepath.Join(r.Work, "gone"))
	refused(t, err, source.ErrNotFound)
}

func TestOpenLocalShallow(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	base := r.CommitPush("base", sourcetest.Files{"a.yaml": "1"})
	r.CommitPush("head", sourcetest.Files{"a.yaml": "2"})
	clone := filepath.Join(t.TempDir(), "clone")
	r.Git("clone", "--quiet", "--depth=1", "file://"+r.Bare, clone)
	s, err := source.OpenLocal(clone)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve(t.Context(), base)
	refused(t, err, source.ErrUnknownCommit, "--unshallow")
}

// An abbreviation of two commits names neither.
func TestAmbiguousAbbreviation(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	// Two commits of no tree whose hashes begin alike: four digits collide after some 300.
	seen := map[string]string{}
	twice := ""
	for i := 0; twice == ""; i++ {
		body := fmt.Sprintf("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\n%d\n", i)
		short := fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "commit %d\x00%s", len(body), body)))[:4]
		if seen[short] != "" {
			twice = short
			for _, text := range []string{body, seen[short]} {
				if h := r.Git("hash-object", "-w", "-t", "commit", file(t, text)); h[:4] != short {
					t.Fatalf("%s is not %s…", h, short)
				}
			}
		}
		seen[short] = body
	}
	s, err := source.OpenLocal(r.Work)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Resolve(t.Context(), twice)
	refused(t, err, source.ErrUnknownCommit, "ambiguous", "more digits")
}

// A push, a new file, a change of what is there: each is a hint, and the fetch after it sees it.
func TestWatch(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	dir := t.TempDir()
	sourcetest.WriteTree(t, dir, sourcetest.Files{"a.yaml": "1", "sub/b.yaml": "2"})
	n := 0
	text := func() string { n++; return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		cfg     source.Config
		changes map[string]func()
	}{
		"bare": {source.Config{URL: r.Bare}, map[string]func(){
			"push":             func() { r.CommitPush("more", sourcetest.Files{"a.yaml": text()}) },
			"push, packed":     func() { r.InBare("pack-refs", "--all"); r.CommitPush("more", sourcetest.Files{"a.yaml": text()}) },
			"update by packed": func() { r.CommitPush("x", sourcetest.Files{"b.yaml": text()}); r.InBare("pack-refs", "--all") },
		}},
		"branch in a directory": {source.Config{URL: "file://" + r.Bare, Branch: "team/x"}, map[string]func(){
			"push": func() {
				r.Commit("more", sourcetest.Files{"a.yaml": text()})
				r.Git("push", "--quiet", "origin", "HEAD:refs/heads/team/x")
			},
		}},
		"directory": {source.Config{URL: dir}, map[string]func(){
			"change":          func() { sourcetest.WriteTree(t, dir, sourcetest.Files{"a.yaml": text()}) },
			"below":           func() { sourcetest.WriteTree(t, dir, sourcetest.Files{"sub/b.yaml": text()}) },
			"new directories": func() { sourcetest.WriteTree(t, dir, sourcetest.Files{"x" + text() + "/y/z.yaml": "z"}) },
			"removal":         func() { sourcetest.WriteTree(t, dir, sourcetest.Files{"sub/b.yaml": sourcetest.Removed}) },
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, c.cfg)
			hints, err := s.Watch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			last, _ := s.Fetch(t.Context()) // the branch may not be there yet
			for name, change := range c.changes {
				change()
				for deadline := time.After(10 * time.Second); ; {
					select { // first: without a hint nobody looks
					case <-hints:
					case <-deadline:
						t.Fatalf("%s: no hint", name)
					}
					rev, err := s.Fetch(t.Context())
					if err == nil && rev.Commit != last.Commit {
						last = rev
						break
					}
				}
			}
		})
	}
	if hints, err := open(t, source.Config{URL: "https://example.com/x.git"}).Watch(t.Context()); hints != nil || err != nil {
		t.Error("a remote cannot be watched", hints, err)
	}
}

// What is put in the place of the repository or directory is watched too.
func TestWatchWhatIsReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(t *testing.T) (path string, change func(string)){
		"bare": func(t *testing.T) (string, func(string)) {
			r := sourcetest.NewRepo(t)
			return r.Bare, func(text string) {
				if _, err := os.Lstat(r.Bare); err != nil {
					r.Git("init", "--quiet", "--bare", r.Bare)
				}
				r.CommitPush(text, sourcetest.Files{"a.yaml": text})
			}
		},
		"directory": func(t *testing.T) (string, func(string)) {
			dir := filepath.Join(t.TempDir(), "fleet")
			return dir, func(text string) {
				sourcetest.WriteTree(t, dir, sourcetest.Files{"sub/a.yaml": text})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, change := c(t)
			change("one")
			s := open(t, source.Config{URL: path})
			source.LookOften(s)
			hints, err := s.Watch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			last := fetch(t, s).Commit
			await := func(want bool) {
				t.Helper()
				for deadline := time.After(20 * time.Second); ; {
					select { // first: without a hint nobody looks
					case <-hints:
					case <-deadline:
						t.Fatal("no hint")
					}
					rev, err := s.Fetch(t.Context())
					if want && err == nil && rev.Commit != last || !want && errors.Is(err, source.ErrNotFound) {
						last = rev.Commit
						return
					}
				}
			}
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
			await(false)
			change("two")
			await(true)
			change("three")
			await(true)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			await(false)
			change("four")
			await(true)
			change("five")
			await(true)
		})
	}
}

// A burst is one hint, not one for each file.
func TestWatchCoalesces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, source.Config{URL: dir})
	ctx, cancel := context.WithCancel(t.Context())
	hints, err := s.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	many := sourcetest.Files{}
	for i := range 200 {
		many[strings.Repeat("n", i+1)+".yaml"] = "x"
	}
	start := time.Now()
	sourcetest.WriteTree(t, dir, many)
	got := 0
	for fetch(t, s); ; {
		select {
		case <-hints:
			got++
			continue
		case <-time.After(time.Second):
		}
		break
	}
	if most := 2 + int(time.Since(start)/(300*time.Millisecond)); got == 0 || got > most {
		t.Errorf("%d hints", got)
	}
	cancel()
}

func TestNextPoll(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	at := func(node string, now time.Time) time.Time {
		return open(t, source.Config{URL: "https://example.com/x", NodeName: node, Interval: time.Minute, StateDir: "/nowhere"}).NextPoll(now)
	}
	seconds := map[int]int{}
	for i := range 600 {
		node := "node-" + strings.Repeat("x", i%40) + string(rune('a'+i%26)) + time.Duration(i).String()
		next := at(node, now)
		if wait := next.Sub(now); wait < 6*time.Second || wait > 66*time.Second {
			t.Fatalf("%s waits %s", node, wait)
		}
		if !at(node, now).Equal(next) {
			t.Fatal("not the same for the same node")
		}
		if again := at(node, next.Add(-time.Millisecond)); again.Sub(next) != time.Minute {
			t.Fatalf("polled early, it polls again after %s", again.Sub(next))
		}
		if again := at(node, next.Add(time.Millisecond)); again.Sub(next) != time.Minute {
			t.Fatalf("polls are %s apart", again.Sub(next))
		}
		seconds[next.Second()/6]++
	}
	for tenth, n := range seconds {
		if n < 20 {
			t.Errorf("only %d of 600 nodes poll in tenth %d of the interval", n, tenth)
		}
	}
	if wait := at("x", time.Unix(-1000, 0)).Sub(time.Unix(-1000, 0)); wait <= 0 || wait > 66*time.Second {
		t.Errorf("before 1970 it waits %s", wait)
	}
}
