package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"

	"reconciler/runtime"
	"reconciler/runtime/image/imagetest"
)

// writeLayout makes an OCI layout with an image for each tag.
func writeLayout(t testing.TB, dir string, images map[string]v1.Image) {
	t.Helper()
	p, err := layout.Write(dir, emptyIndex())
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range images {
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: tag})); err != nil {
			t.Fatal(err)
		}
	}
}

// tarDir makes an archive of a directory, the way "tar -C dir -cf - ." does.
func tarDir(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImportFromTheTree(t *testing.T) {
	one, two := simple(t, "one"), simple(t, "two")
	dir := t.TempDir()
	writeLayout(t, filepath.Join(dir, "images/web"), map[string]v1.Image{"1": one, "2": two})
	writeLayout(t, filepath.Join(dir, "images/single"), map[string]v1.Image{"1": one})
	tree := fstest.MapFS{}
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		tree[rel] = &fstest.MapFile{Data: b}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	archive := tarDir(t, filepath.Join(dir, "images/web"))
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	docker, err := os.ReadFile(imagetest.Archive(t, "shop/web:1", one))
	if err != nil {
		t.Fatal(err)
	}
	tree["web.tar"] = &fstest.MapFile{Data: archive}
	tree["web.tar.gz"] = &fstest.MapFile{Data: packed.Bytes()}
	tree["docker.tar"] = &fstest.MapFile{Data: docker}
	tree["text"] = &fstest.MapFile{Data: []byte("no archive at all")}

	s := newStore(t)
	for ref, text := range map[string]string{
		"oci:images/web:2": "two", "oci:./images/single": "one", "oci-archive:web.tar:1": "one", "oci-archive:web.tar.gz:2": "two",
		"docker-archive:docker.tar": "one", "docker-archive:docker.tar:shop/web:1": "one",
	} {
		img, err := s.Ensure(t.Context(), Request{Ref: ref, Tree: tree})
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if read(t, img, "hello") != text || img.Ref != ref {
			t.Errorf("%s: %+v", ref, img)
		}
		// Pinned, it needs no tree.
		if again, err := s.Ensure(t.Context(), Request{Ref: ref, Digest: img.Digest}); err != nil || again.Digest != img.Digest {
			t.Errorf("%s by digest: %v", ref, err)
		}
		if again, err := s.Ensure(t.Context(), Request{Ref: ref}); err != nil || again.Digest != img.Digest {
			t.Errorf("%s without a tree: %v", ref, err)
		}
	}
	for ref, text := range map[string]string{
		"oci:images/web": "several images", "oci:images/web:3": `no image "3" in it, but 1, 2`, "oci:nowhere": "repository's root", "oci:../x": "not a path below",
		"oci:/etc": "not a path below", "oci-archive:none.tar": "repository's root", "oci-archive:text": "", "docker-archive:web.tar": "manifest.json",
	} {
		_, err := s.Ensure(t.Context(), Request{Ref: ref, Tree: tree})
		if !runtime.IsPermanent(err) || runtime.ReasonOf(err) != runtime.ReasonInvalidImage || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", ref, err, text)
		}
	}
	for name, f := range tree { // every blob rots
		if strings.HasPrefix(name, "images/single/blobs/") {
			f.Data = append([]byte("x"), f.Data...)
		}
	}
	if _, err := newStore(t).Ensure(t.Context(), Request{Ref: "oci:images/single", Tree: tree}); !runtime.IsPermanent(err) {
		t.Errorf("corrupt blobs in the tree: %v", err)
	}
	leftovers(t, s)
}

// A pipe in an archive must not make the agent wait for somebody who writes to it.
func TestArchivesWithPipes(t *testing.T) {
	pipe := func(name string) file { return file{Name: name, Type: tar.TypeFifo} }
	blob := "blobs/sha256/" + strings.Repeat("ab", 32)
	for name, files := range map[string][]file{
		"index":    {pipe("index.json")},
		"manifest": {pipe("manifest.json")},
		"link":     {pipe("p"), {Name: "index.json", Type: tar.TypeSymlink, Link: "p"}},
		"blob": {pipe(blob), {Name: "index.json", Body: `{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
			"size": 9, "digest": "sha256:` + strings.Repeat("ab", 32) + `"}]}`}},
		"docker's config": {pipe("config"), {Name: "manifest.json", Body: `[{"Config": "config"}]`}},
		"directory":       {{Name: "index.json", Type: tar.TypeDir}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Load(t.Context(), bytes.NewReader(imagetest.Tar(files...)))
			if !runtime.IsPermanent(err) || runtime.ReasonOf(err) != runtime.ReasonInvalidImage || !strings.Contains(err.Error(), "is not a file") {
				t.Errorf("%v", err)
			}
			leftovers(t, s)
		})
	}
}

func TestSaveAndLoad(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/shop/web:1"
	digest := imagetest.Push(t, ref, imagetest.Busybox(t, v1.Config{User: "app"}, file{Name: "hello", Body: "x"}))
	s := newStore(t)
	ensure(t, s, ref)
	var saved bytes.Buffer
	if err := s.Save(t.Context(), ref, &saved); err != nil {
		t.Fatal(err)
	}
	other := newStore(t)
	loaded, err := other.Load(t.Context(), bytes.NewReader(saved.Bytes()))
	if err != nil || len(loaded) != 1 || loaded[0].Digest != digest || loaded[0].Ref != ref || read(t, loaded[0], "hello") != "x" || loaded[0].Config.User != "app" {
		t.Fatalf("loaded %+v: %v", loaded, err)
	}
	if found, findErr := other.Ensure(t.Context(), Request{Ref: ref, Policy: runtime.PullNever}); findErr != nil || found.Digest != digest {
		t.Fatalf("a loaded image is not found by its name: %v", findErr)
	}
	// What saved reads everybody else's tools too: go-containerregistry checks every blob of it.
	dir := t.TempDir()
	if _, _, err = unpackDir(s, saved.Bytes(), dir); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := v1.NewHash(digest)
	img, err := index.Image(h)
	if err != nil {
		t.Fatal(err)
	}
	if err = validateImage(img); err != nil {
		t.Fatal(err)
	}
	docker := filepath.Join(t.TempDir(), "d.tar")
	tagA, _ := name.NewTag("example.com/a:1")
	tagB, _ := name.NewTag("busybox:2")
	if err = tarball.MultiWriteToFile(docker, map[name.Tag]v1.Image{tagA: simple(t, "a"), tagB: simple(t, "b")}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(docker)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if loaded, err = other.Load(t.Context(), f); err != nil || len(loaded) != 2 {
		t.Fatalf("docker-archive: %v %v", loaded, err)
	}
	if img, ok, err := other.Find("busybox:2", ""); !ok || err != nil || read(t, img, "hello") != "b" || img.Ref != "docker.io/library/busybox:2" {
		t.Fatalf("Find busybox:2: %v %v", ok, err)
	}
	for what, b := range map[string][]byte{"nothing": {}, "text": []byte("hello"), "an empty archive": imagetest.Tar(), "half of one": saved.Bytes()[:saved.Len()/2]} {
		if _, err := newStore(t).Load(t.Context(), bytes.NewReader(b)); runtime.ReasonOf(err) != runtime.ReasonInvalidImage {
			t.Errorf("load of %s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Save(ctx, ref, &saved); !errors.Is(err, context.Canceled) {
		t.Errorf("save with an ended context: %v", err)
	}
	if err := s.Save(t.Context(), "nothing:1", &saved); !errors.Is(err, ErrNotFound) {
		t.Errorf("save of nothing: %v", err)
	}
}
