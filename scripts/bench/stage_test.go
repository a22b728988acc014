package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestStageThatHangs: who hung once has a figure in that run all the same, and the page says that it hung; who fails is not tried again.
func TestStageThatHangs(t *testing.T) {
	dir := t.TempDir()
	b := &bench{figures: newFigures(), run: 3, runs: 5, n: 10, began: time.Now(), out: filepath.Join(dir, "page.md"), raw: filepath.Join(dir, "figures.json")}
	asked := 0
	b.stage(podman, nil, func() error {
		if asked++; asked == 1 {
			b.set("start", podman, 1)
			return fmt.Errorf("podman up: %w", errHung)
		}
		b.set("start", podman, 2)
		return nil
	})
	if asked != 2 || b.figures.Values["start"][podman][3] != 2 {
		t.Errorf("asked %d times, kept %v; want 2 times, and the figure of the second", asked, b.figures.Values["start"][podman])
	}
	if said := b.figures.Failed[podman]; !strings.HasPrefix(said, "run 3: measured again: podman up: did not end in time") {
		t.Errorf("the page says %q", said)
	}
	asked = 0
	b.stage(compose1, nil, func() error {
		asked++
		return errHung
	})
	if asked != attempts {
		t.Errorf("who always hangs was asked %d times, want %d", asked, attempts)
	}
	asked = 0
	b.stage(docker, nil, func() error {
		asked++
		return errors.New("no such image")
	})
	if asked != 1 {
		t.Errorf("who failed was asked %d times, want 1", asked)
	}
}

// TestDoThatHangs: a program that does not end in time is told from one that failed.
func TestDoThatHangs(t *testing.T) {
	b := &bench{dir: t.TempDir(), patience: 50 * time.Millisecond}
	if _, _, err := b.do(nil, "sleep", "1000"); !errors.Is(err, errHung) {
		t.Errorf("sleep: %v, want %v", err, errHung)
	}
	b.patience = 0
	if _, _, err := b.do(nil, "false"); err == nil || errors.Is(err, errHung) {
		t.Errorf("false: %v, want an error that is not about time", err)
	}
}
