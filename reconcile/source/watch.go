package source

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet      = 30 * time.Millisecond  // a burst is over, and announced, after this long without an event
	longest    = 300 * time.Millisecond // or after this long, over or not
	watchAgain = 5 * time.Second        // between looks for a path that is not there
	maxWatched = 8192                   // directories; the rest is noticed by polling
)

// watcher turns file system events into hints.
type watcher struct {
	src   *Source
	notes *fsnotify.Watcher
	hints chan struct{}
	quiet time.Duration
	most  time.Duration   // the longest burst
	dirs  map[string]bool // watched
	full  bool            // no more can be watched
	// armed says that what is to be watched was there at the last look.
	armed bool
	git   bool
	refs  string // where a repository's branches are
}

func (s *Source) watchLocal(ctx context.Context) (<-chan struct{}, error) {
	w, err := s.newWatcher()
	if err != nil {
		return nil, err
	}
	w.arm()
	go w.run(ctx)
	return w.hints, nil
}

func (s *Source) newWatcher() (*watcher, error) {
	notes, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, withHint(err, "raise fs.inotify.max_user_instances with sysctl; until then changes are seen by polling")
	}
	return &watcher{
		src: s, notes: notes, hints: make(chan struct{}, 1), quiet: quiet, most: longest, dirs: make(map[string]bool),
	}, nil
}

// arm watches what is at the path now.
func (w *watcher) arm() {
	at, isGit, err := w.src.probe()
	if err != nil {
		w.armed = false
		return
	}
	w.git, w.armed = isGit, true
	if !isGit {
		w.add(w.src.at.dir, true)
		return
	}
	// A push renames into refs/heads; git pack-refs and gc write packed-refs.
	w.refs = filepath.Join(at.common, "refs")
	w.add(at.common, false)
	w.add(w.refs, false)
	w.add(filepath.Join(w.refs, "heads"), true)
}

// add watches a directory, and with deep those below it.
func (w *watcher) add(dir string, deep bool) {
	if w.full {
		return
	}
	if err := w.notes.Add(dir); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			w.src.log.Warn("a directory cannot be watched; changes there are seen by polling", "dir", dir, "error", err)
			w.full = true // it will not get better with the next ones
		}
		return
	}
	w.dirs[dir] = true
	if w.full = len(w.dirs) >= maxWatched; w.full {
		w.src.log.Warn("too many directories to watch all; other changes are seen by polling", "dir", w.src.at.dir, "watched", maxWatched)
	}
	if !deep {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // gone again; an event says so
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != ".git" {
			w.add(filepath.Join(dir, e.Name()), true)
		}
	}
}

func (w *watcher) run(ctx context.Context) {
	defer func() { _ = w.notes.Close() }()
	look := time.NewTicker(w.src.lookAgain)
	defer look.Stop()
	over := time.NewTimer(time.Hour) // when the burst that is going on ends
	over.Stop()
	defer over.Stop()
	var since time.Time // when it began; zero: none is going on
	told := false       // of all of it so far
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.notes.Events:
			if !ok {
				return
			}
			if !w.matters(e) {
				continue
			}
			now := time.Now()
			// What a branch points at is there before the branch is moved, by one rename: nothing is to be waited for. The
			// files of a directory come one by one.
			if told = since.IsZero() && w.git; told {
				w.hint()
			}
			if since.IsZero() {
				since = now
			}
			over.Reset(min(w.quiet, max(0, w.most-now.Sub(since))))
		case err, ok := <-w.notes.Errors:
			if !ok {
				return
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				w.src.log.Warn("watching for changes", "dir", w.src.at.dir, "error", err)
			}
			w.hint() // something may have been missed
		case <-over.C:
			since = time.Time{}
			if !told {
				w.hint()
			}
		case <-look.C:
			if !w.armed {
				if w.arm(); w.armed {
					w.hint()
				}
			}
		}
	}
}

// matters keeps the watches in step with the directories and says whether a look is worth it.
func (w *watcher) matters(e fsnotify.Event) bool {
	if e.Has(fsnotify.Remove) || e.Has(fsnotify.Rename) {
		if w.dirs[e.Name] {
			below := e.Name + string(filepath.Separator)
			maps.DeleteFunc(w.dirs, func(dir string, _ bool) bool { return dir == e.Name || strings.HasPrefix(dir, below) })
			w.full = false
		}
		if e.Name == w.src.at.dir {
			w.armed = false
		}
	}
	if w.git {
		if strings.HasSuffix(e.Name, ".lock") || e.Op == fsnotify.Chmod {
			return false
		}
		if e.Has(fsnotify.Create) && strings.HasPrefix(e.Name, w.refs) {
			w.addIfDir(e.Name)
		}
		return w.movesBranch(e.Name) || !w.armed
	}
	if filepath.Base(e.Name) == ".git" {
		return false
	}
	if e.Has(fsnotify.Create) {
		w.addIfDir(e.Name)
	}
	return true
}

// movesBranch reports whether what happened at path may have moved the branch that is followed: others are not ours to look at.
func (w *watcher) movesBranch(path string) bool {
	if filepath.Base(path) == "packed-refs" {
		return true
	}
	ref, below := strings.CutPrefix(path+"/", w.refs+"/")
	return below && strings.HasPrefix("heads/"+w.src.cfg.Branch+"/", ref) // the branch, or a directory above it
}

func (w *watcher) addIfDir(name string) {
	if info, err := os.Lstat(name); err == nil && info.IsDir() {
		w.add(name, true)
	}
}

func (w *watcher) hint() {
	select {
	case w.hints <- struct{}{}:
	default: // one is waiting already
	}
}
