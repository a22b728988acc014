package source

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/fsnotify/fsnotify"
)

// Directories that come and go do not use up what may be watched.
func TestWatchedDirectoriesAreCounted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(Config{URL: dir})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.newWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.notes.Close() }()
	go func() {
		for range w.notes.Events { // read, as run does
		}
	}()
	w.arm()
	for i := range 100 {
		top := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(filepath.Join(top, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
		w.matters(fsnotify.Event{Name: top, Op: fsnotify.Create})
		if err := os.RemoveAll(top); err != nil {
			t.Fatal(err)
		}
		w.matters(fsnotify.Event{Name: top, Op: fsnotify.Remove})
	}
	if len(w.dirs) != 1 || w.full {
		t.Errorf("%d directories are taken for watched, full: %v", len(w.dirs), w.full)
	}
}
