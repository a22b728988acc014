package source_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os/exec"
	goruntime "runtime"
	"strings"
	"testing"
	"unicode"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// A directory of very many entries is refused, in bounded memory, whether it is told by its size or its number.
func TestManyEntries(t *testing.T) {
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "a"})
	r.InBare("config", "core.compression", "1")
	blob := r.Git("rev-parse", "HEAD:a.yaml")
	var hash []byte
	if _, err := fmt.Sscanf(blob, "%x", &hash); err != nil {
		t.Fatal(err)
	}
	tree := func(content []byte) string {
		cmd := exec.Command("git", "hash-object", "-t", "tree", "-w", "--stdin", "--literally")
		cmd.Dir, cmd.Env, cmd.Stdin = r.Bare, sourcetest.Env(), bytes.NewReader(content)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	many := func(n int) string {
		var b bytes.Buffer
		for i := range n {
			fmt.Fprintf(&b, "100644 %07d\x00%s", i, hash)
		}
		return tree(b.Bytes())
	}
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	for name, c := range map[string]struct {
		entries int
		below   bool
		url     string
	}{
		"too many, below":        {260_000, true, r.Bare},
		"too large, from a pack": {1_000_000, false, h.Repo("fleet.git")},
	} {
		t.Run(name, func(t *testing.T) {
			top := many(c.entries)
			if c.below {
				var sub []byte
				if _, err := fmt.Sscanf(top, "%x", &sub); err != nil {
					t.Fatal(err)
				}
				top = tree(append([]byte("40000 sub\x00"), sub...))
			}
			r.InBare("update-ref", "refs/heads/main", r.InBare("commit-tree", "-m", "many", top))
			s := open(t, source.Config{URL: c.url})
			goruntime.GC()
			var before, after goruntime.MemStats
			goruntime.ReadMemStats(&before)
			err := walkAll(t, s)
			goruntime.ReadMemStats(&after)
			refused(t, err, source.ErrTooLarge, "more than")
			if got := (after.TotalAlloc - before.TotalAlloc) >> 20; got > 300 {
				t.Errorf("%d MiB were allocated", got)
			}
		})
	}
}

// walkAll fetches and lists every directory.
func walkAll(t *testing.T, s *source.Source) error {
	t.Helper()
	rev, err := s.Fetch(t.Context())
	if err != nil {
		return err
	}
	fsys, err := s.Tree(t.Context(), rev.Commit)
	if err != nil {
		return err
	}
	return fs.WalkDir(fsys, ".", func(_ string, _ fs.DirEntry, err error) error { return err })
}

// Whatever is in a name, no error, hint or revision repeats it raw.
func TestNamesAreNotPrintedRaw(t *testing.T) {
	t.Parallel()
	const evil = "\x1b[2J\x07evil\nname\u202e"
	r := sourcetest.NewRepo(t)
	r.Commit("one"+evil+"\n\nbody", sourcetest.Files{
		evil + "/x.yaml": "x", "link" + evil: sourcetest.Symlink + "/" + evil, "loop" + evil: sourcetest.Symlink + "loop" + evil,
	})
	r.Push()
	s := open(t, source.Config{URL: r.Bare, Path: "nowhere"})
	rev := fetch(t, s)
	texts := []string{rev.Subject, rev.Author}
	say := func(err error) {
		t.Helper()
		if err == nil {
			t.Error("it did not fail")
			return
		}
		texts = append(texts, err.Error(), source.Hint(err))
	}
	_, err := s.Tree(t.Context(), rev.Commit)
	say(err) // its hint names what is at the top
	fsys := tree(t, open(t, source.Config{URL: r.Bare}), rev.Commit)
	for _, name := range []string{"link" + evil, "loop" + evil, evil + "/none", "none" + evil} {
		_, err = fs.ReadFile(fsys, name)
		say(err)
		_, err = fs.ReadDir(fsys, name)
		say(err)
	}
	_, err = s.Resolve(t.Context(), evil)
	say(err)
	for _, text := range texts {
		if strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == '\u202e' }) {
			t.Errorf("raw: %q", text)
		}
	}
}
