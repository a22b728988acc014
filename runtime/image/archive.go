package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"reconciler/runtime"
)

// Save writes the image that ref names (as for Inspect) to w, as a tar file of an OCI image layout ("oci-archive"),
// which podman, skopeo and docker from 25 on load too. Every blob is checked on the way.
func (s *Store) Save(ctx context.Context, ref string, w io.Writer) error {
	img, err := s.Inspect(ctx, ref)
	if err != nil {
		return fmt.Errorf("save image: %w", err)
	}
	if err := s.save(ctx, img, w); err != nil {
		return fmt.Errorf("save image %s: %w", ref, err)
	}
	return nil
}

func (s *Store) save(ctx context.Context, img Image, w io.Writer) error {
	h, err := v1.NewHash(img.Digest)
	if err != nil {
		return err
	}
	raw, err := s.readBlob(h)
	if err != nil {
		return err
	}
	m, err := parseManifest(raw)
	if err != nil {
		return err
	}
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = types.OCIManifestSchema1
	}
	d := v1.Descriptor{MediaType: mediaType, Size: int64(len(raw)), Digest: h, Platform: toV1(img.Platform)}
	if img.Ref != "" {
		d.Annotations = map[string]string{refName: img.Ref}
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d}})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, file := range []struct {
		name string
		body []byte
	}{{"oci-layout", []byte(layoutFile)}, {"index.json", index}} {
		if err := tw.WriteHeader(saved(file.name, int64(len(file.body)))); err != nil {
			return err
		}
		if _, err := tw.Write(file.body); err != nil {
			return err
		}
	}
	written := map[v1.Hash]bool{}
	for _, blob := range append([]v1.Descriptor{d, m.Config}, m.Layers...) {
		if written[blob.Digest] {
			continue
		}
		written[blob.Digest] = true
		if err := s.saveBlob(ctx, tw, blob); err != nil {
			return err
		}
	}
	return tw.Close()
}

func saved(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

func (s *Store) saveBlob(ctx context.Context, tw *tar.Writer, d v1.Descriptor) error {
	f, err := os.Open(s.blobPath(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s is gone: pull the image again", d.Digest)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != d.Size {
		return s.dropCorrupt(d.Digest)
	}
	hasher, err := v1.Hasher(d.Digest.Algorithm)
	if err != nil {
		return err
	}
	if err := tw.WriteHeader(saved(blobName(d.Digest), d.Size)); err != nil {
		return err
	}
	if _, err := io.Copy(io.MultiWriter(tw, hasher), &ctxReader{ctx, io.LimitReader(f, d.Size)}); err != nil {
		return err
	}
	if fmt.Sprintf("%x", hasher.Sum(nil)) != d.Digest.Hex {
		return s.dropCorrupt(d.Digest)
	}
	return nil
}

// ctxReader stops when its context ends.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // it lives as long as one copy
	r   io.Reader
}

// Read implements io.Reader.
func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// Load reads an oci-archive or docker-archive, compressed or not, into the store and returns its images, those for
// this platform. An image whose name the archive does not tell in full is kept by its digest.
// Every error is a *runtime.Error.
func (s *Store) Load(ctx context.Context, r io.Reader) ([]Image, error) {
	images, err := s.loadArchive(ctx, r)
	return images, s.failure("load image", runtime.Name{}, err)
}

func (s *Store) loadArchive(ctx context.Context, r io.Reader) ([]Image, error) {
	l, err := s.newLease()
	if err != nil {
		return nil, err
	}
	defer l.end()
	t, err := s.newTemp(filepath.Join(s.images, "tmp"))
	if err != nil {
		return nil, err
	}
	defer t.remove()
	src, root, err := s.spread(ctx, &ctxReader{ctx, r}, t)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	found, err := s.contents(l, src, false)
	if errors.Is(err, fs.ErrNotExist) {
		found, err = s.contents(l, src, true)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, badImage("it is neither an oci-archive nor a docker-archive: index.json and manifest.json are missing")
	}
	if err != nil {
		return nil, err
	}
	// What is one name for several platforms is one image here.
	byName := map[string][]v1.Descriptor{}
	var names []string
	for _, d := range found {
		name := loadedName(d.Annotations[refName])
		if _, ok := byName[name]; !ok {
			names = append(names, name)
		}
		byName[name] = append(byName[name], d)
	}
	var images []Image
	for _, name := range names {
		d, err := pick(byName[name], "", s.opts.Platform)
		if err != nil {
			return images, err
		}
		img, err := s.importOne(ctx, l, src, d, name, "", s.opts.Platform)
		if err != nil {
			return images, err
		}
		images = append(images, img)
	}
	if len(images) == 0 {
		return nil, badImage("there is no image in it")
	}
	return images, nil
}

// loadedName is the name that an image of an archive gets. A bare tag, as skopeo writes, names nothing.
func loadedName(name string) string {
	if name == "" || !strings.ContainsAny(name, "/:") {
		return ""
	}
	return sameName(name)
}
