package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"reconciler/runtime"
)

// Ensure brings an image to this server, where it is not there yet, with every layer unpacked. It is idempotent, cheap
// where everything is here, and concurrent calls for the same content share the work.
//
// With a Digest the registry is asked only for what is missing, whatever the policy says: the content cannot change.
// Without, an image of the commit's tree is read again in every call that has a Tree.
// Every error is a *runtime.Error.
func (s *Store) Ensure(ctx context.Context, r Request) (Image, error) {
	op := "pull image " + r.Ref
	if isLocal(r.Ref) {
		op = "import image " + r.Ref
	}
	img, err := s.ensure(ctx, r)
	if err != nil {
		return Image{}, s.failure(op, r.Name, err)
	}
	s.use(img)
	return img, nil
}

func (s *Store) ensure(ctx context.Context, r Request) (Image, error) {
	want := s.platform(r.Platform)
	fromTree := isLocal(r.Ref) && r.Tree != nil
	if r.Digest != "" || !fromTree && r.Policy != runtime.PullAlways {
		img, ok, err := s.present(ctx, r, want)
		if err != nil || ok {
			return img, err
		}
	}
	if r.Policy == runtime.PullNever && !isLocal(r.Ref) {
		return Image{}, errNeverPulled
	}
	key := fmt.Sprintf("%s\x00%s\x00%s", r.Ref, r.Digest, platformString(want))
	if isLocal(r.Ref) {
		if r.Tree == nil {
			return Image{}, badImage("it is not on this server, and there is no commit at hand to read it from")
		}
		// Not shared: two callers may bring trees of different commits.
		return s.importTree(ctx, r, want)
	}
	return s.pulls.do(ctx, key, r.progressFunc("pull "+r.Ref), func(ctx context.Context, progress func(int64, int64)) (Image, error) {
		return s.pull(ctx, r, want, progress)
	})
}

// Restore is Find for an image that is needed now: what of it is not unpacked, or may be torn since a reboot, is unpacked
// anew from what is in the store. Nothing is downloaded. Nil is the store's platform.
func (s *Store) Restore(ctx context.Context, ref, digest string, platform *runtime.Platform) (Image, bool, error) {
	img, ok, err := s.present(ctx, Request{Ref: ref, Digest: digest}, s.platform(platform))
	return img, ok, s.failure("unpack image "+cmp.Or(ref, digest), runtime.Name{}, err)
}

// present returns an image that is in the store, after unpacking what of it is not. It reports false where something
// must be brought from elsewhere.
func (s *Store) present(ctx context.Context, r Request, want runtime.Platform) (Image, bool, error) {
	d, full, err := s.find(r.Ref, r.Digest, want)
	if err != nil || d.Digest.Hex == "" {
		return Image{}, false, err
	}
	img, whole, err := s.load(d.Digest, full)
	if err != nil {
		return Image{}, false, err
	}
	if !whole {
		img, err = s.complete(ctx, d.Digest, full)
		var corrupt *corruptError
		if errors.Is(err, fs.ErrNotExist) || errors.As(err, &corrupt) {
			return Image{}, false, nil
		}
		if err != nil {
			return Image{}, false, err
		}
	}
	if img.Platform.Architecture != "" && !runs(want, img.Platform) {
		return Image{}, false, fmt.Errorf("%w: %s is wanted, the image is for %s", errPlatform, platformString(want), platformString(img.Platform))
	}
	return img, true, s.name(full, img)
}

// name makes sure that an image which was found by its digest is listed under the name it is used by.
func (s *Store) name(ref string, img Image) error {
	h, err := v1.NewHash(img.Digest)
	if err != nil {
		return err
	}
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(index.Manifests, func(e v1.Descriptor) bool { return e.Digest == h }) {
		return nil // under another name, perhaps: a pinned digest does not move the tag
	}
	size, err := s.blobSize(h)
	if err != nil {
		return err
	}
	_, taken, err := s.lookup(ref, img.Platform)
	if err != nil {
		return err
	}
	if taken {
		ref = ""
	}
	return s.record(ref, v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: size, Digest: h}, img.Platform)
}

