package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"reconciler/runtime/atomicfile"
)

func TestWriteReplacesWholeWithMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, write := range []func(string, []byte, fs.FileMode) error{atomicfile.Write, atomicfile.WriteDurable} {
		for _, content := range []string{"long content", "short"} {
			if err := write(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			if err != nil || string(got) != content {
				t.Fatalf("got %q, %v", got, err)
			}
		}
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o644 {
		t.Fatalf("mode %v, %v", fi.Mode(), err)
	}
}

func TestWriteFailureLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("x"), 0o644); err == nil {
		t.Fatal("replaced a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}

// What a process left that died in Write goes, and nothing else does.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-2 * atomicfile.Abandoned)
	for name, age := range map[string]time.Time{
		".old.json.1.tmp": old, ".new.json.2.tmp": time.Now(), "visible.tmp": old, ".hidden": old, "file": old,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, age, age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, ".dir.3.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	left := func(age time.Duration) (names []string) {
		if err := atomicfile.Sweep(dir, age); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if got, want := left(atomicfile.Abandoned), []string{".dir.3.tmp", ".hidden", ".new.json.2.tmp", "file", "visible.tmp"}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	if got, want := left(0), []string{".dir.3.tmp", ".hidden", "file", "visible.tmp"}; !slices.Equal(got, want) {
		t.Errorf("left: %v, want %v", got, want)
	}
	if err := atomicfile.Sweep(filepath.Join(dir, "none"), 0); err != nil {
		t.Error(err)
	}
}
