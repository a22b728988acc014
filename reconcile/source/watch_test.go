package source

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

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

// A branch that was moved is announced at once, the files of a directory when no more of them come.
func TestWhoWaitsForTheEndOfABurst(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]string{"repository": "refs/heads/main", "directory": "a.yaml"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if name == "repository" {
				for _, sub := range []string{"objects", "refs/heads"} {
					if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
						t.Fatal(err)
					}
				}
			}
			s, err := Open(Config{URL: dir})
			if err != nil {
				t.Fatal(err)
			}
			w, err := s.newWatcher()
			if err != nil {
				t.Fatal(err)
			}
			w.quiet, w.most = time.Hour, time.Second
			if name == "repository" {
				w.most = time.Hour
			}
			w.arm()
			go w.run(t.Context())
			begun := time.Now()
			path := filepath.Join(dir, at)
			if err := os.WriteFile(path+".lock", []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".lock", path); err != nil {
				t.Fatal(err)
			}
			select {
			case <-w.hints:
			case <-time.After(time.Minute):
				t.Fatal("it is not announced")
			}
			if name == "directory" && time.Since(begun) < w.most {
				t.Error("it is announced before its burst is over")
			}
		})
	}
}

// Who pushes to another branch does not have this one looked at, nor wait for the end of a burst when it is moved next.
func TestOtherBranchesDoNotMatter(t *testing.T) {
	t.Parallel()
	w := &watcher{src: &Source{cfg: Config{Branch: "fleet/main"}}, git: true, armed: true, refs: "/srv/refs/x.git/refs", dirs: map[string]bool{}}
	for path, matters := range map[string]bool{
		"refs/heads/fleet/main": true, "refs/heads/fleet": true, "refs/heads": true, "refs": true, "packed-refs": true,
		"refs/heads/fleet/main.lock": false, "refs/heads/fleet/mainly": false, "refs/heads/main": false, "refs/heads/fleet/next": false,
		"refs/tags": false, "refs/tags/fleet/main": false, "HEAD": false, "objects": false,
	} {
		if got := w.matters(fsnotify.Event{Name: "/srv/refs/x.git/" + path, Op: fsnotify.Create}); got != matters {
			t.Errorf("%s: matters %v, want %v", path, got, matters)
		}
	}
}
