package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// quiet is how long a secret's directory must be at rest before it is read, so that files that are written one after
// another are taken up together.
const quiet = 250 * time.Millisecond

// secretWatch watches the directories of the secrets in use, also those that are not there at the moment, so that a changed one is seen at once. Where that is not
// possible it is seen at the next poll.
type secretWatch struct {
	dirs []string
	stop context.CancelFunc
}

// watchSecrets watches what the last plan read, in a goroutine of its own.
func (l *loop) watchSecrets(ctx context.Context) {
	dirs := l.secrets.dirs
	if slices.Equal(dirs, l.watched.dirs) {
		return
	}
	if l.watched.stop != nil {
		l.watched.stop()
	}
	l.watched = secretWatch{dirs: dirs}
	if len(dirs) == 0 {
		return
	}
	ctx, l.watched.stop = context.WithCancel(ctx)
	l.wg.Go(func() {
		if err := l.cfg.watchDirs(ctx, dirs, l.a.poke); err != nil {
			l.log.Warn("cannot watch the secrets, looking at every poll instead", "error", err)
		}
	})
}

// watchDirs calls changed when it has begun to watch, and whenever something in dirs changed and they are at rest
// again, until ctx ends. Their parents are watched too, for one that is taken away and made again.
func watchDirs(ctx context.Context, dirs []string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer func() { _ = w.Close() }()
	for _, dir := range dirs {
		for _, path := range []string{filepath.Dir(filepath.Clean(dir)), dir} {
			if addErr := w.Add(path); !errors.Is(addErr, fs.ErrNotExist) {
				err = errors.Join(err, addErr)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	changed()
	rest := time.NewTimer(quiet)
	rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if slices.ContainsFunc(dirs, func(dir string) bool { return isOrIsIn(dir, e.Name) }) {
				rest.Reset(quiet)
			}
		case err, open := <-w.Errors: // such as too many events for the kernel's queue
			if !open {
				return err
			}
			rest.Reset(quiet)
		case <-rest.C:
			for _, dir := range dirs {
				_ = w.Add(dir) // does nothing where it is watched
			}
			changed()
		}
	}
}

func isOrIsIn(dir, path string) bool {
	dir = filepath.Clean(dir)
	return path == dir || filepath.Dir(path) == dir
}
