package image

import (
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"reconciler/runtime/image/imagetest"
)

func TestCorruption(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	digest := imagetest.Push(t, ref, simple(t, "x"))
	flip := func(t *testing.T, path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 0xff
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	blobs := func(s *Store, t *testing.T) (manifest, config, layer string) {
		h, _ := v1.NewHash(digest)
		m, _, err := s.manifest(h)
		if err != nil {
			t.Fatal(err)
		}
		return s.blobPath(h), s.blobPath(m.Config.Digest), s.blobPath(m.Layers[0].Digest)
	}
	for name, hurt := range map[string]func(*testing.T, *Store){
		"manifest": func(t *testing.T, s *Store) { m, _, _ := blobs(s, t); flip(t, m) },
		"config":   func(t *testing.T, s *Store) { _, c, _ := blobs(s, t); flip(t, c) },
		"layer blob and directory": func(t *testing.T, s *Store) {
			_, _, l := blobs(s, t)
			flip(t, l)
			img, _, _ := s.Find(ref, "")
			if err := os.RemoveAll(filepath.Dir(img.Layers[0])); err != nil {
				t.Fatal(err)
			}
		},
		"directory": func(t *testing.T, s *Store) {
			img, _, _ := s.Find(ref, "")
			if err := os.RemoveAll(img.Layers[0]); err != nil {
				t.Fatal(err)
			}
		},
		"record": func(t *testing.T, s *Store) {
			img, _, _ := s.Find(ref, "")
			flip(t, filepath.Join(filepath.Dir(img.Layers[0]), "layer.json"))
		},
		"index": func(t *testing.T, s *Store) {
			if err := os.WriteFile(s.indexPath(), []byte("{torn"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"power cut": func(t *testing.T, s *Store) {
			img, _, _ := s.Find(ref, "")
			if err := os.Truncate(filepath.Join(img.Layers[0], "hello"), 0); err != nil {
				t.Fatal(err)
			}
			s.boot = "another boot"
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			ensure(t, s, ref)
			hurt(t, s)
			img := ensure(t, s, ref)
			if img.Digest != digest || read(t, img, "hello") != "x" {
				t.Fatal("the image was not repaired")
			}
			if _, ok, err := s.Find("", digest); err != nil || !ok {
				t.Fatalf("Find: %v %v", ok, err)
			}
		})
	}
}

func TestSettledLayersSurviveAReboot(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, simple(t, "x"))
	s := newStore(t)
	img := ensure(t, s, ref)
	if _, err := s.Collect(t.Context(), nil, 100, 90); err != nil {
		t.Fatal(err)
	}
	s.boot = "another boot"
	if _, ok, err := s.Find("", img.Digest); !ok || err != nil {
		t.Fatalf("a layer that was synced is not trusted after a reboot: %v", err)
	}
}

// Where only the record of a layer rots, containers may run on its files: what repairs it must not take them away.
func TestLayerIsRepairedUnderWhatRunsOnIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts an overlay as a container has one")
	}
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, imagetest.Image(t, v1.Config{}, imagetest.Layer(t, imagetest.Tar(imagetest.File{Name: "sub/hello", Body: "x"}))))
	for name, hurt := range map[string]func(record string) error{
		"gone":  os.Remove,
		"empty": func(record string) error { return os.Truncate(record, 0) },
		"torn":  func(record string) error { return os.Truncate(record, 20) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			img := ensure(t, s, ref)
			dir := t.TempDir()
			mnt := filepath.Join(dir, "mnt")
			for _, d := range []string{"upper", "work", "mnt"} {
				if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			data := "lowerdir=" + img.Layers[0] + ",upperdir=" + dir + "/upper,workdir=" + dir + "/work"
			if err := unix.Mount("overlay", mnt, "overlay", 0, data); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := unix.Unmount(mnt, 0); err != nil {
					t.Error(err)
				}
			}()
			if err := hurt(filepath.Join(filepath.Dir(img.Layers[0]), "layer.json")); err != nil {
				t.Fatal(err)
			}
			runs := func(when string) {
				t.Helper()
				if b, err := os.ReadFile(filepath.Join(mnt, "sub/hello")); err != nil || string(b) != "x" {
					t.Fatalf("%s, what runs on the layer finds %q, %v", when, b, err)
				}
			}
			if got := ensure(t, s, ref); got.Digest != img.Digest || read(t, got, "sub/hello") != "x" {
				t.Fatal("the image was not repaired")
			}
			runs("after the repair")
			if _, err := s.Prune(t.Context(), []string{img.Digest}); err != nil {
				t.Fatal(err)
			}
			other, err := Open(s.opts) // sweeps at its first change
			if err != nil {
				t.Fatal(err)
			}
			ensure(t, other, ref)
			if err = other.make(); err != nil {
				t.Fatal(err)
			}
			runs("after collecting what is unused")
			if other, err = Open(s.opts); err != nil {
				t.Fatal(err)
			}
			other.boot = "another boot"
			if err = other.make(); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(filepath.Join(s.layers, asidePrefix+"*")); len(left) != 0 {
				t.Errorf("kept after the next boot: %v", left)
			}
		})
	}
}
