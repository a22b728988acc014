package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"reconciler/runtime"
)

// A captured image is named "capture:" and the key of what was asked for.
const capturePrefix = "capture:"

var errNotAllowed = errors.New("it is not below --allow-capture")

// Capture makes an image from this server's own files. key identifies what was asked for, the digest of the spec's
// capture: for each key the files are taken once, and found from then on, whatever became of the originals.
//
// With the programs come the loader and the shared libraries that they name, and the interpreters of scripts; what a
// program opens by itself (dlopen, gconv, locales, time zones) must be asked for. Symbolic links on the way are kept,
// so that each path works inside as it does outside. The image also has the usual empty directories, the links of a
// merged /usr, and an /etc/passwd and /etc/group with root and nobody where none was captured.
//
// Only what is really below Options.AllowCapture is copied, after all symbolic links were followed. Libraries, loaders
// and interpreters may also come from this server's system directories, but must be what they are said to be.
// Every error is a *runtime.Error.
func (s *Store) Capture(ctx context.Context, paths []runtime.Path, key string) (Image, error) {
	const op = "capture files"
	if key == "" || strings.ContainsAny(key, "/\x00") {
		return Image{}, s.failure(op, runtime.Name{}, badImage("%q is not a key", key))
	}
	img, err := s.capture(ctx, paths, capturePrefix+key)
	if err != nil {
		return Image{}, s.captureFailure(op, err)
	}
	s.use(img)
	return img, nil
}

func (s *Store) captureFailure(op string, err error) error {
	err = s.failure(op, runtime.Name{}, err)
	var e *runtime.Error
	if !errors.As(err, &e) {
		return err
	}
	var missing *missingError
	switch {
	case errors.Is(err, errNotAllowed):
		e.Reason, e.Permanent = runtime.ReasonNotAllowed, true
		e.Hint = "let the agent copy from there with --allow-capture, or capture something else"
	case errors.As(err, &missing):
		// Whoever installs it need not come back here: a retry finds it.
		e.Reason, e.Hint = runtime.ReasonInvalidImage, "install it on this server, or correct the path"
	case e.Reason == runtime.ReasonErrImagePull:
		e.Reason = ""
	}
	return err
}

func (s *Store) capture(ctx context.Context, paths []runtime.Path, ref string) (Image, error) {
	d, found, err := s.lookup(ref, s.opts.Platform)
	if err != nil {
		return Image{}, err
	}
	if found {
		img, ok, err := s.present(ctx, Request{Ref: ref, Digest: d.Digest.String()}, s.opts.Platform)
		if err != nil || ok {
			return img, err
		}
	}
	return s.pulls.do(ctx, ref, nil, func(ctx context.Context, _ func(int64, int64)) (Image, error) {
		return s.take(ctx, paths, ref)
	})
}

// take copies the files into one layer. The layer is not compressed: its digest must be the same for equal content
// whatever version of a compressor made it.
func (s *Store) take(ctx context.Context, paths []runtime.Path, ref string) (Image, error) {
	l, err := s.newLease()
	if err != nil {
		return Image{}, err
	}
	defer l.end()
	c := newCollector(s.opts, filepath.Dir(s.images))
	if err = c.collect(ctx, paths); err != nil {
		return Image{}, err
	}
	t, err := s.newTemp(filepath.Join(s.images, "tmp"))
	if err != nil {
		return Image{}, err
	}
	defer t.remove()
	layer, err := s.writeLayer(ctx, c, filepath.Join(t.dir, "layer"))
	if err != nil {
		return Image{}, err
	}
	if err = s.touch(l, s.blobPath(layer.Digest)); err != nil {
		return Image{}, err
	}
	p := s.opts.Platform
	cfg := v1.ConfigFile{
		Architecture: cmp.Or(p.Architecture, goruntime.GOARCH), OS: "linux", Variant: p.Variant,
		Config: Config{Env: []string{"PATH=" + DefaultPath}, WorkingDir: "/"},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{layer.Digest}},
	}
	config, err := s.putJSON(cfg, types.OCIConfigJSON)
	if err != nil {
		return Image{}, err
	}
	m := &v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer}}
	if len(c.warnings) > 0 {
		m.Annotations = map[string]string{warningsKey: strings.Join(c.warnings, "\n")}
	}
	if err = s.assemble(ctx, l, m, &cfg, func(context.Context, v1.Descriptor) error { return nil }); err != nil {
		return Image{}, err
	}
	d, err := s.putJSON(m, m.MediaType)
	if err != nil {
		return Image{}, err
	}
	if err = s.record(ref, d, s.opts.Platform); err != nil {
		return Image{}, err
	}
	img, whole, err := s.load(d.Digest, ref)
	if err == nil && !whole {
		err = fmt.Errorf("it was removed while it was taken: %w", fs.ErrNotExist)
	}
	return img, err
}

// warningsKey is the annotation of a captured image's manifest with what was left out, a line each.
const warningsKey = "reconciler.capture.warnings"

// missingError says that something which should be copied does not exist.
type missingError struct {
	path, why string
}

// Error implements error.
func (e *missingError) Error() string { return e.path + ": " + e.why }

// below reports whether a clean absolute path is one of the prefixes or below one.
func below(p string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool {
		return prefix == "/" || p == prefix || strings.HasPrefix(p, prefix+"/")
	})
}
