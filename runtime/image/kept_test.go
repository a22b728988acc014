package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"reconciler/runtime/image/imagetest"
)

// Every way that a file changes by is seen, also one that leaves its size and its times as they were.
func TestKeptSeesEveryChange(t *testing.T) {
	long := time.Unix(1e9, 0)
	write := func(path, content string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), os.Chtimes(path, long, long)); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(path string){
		"replaced": func(path string) {
			write(path+".new", "b")
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"written into": func(path string) { write(path, "b") },
		"removed and made anew": func(path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(path, "b")
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			reads := 0
			var k kept[string]
			get := func() string {
				t.Helper()
				value, err := k.get(path, func() (string, error) {
					reads++
					b, err := os.ReadFile(path)
					return string(b), err
				})
				if err != nil {
					t.Fatal(err)
				}
				return value
			}
			write(path, "a")
			// One of which the clock could hide the next change is not kept.
			if get(); len(k.values) != 0 {
				t.Fatal("a file that has only just changed is kept")
			}
			for deadline := time.Now().Add(time.Minute); len(k.values) == 0; get() {
				if time.Now().After(deadline) {
					t.Fatal("a file that does not change is never kept")
				}
			}
			before := reads
			if got := get(); got != "a" || reads != before {
				t.Fatalf("got %q by %d reads of what is kept", got, reads-before)
			}
			change(path)
			if got := get(); got != "b" {
				t.Fatalf("after it was changed, still %q", got)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if _, err := k.get(path, func() (string, error) { return "", nil }); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("of a file that is gone: %v", err)
			}
		})
	}
}

// An agent that keeps the index in memory sees what `image rm` and `image pull` of another process do to it.
func TestAnotherProcessChangesTheIndex(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, simple(t, "old"))
	s := newStore(t)
	other, err := Open(s.opts)
	if err != nil {
		t.Fatal(err)
	}
	keep := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); len(s.index.values) == 0 || len(s.manifests.values) == 0 || len(s.records.values) == 0; {
			if _, ok, err := s.Find(ref, ""); err != nil || !ok || time.Now().After(deadline) {
				t.Fatalf("found: %v, %v", ok, err)
			}
		}
	}
	ensure(t, s, ref)
	keep()
	if _, err := other.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Find(ref, ""); ok || err != nil {
		t.Fatalf("what another process removed is still found: %v", err)
	}
	imagetest.Push(t, ref, simple(t, "new"))
	ensure(t, other, ref)
	if img := ensure(t, s, ref); read(t, img, "hello") != "new" {
		t.Fatal("what another process pulled is not found")
	}
	keep()
	img := ensure(t, s, ref)
	img.Config.Env = append(img.Config.Env[:0], "A=changed by a caller")
	img.Layers[0] = ""
	if got := ensure(t, s, ref); got.Layers[0] == "" || len(got.Config.Env) > 0 && got.Config.Env[0] == img.Config.Env[0] {
		t.Fatalf("what a caller does to an image is kept: %+v", got)
	}
}