// complete unpacks an image whose blobs are here.
func (s *Store) complete(ctx context.Context, h v1.Hash, ref string) (Image, error) {
	l, err := s.newLease()
	if err != nil {
		return Image{}, err
	}
	defer l.end()
	m, cfg, err := s.manifest(h)
	if err != nil {
		return Image{}, err
	}
	if err = s.assemble(ctx, l, m, cfg, func(_ context.Context, d v1.Descriptor) error {
		return s.touch(l, s.blobPath(d.Digest))
	}); err != nil {
		return Image{}, err
	}
	img, whole, err := s.load(h, ref)
	if err == nil && !whole {
		err = fs.ErrNotExist
	}
	return img, err
}

// Resolve asks the registry what ref means now and returns the digest of the platform's manifest. Nil is the store's
// platform. Nothing is downloaded but manifests, and nothing is kept. Every error is a *runtime.Error.
func (s *Store) Resolve(ctx context.Context, ref string, platform *runtime.Platform) (string, error) {
	digest, err := s.resolveRef(ctx, ref, s.platform(platform))
	return digest, s.failure("look up image "+ref, runtime.Name{}, err)
}

func (s *Store) resolveRef(ctx context.Context, ref string, want runtime.Platform) (string, error) {
	if isLocal(ref) {
		return "", badImage("it is not in a registry")
	}
	r, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	src, found, err := s.resolve(ctx, r, "", want)
	if err != nil {
		return "", err
	}
	src.close()
	return found.digest.String(), nil
}

// pull brings an image from its registry.
func (s *Store) pull(ctx context.Context, r Request, want runtime.Platform, progress func(done, total int64)) (Image, error) {
	ref, err := parseRef(r.Ref)
	if err != nil {
		return Image{}, err
	}
	l, err := s.newLease()
	if err != nil {
		return Image{}, err
	}
	defer l.end()
	src, found, err := s.resolve(ctx, ref, r.Digest, want)
	if err != nil {
		return Image{}, err
	}
	defer src.close()
	m, err := parseManifest(found.manifest)
	if err != nil {
		return Image{}, err
	}
	if m.Config.Size > maxJSON {
		return Image{}, badImage("its configuration is larger than %d MiB", maxJSON>>20)
	}
	var done, total atomic.Int64
	total.Store(m.Config.Size)
	for _, layer := range m.Layers {
		total.Add(layer.Size)
	}
	fetch := func(ctx context.Context, d v1.Descriptor) error {
		return s.fetchShared(ctx, l, src, d, func(n int64) { progress(done.Add(n), total.Load()) })
	}
	// Twice, for a blob that rotted on this disk: it is found out on the way and taken away.
	for try := 0; ; try++ {
		done.Store(0)
		err = s.bring(ctx, l, m, want, fetch)
		var corrupt *corruptError
		if err == nil || try > 0 || !errors.As(err, &corrupt) {
			break
		}
	}
	if err != nil {
		return Image{}, err
	}
	if err = s.putBlob(found.digest, found.manifest); err != nil {
		return Image{}, err
	}
	full, named := display(ref), display(ref)
	if r.Digest != "" {
		// A pin to something older does not move the name from what it means now.
		_, taken, lookErr := s.lookup(full, want)
		if lookErr != nil {
			return Image{}, lookErr
		}
		if taken {
			named = ""
		}
	}
	if err = s.record(named, v1.Descriptor{MediaType: found.mediaType, Size: int64(len(found.manifest)), Digest: found.digest}, want); err != nil {
		return Image{}, err
	}
	img, whole, err := s.load(found.digest, full)
	if err == nil && !whole {
		err = fmt.Errorf("it was removed while it was pulled: %w", fs.ErrNotExist)
	}
	return img, err
}

