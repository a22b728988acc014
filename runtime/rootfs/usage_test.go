package rootfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// What is counted are the blocks of the files that are there, each once, and nothing that links lead to.
func TestCountStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write := func(path string, size int) {
		t.Helper()
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	empty, err := count(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err = os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "sub", "file"), 1<<20)
	write(filepath.Join(outside, "large"), 8<<20)
	if err = errors.Join(
		os.Link(filepath.Join(dir, "sub", "file"), filepath.Join(dir, "again")),
		os.Symlink(outside, filepath.Join(dir, "out")), os.Symlink("..", filepath.Join(dir, "sub", "up")),
	); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(sparse.Truncate(1<<30), sparse.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := count(t.Context(), dir)
	if got -= empty; err != nil || got < 1<<20 || got > 1<<20+64<<10 {
		t.Errorf("%d bytes, %v; want a MiB and a little", got, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = count(ended, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}
