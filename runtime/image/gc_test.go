package image

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/runtime/image/imagetest"
)

// three pushes and pulls three images that share a layer, and returns them.
func three(t *testing.T, s *Store, reg *testRegistry) [3]Image {
	t.Helper()
	base := imagetest.Layer(t, imagetest.Tar(file{Name: "base", Body: "base"}))
	var images [3]Image
	for i, text := range []string{"one", "two", "three"} {
		ref := reg.host + "/" + text + ":1"
		imagetest.Push(t, ref, imagetest.Image(t, v1.Config{}, base, imagetest.Layer(t, imagetest.Tar(file{Name: "hello", Body: text}))))
		images[i] = ensure(t, s, ref)
		h, _ := v1.NewHash(images[i].Digest)
		used := time.Unix(1_700_000_000+int64(i), 0) // one is the oldest
		if err := os.Chtimes(s.blobPath(h), used, used); err != nil {
			t.Fatal(err)
		}
	}
	return images
}

func stored(t *testing.T, s *Store) (layers, blobs int) {
	t.Helper()
	l, err := os.ReadDir(s.layers)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadDir(filepath.Join(s.images, "blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	return len(l) - 1, len(b)
}

func TestPruneKeepsTheRoots(t *testing.T) {
	s, reg := newStore(t), newRegistry(t)
	images := three(t, s, reg)
	p, err := s.Prune(t.Context(), []string{images[1].Digest, "sha256:nonsense"})
	if err != nil || len(p.Images) != 2 || p.Layers != 2 || p.Blobs != 6 || p.Bytes <= 0 {
		t.Fatalf("pruned %+v: %v", p, err)
	}
	if layers, blobs := stored(t, s); layers != 2 || blobs != 4 {
		t.Fatalf("%d layers and %d blobs are left", layers, blobs)
	}
	if img, ok, err := s.Find("", images[1].Digest); !ok || err != nil || read(t, img, "base") != "base" {
		t.Fatalf("the kept image is broken: %v", err)
	}
	if _, err := s.Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if layers, blobs := stored(t, s); layers+blobs != 0 {
		t.Fatalf("%d layers and %d blobs are left of nothing", layers, blobs)
	}
	leftovers(t, s)
	ensure(t, s, images[0].Ref)
}

func TestRemove(t *testing.T) {
	s, reg := newStore(t), newRegistry(t)
	images := three(t, s, reg)
	h, _ := v1.NewHash(images[0].Digest)
	size, _ := s.blobSize(h)
	if err := s.record("example.com/second/name:1", v1.Descriptor{Digest: h, Size: size, MediaType: "application/vnd.oci.image.manifest.v1+json"}, images[0].Platform); err != nil {
		t.Fatal(err)
	}
	p, err := s.Remove(t.Context(), images[0].Ref)
	if err != nil || len(p.Images) != 0 || p.Blobs != 0 {
		t.Fatalf("removed the content of an image with another name: %+v %v", p, err)
	}
	if _, err = s.Inspect(t.Context(), images[0].Ref); !errors.Is(err, ErrNotFound) {
		t.Fatalf("the name is still there: %v", err)
	}
	img, err := s.Inspect(t.Context(), strings.TrimPrefix(images[0].Digest, "sha256:")[:12])
	if err != nil || img.Ref != "example.com/second/name:1" {
		t.Fatalf("%+v %v", img, err)
	}
	if p, err = s.Remove(t.Context(), images[0].Digest); err != nil || len(p.Images) != 1 || p.Layers != 1 {
		t.Fatalf("removed %+v: %v", p, err)
	}
	if _, err = s.Remove(t.Context(), "nothing:1"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	list, err := s.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Ref > list[1].Ref {
		t.Fatalf("listed %+v: %v", list, err)
	}
}

func TestCollectByDiskUse(t *testing.T) {
	for name, c := range map[string]struct {
		used []int // what the disk says, one after the other
		keep int   // index of the image that is in use, or -1
		gone []int
	}{
		"room enough":        {[]int{85}, -1, nil},
		"one is enough":      {[]int{86, 86, 75}, -1, []int{0}},
		"two":                {[]int{90, 90, 80, 70}, -1, []int{0, 1}},
		"in use":             {[]int{90, 90, 80, 70}, 0, []int{1, 2}},
		"others fill it":     {[]int{99, 99, 99, 99, 99}, 1, []int{0, 2}},
		"rubbish was enough": {[]int{90, 70}, -1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, reg := newStore(t), newRegistry(t)
			images := three(t, s, reg)
			s.usage = func() (int, error) {
				u := c.used[0]
				if len(c.used) > 1 {
					c.used = c.used[1:]
				}
				return u, nil
			}
			var keep []string
			if c.keep >= 0 {
				keep = []string{images[c.keep].Digest}
			}
			p, err := s.Collect(t.Context(), keep, 85, 75)
			if err != nil || len(p.Images) != len(c.gone) {
				t.Fatalf("collected %+v: %v", p, err)
			}
			for i, g := range c.gone {
				if p.Images[i].Digest != images[g].Digest {
					t.Errorf("image %d went as number %d", g, i)
				}
			}
		})
	}
	s := newStore(t)
	if used, err := s.diskUsage(); err != nil || used != 0 {
		t.Errorf("before the first image: disk use %d: %v", used, err)
	}
	if err := s.make(); err != nil {
		t.Fatal(err)
	}
	if used, err := s.diskUsage(); err != nil || used <= 0 || used > 100 {
		t.Errorf("disk use %d: %v", used, err)
	}
}

// The layers of an image whose manifest or configuration is gone are not known, and containers run on them.
func TestLayersOfALostImageStay(t *testing.T) {
	for name, lose := range map[string]func(*testing.T, *Store, v1.Hash, *v1.Manifest){
		"manifest gone": func(t *testing.T, s *Store, h v1.Hash, _ *v1.Manifest) {
			if err := os.Remove(s.blobPath(h)); err != nil {
				t.Fatal(err)
			}
		},
		"manifest corrupt": func(t *testing.T, s *Store, h v1.Hash, _ *v1.Manifest) {
			if err := os.WriteFile(s.blobPath(h), []byte("rotten"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"configuration gone": func(t *testing.T, s *Store, _ v1.Hash, m *v1.Manifest) {
			if err := os.Remove(s.blobPath(m.Config.Digest)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, reg := newStore(t), newRegistry(t)
			images := three(t, s, reg)
			h, err := v1.NewHash(images[0].Digest)
			if err != nil {
				t.Fatal(err)
			}
			m, _, err := s.manifest(h)
			if err != nil {
				t.Fatal(err)
			}
			lose(t, s, h, m)
			s.usage = func() (int, error) { return 99, nil }
			keep := []string{images[0].Digest}
			for range 2 {
				if _, pruneErr := s.Prune(t.Context(), keep); pruneErr == nil || !strings.Contains(pruneErr.Error(), "until image "+images[0].Ref+" is pulled again") {
					t.Errorf("pruned: %v", pruneErr)
				}
				if _, collectErr := s.Collect(t.Context(), keep, 85, 75); collectErr == nil {
					t.Error("collected")
				}
				if read(t, images[0], "hello") != "one" || read(t, images[0], "base") != "base" {
					t.Fatal("the files of a running container are gone")
				}
			}
			// Nobody needs it: it is what goes first.
			p, err := s.Collect(t.Context(), []string{images[1].Digest, images[2].Digest}, 85, 75)
			if err != nil || len(p.Images) != 1 || p.Images[0].Digest != images[0].Digest || p.Layers != 1 {
				t.Fatalf("collected %+v: %v", p, err)
			}
			ensure(t, s, images[0].Ref)
			if _, err := s.Prune(t.Context(), keep); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestPruneSparesWhatIsBeingPulled(t *testing.T) {
	s, reg := newStore(t), newRegistry(t)
	ref := reg.host + "/web:1"
	img := randomImage(t, 50_000, 3)
	imagetest.Push(t, ref, img)
	reg.requests()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	last, err := layers[2].Digest()
	if err != nil {
		t.Fatal(err)
	}
	reached, proceed := make(chan struct{}), make(chan struct{})
	reg.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if strings.HasSuffix(q.URL.Path, last.String()) {
			close(reached)
			<-proceed
		}
		next.ServeHTTP(w, q)
	})
	done := make(chan error, 1)
	go func() {
		_, pullErr := s.Ensure(t.Context(), Request{Ref: ref})
		done <- pullErr
	}()
	<-reached
	other, err := Open(s.opts) // as "reconciler image prune" would be
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := count(reg.requests(), "GET /v2/web/blobs/"); n != 4 {
		t.Fatalf("%d blobs were downloaded, want each of 4 once", n)
	}
	ensure(t, s, ref)
	if _, err := other.Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if layers, blobs := stored(t, s); layers+blobs != 0 {
		t.Fatal("a lease outlived its pull")
	}
}

// However many generations of an image come, what Collect leaves stays within the bound, and what is in use or would be gone
// back to is never among what it takes.
func TestFiftyGenerations(t *testing.T) {
	reg := newRegistry(t)
	s := newStore(t)
	const generations, size, room = 50, 64 << 10, 1 << 20 // room for a few of them, packed and unpacked
	held := func() int64 {
		var sum int64
		for _, dir := range []string{s.images, s.layers} {
			if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				info, err := d.Info()
				sum += info.Size()
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		return sum
	}
	s.usage = func() (int, error) { return int(held() * 100 / room), nil }
	var digests []string
	for i := range generations {
		ref := fmt.Sprintf("%s/web:%d", reg.host, i)
		imagetest.Push(t, ref, randomImage(t, size, 1))
		digests = append(digests, ensure(t, s, ref).Digest)
		keep := digests[max(0, len(digests)-2):]
		if _, err := s.Collect(t.Context(), keep, 85, 75); err != nil {
			t.Fatal(err)
		}
		if got := held(); got > room*85/100 {
			t.Fatalf("after %d generations %d bytes are held, %d may be", i+1, got, room*85/100)
		}
		for _, d := range keep {
			if _, ok, err := s.Find("", d); !ok || err != nil {
				t.Fatalf("after %d generations %s is gone: %v", i+1, d, err)
			}
		}
	}
	leftovers(t, s)
}
