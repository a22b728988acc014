package source_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reconciler/manifest"
	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

func open(t *testing.T, cfg source.Config) *source.Source {
	t.Helper()
	if cfg.StateDir == "" {
		cfg.StateDir = t.TempDir()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	s, err := source.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type testWriter struct{ t *testing.T }

// healthy fails the test where the source repairs itself: that must not be what makes a fetch work.
type healthy struct{ t *testing.T }

func (h healthy) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "made again") {
		h.t.Errorf("repaired: %s", p)
	}
	return len(p), nil
}

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func fetch(t *testing.T, s *source.Source) manifest.Revision {
	t.Helper()
	rev, err := s.Fetch(t.Context())
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, source.Hint(err))
	}
	return rev
}

// fetched checks that the newest revision is commit, and that all its files can be read.
func fetched(t *testing.T, s *source.Source, commit string) fs.FS {
	t.Helper()
	if rev := fetch(t, s); rev.Commit != commit {
		t.Fatalf("fetched %s, want %s", rev.Commit, commit)
	}
	fsys := tree(t, s, commit)
	err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		_, err = fs.ReadFile(fsys, path)
		return err
	})
	if err != nil {
		t.Fatalf("reading %s: %v", commit, err)
	}
	return fsys
}

func tree(t *testing.T, s *source.Source, commit string) fs.FS {
	t.Helper()
	fsys, err := s.Tree(t.Context(), commit)
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, source.Hint(err))
	}
	return fsys
}

func content(t *testing.T, fsys fs.FS, name string) string {
	t.Helper()
	b, err := fs.ReadFile(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// refused checks an error's reason, and that its text and hint hold all the words.
func refused(t *testing.T, err, reason error, words ...string) {
	t.Helper()
	if !errors.Is(err, reason) {
		t.Fatalf("got %v, want %v", err, reason)
	}
	text := err.Error() + "\n" + source.Hint(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("nothing of %q in:\n%s", w, text)
		}
	}
	if strings.ContainsAny(err.Error(), "\x1b\n\r") {
		t.Errorf("raw control characters in %q", err)
	}
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// way is one way to the same repository.
type way struct {
	name string
	cfg  func(t *testing.T, r *sourcetest.Repo) source.Config
}

var ways = []way{
	{"http", func(t *testing.T, r *sourcetest.Repo) source.Config {
		return source.Config{URL: sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{}).Repo("fleet.git")}
	}},
	{"https with a token", func(t *testing.T, r *sourcetest.Repo) source.Config {
		h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{TLS: true, User: "x-access-token", Password: "sesame"})
		return source.Config{URL: h.Repo("fleet.git"), CAFile: h.CAFile, TokenFile: file(t, "sesame\n")}
	}},
	{"ssh", func(t *testing.T, r *sourcetest.Repo) source.Config {
		d := sourcetest.SSHD(t, sourcetest.SSHOptions{})
		return source.Config{URL: d.URL(r.Bare), SSHKey: d.Key, KnownHosts: d.KnownHosts}
	}},
	{"path", func(_ *testing.T, r *sourcetest.Repo) source.Config { return source.Config{URL: r.Bare} }},
	{"file", func(_ *testing.T, r *sourcetest.Repo) source.Config { return source.Config{URL: "file://" + r.Bare} }},
}
