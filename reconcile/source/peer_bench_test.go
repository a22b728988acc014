package source_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// history is a repository of 2,000 files with 2,000 commits, as a host keeps it: in one pack.
type history struct {
	*sourcetest.Repo

	commits int
}

func newHistory(b *testing.B) *history {
	b.Helper()
	h := &history{Repo: sourcetest.NewRepo(b)}
	h.grow(b, 2000)
	h.InBare("gc", "--quiet", "--aggressive")
	return h
}

// grow adds commits of one changed file each; the first adds all 2,000.
func (h *history) grow(b *testing.B, n int) {
	b.Helper()
	var in bytes.Buffer
	write := func(i, version int) {
		body := fmt.Sprintf("apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: app-%d}\nspec:\n  image: registry.example.com/app-%d:%d\n%s",
			i, i, version, strings.Repeat(fmt.Sprintf("  # what the %d. is for, and who to ask\n", i), 20))
		fmt.Fprintf(&in, "M 100644 inline apps/%02d/%04d.yaml\ndata %d\n%s\n", i%50, i, len(body), body)
	}
	for range n {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter Ada <ada@example.com> %d +0000\ndata 2\nx\n\n", 1_700_000_000+h.commits)
		if h.commits == 0 {
			for i := range 2000 {
				write(i, 0)
			}
		} else {
			if n == 1 { // a new process does not know what it goes on from
				in.Truncate(in.Len() - 1)
				fmt.Fprint(&in, "from refs/heads/main^0\n")
			}
			write(h.commits%2000, h.commits)
		}
		h.commits++
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Env, cmd.Stdin = h.Bare, sourcetest.Env(), &in
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("git fast-import: %v\n%s", err, out)
	}
}

// beside takes the time of two ways to do the same, in turns, and reports the medians and their ratio.
func beside(b *testing.B, before, ours, theirs func()) {
	b.Helper()
	var a, g []time.Duration
	clock := func(f func()) time.Duration {
		begun := time.Now()
		f()
		return time.Since(begun)
	}
	for b.Loop() {
		before()
		a = append(a, clock(ours))
		g = append(g, clock(theirs))
	}
	median := func(all []time.Duration) float64 {
		slices.Sort(all)
		return float64(all[len(all)/2]) / float64(time.Millisecond)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(a), "ours-ms")
	b.ReportMetric(median(g), "git-ms")
	b.ReportMetric(median(a)/median(g), "ratio")
}

// BenchmarkBesideGit is what a clone, a new commit and a poll cost beside git.
func BenchmarkBesideGit(b *testing.B) {
	h := newHistory(b)
	server := sourcetest.GitHTTP(b, h.Root, sourcetest.HTTPOptions{})
	url := server.Repo("fleet.git")
	git := func(args ...string) {
		b.Helper()
		cmd := exec.Command("git", args...)
		cmd.Env = sourcetest.Env()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	fetch := func(s *source.Source) {
		b.Helper()
		if _, err := s.Fetch(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	open := func() *source.Source {
		b.Helper()
		s, err := source.Open(source.Config{URL: url, StateDir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	b.Run("clone", func(b *testing.B) {
		beside(b, func() {}, func() { fetch(open()) }, func() {
			git("clone", "--quiet", "--bare", "--depth=1", url, filepath.Join(b.TempDir(), "r.git"))
		})
	})
	clone := filepath.Join(b.TempDir(), "r.git")
	git("clone", "--quiet", "--bare", url, clone)
	gitFetch := func() { git("-C", clone, "fetch", "--quiet", "origin", "main:main") }
	s := open()
	fetch(s)
	b.Run("nothing new", func(b *testing.B) {
		beside(b, func() {}, func() { fetch(s) }, gitFetch)
	})
	server.Requests()
	fetch(s)
	if got := server.Requests(); len(got) != 1 {
		b.Fatalf("nothing new took %q", got)
	}
	b.Run("one commit", func(b *testing.B) {
		beside(b, func() { h.grow(b, 1) }, func() { fetch(s) }, gitFetch)
	})
	// Where what files came to is kept by their hashes, all that is read is directories and the file that changed.
	b.Run("one commit, its files listed", func(b *testing.B) {
		beside(b, func() { h.grow(b, 1) }, func() {
			rev, err := s.Fetch(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			listAll(b, s, rev.Commit)
		}, func() {
			gitFetch()
			git("-C", clone, "ls-tree", "-r", "main")
		})
	})
	b.Run("one commit, its files read", func(b *testing.B) {
		beside(b, func() { h.grow(b, 1) }, func() {
			rev, err := s.Fetch(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			readAll(b, s, rev.Commit)
		}, func() {
			gitFetch()
			git("-C", clone, "archive", "--output=/dev/null", "main")
		})
	})
}

func listAll(b *testing.B, s *source.Source, commit string) {
	b.Helper()
	fsys, err := s.Tree(b.Context(), commit)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	if err = fs.WalkDir(fsys, ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	}); err != nil || n != 2000 {
		b.Fatal(n, err)
	}
}
