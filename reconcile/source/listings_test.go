package source_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// A directory that a commit leaves alone is not read again: its object is taken away to show it. Whoever did not read it
// before misses it, and one that changes is read.
func TestUnchangedDirectoriesAreNotReadAgain(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	first := r.CommitPush("one", sourcetest.Files{"same/a.yaml": "a", "same/deep/b.yaml": "b", "other/c.yaml": "1"})
	s := open(t, source.Config{URL: r.Bare})
	names := func(fsys fs.FS) (all []string, err error) {
		return all, fs.WalkDir(fsys, ".", func(name string, _ fs.DirEntry, err error) error {
			all = append(all, name)
			return err
		})
	}
	want, err := names(fetched(t, s, first))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"same/deep", "same"} {
		hash := r.InBare("rev-parse", first+":"+dir)
		if err := os.Remove(filepath.Join(r.Bare, "objects", hash[:2], hash[2:])); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"2", "3", "1"} { // the last has the tree of the first
		second := r.CommitPush("more", sourcetest.Files{"other/c.yaml": text})
		fsys := fetched(t, s, second)
		got, err := names(fsys)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v, want %v", got, err, want)
		}
		if got := content(t, fsys, "other/c.yaml"); got != text {
			t.Errorf("other/c.yaml is %q, want %q", got, text)
		}
		again := open(t, source.Config{URL: r.Bare})
		_, err = names(tree(t, again, fetch(t, again).Commit))
		refused(t, err, source.ErrCorrupt)
	}
}