// fetchShared brings a blob here, together with whoever else wants it. progress is told how many more bytes are here.
func (s *Store) fetchShared(ctx context.Context, l *lease, src *source, d v1.Descriptor, progress func(int64)) error {
	var last int64
	// Keyed by registry too: a registry that fails must not fail a pull from another one.
	registry := src.endpoints[0].String()
	key := d.Digest.String() + "@" + registry
	_, err := s.fetches.do(ctx, key, func(n, _ int64) {
		progress(n - last)
		last = n
	}, func(ctx context.Context, report func(int64, int64)) (Image, error) {
		free, err := s.slot(ctx, registry)
		if err != nil {
			return Image{}, err
		}
		defer free()
		var got int64
		return Image{}, src.fetch(ctx, l, d, func(n int64) {
			got += n
			report(got, d.Size)
		})
	})
	if err != nil {
		return err
	}
	progress(d.Size - last)
	return s.touch(l, s.blobPath(d.Digest))
}

// bring fetches the configuration, checks it, and fetches and unpacks the layers.
func (s *Store) bring(ctx context.Context, l *lease, m *v1.Manifest, want runtime.Platform, fetch func(context.Context, v1.Descriptor) error) error {
	if err := fetch(ctx, m.Config); err != nil {
		return err
	}
	cfg, err := s.config(m)
	if err != nil {
		return err
	}
	if err := checkPlatform(cfg, want); err != nil {
		return err
	}
	return s.assemble(ctx, l, m, cfg, fetch)
}

// assemble fetches all layers at once and unpacks each when it and those below it are ready. A layer that is unpacked
// already is fetched only if its blob is gone, so that the image can be saved.
func (s *Store) assemble(ctx context.Context, l *lease, m *v1.Manifest, cfg *v1.ConfigFile, fetch func(context.Context, v1.Descriptor) error) error {
	chain, err := chainIDs(cfg.RootFS.DiffIDs)
	if err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	ready := make([]chan struct{}, len(chain))
	for i, d := range m.Layers {
		ready[i] = make(chan struct{})
		group.Go(func() error {
			if err := fetch(gctx, d); err != nil {
				return err
			}
			close(ready[i])
			return nil
		})
	}
	group.Go(func() error {
		var below []string
		for i, c := range chain {
			select {
			case <-ready[i]:
			case <-gctx.Done():
				return nil // the download that failed says why
			}
			if err := s.ensureLayer(gctx, l, m.Layers[i], cfg.RootFS.DiffIDs[i], c, below); err != nil {
				return err
			}
			below = slices.Insert(below, 0, s.layerDir(c)+string(os.PathSeparator)+"fs")
		}
		return nil
	})
	return group.Wait()
}

// parseManifest reads the manifest of one image and refuses what is none.
func parseManifest(b []byte) (*v1.Manifest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(b))
	if err != nil {
		return nil, badImage("its manifest is not valid: %s", clip(err.Error()))
	}
	if m.Config.Digest.Hex == "" || !m.Config.MediaType.IsConfig() {
		return nil, badImage("it is not a container image: its configuration is of type %q", clip(string(m.Config.MediaType)))
	}
	if len(m.Layers) > maxLayers {
		return nil, badImage("it has %d layers; %d are allowed", len(m.Layers), maxLayers)
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if d.Size < 0 {
			return nil, badImage("its manifest has a blob of negative size")
		}
	}
	for _, d := range m.Layers {
		if !d.MediaType.IsLayer() && d.MediaType != "application/vnd.docker.image.rootfs.diff.tar.zstd" {
			return nil, badImage("it is not a container image: a layer is of type %q", clip(string(d.MediaType)))
		}
	}
	return m, nil
}

// maxLayers is docker's bound for an image.
const maxLayers = 127

func parseConfig(b []byte) (*v1.ConfigFile, error) {
	var cfg v1.ConfigFile
	if err := json.Unmarshal(b, &cfg); err != nil {
		return nil, badImage("its configuration is not valid: %s", clip(err.Error()))
	}
	return &cfg, nil
}
