package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// partialAge is how long Collect keeps the beginning of a download that nobody goes on with.
const partialAge = 24 * time.Hour

// List returns every image that is complete, sorted by ref, then digest.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	images := []Image{}
	for _, e := range index.Manifests {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		img, _, err := s.load(e.Digest, e.Annotations[refName])
		if err != nil {
			return nil, fmt.Errorf("list images: %s: %w", e.Digest, err)
		}
		if img.Digest == "" { // its manifest is gone or corrupt: it is listed so that it can be removed
			img = Image{Ref: e.Annotations[refName], Digest: e.Digest.String(), Platform: fromV1(e.Platform)}
			img.Warnings = []string{"incomplete: it is pulled again when it is needed"}
		}
		images = append(images, img)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Digest, b.Digest))
	})
	return images, nil
}

// Inspect returns the image that ref names: a reference, a digest, or 12 or more digits of one.
// The error wraps ErrNotFound where there is none.
func (s *Store) Inspect(ctx context.Context, ref string) (Image, error) {
	images, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	matching := s.matching(images, ref)
	if len(matching) == 0 {
		return Image{}, fmt.Errorf("%s: %w", ref, ErrNotFound)
	}
	for _, img := range matching[1:] {
		if img.Digest != matching[0].Digest && matching[0].Ref != img.Ref {
			return Image{}, fmt.Errorf("%s: several images begin with these digits", ref)
		}
	}
	for _, img := range matching { // of several platforms, this server's
		if runs(s.opts.Platform, img.Platform) {
			return img, nil
		}
	}
	return matching[0], nil
}

func (s *Store) matching(images []Image, ref string) []Image {
	full := sameName(ref)
	named := slices.DeleteFunc(slices.Clone(images), func(i Image) bool {
		return i.Ref == "" || i.Ref != ref && i.Ref != full
	})
	if len(named) > 0 {
		return named
	}
	digits := strings.TrimPrefix(ref, "sha256:")
	return slices.DeleteFunc(slices.Clone(images), func(i Image) bool {
		return len(digits) < 12 || !strings.HasPrefix(strings.TrimPrefix(i.Digest, "sha256:"), digits)
	})
}

// Remove takes away the image that ref names (as for Inspect): a reference takes that name away, a digest all names of
// the image. Content goes when no name is left. Whether a container uses it is the caller's to check.
// The error wraps ErrNotFound where there is none.
func (s *Store) Remove(ctx context.Context, ref string) (Pruned, error) {
	img, err := s.Inspect(ctx, ref)
	if err != nil {
		return Pruned{}, fmt.Errorf("remove image: %w", err)
	}
	byName := img.Ref != "" && (img.Ref == ref || img.Ref == sameName(ref))
	p, err := s.drop(ctx, func(e v1.Descriptor) bool {
		return e.Digest.String() == img.Digest && (!byName || e.Annotations[refName] == img.Ref)
	}, nil, 0)
	if err != nil {
		return p, fmt.Errorf("remove image %s: %w", ref, err)
	}
	return p, nil
}

// Prune takes away every image whose digest is not in keep, and everything that belongs to no image. What is being
// pulled at the same time, by whatever process, stays.
func (s *Store) Prune(ctx context.Context, keep []string) (Pruned, error) {
	s.settle()
	p, err := s.drop(ctx, func(e v1.Descriptor) bool { return !slices.Contains(keep, e.Digest.String()) }, keep, 0)
	if err != nil {
		return p, fmt.Errorf("prune images: %w", err)
	}
	return p, nil
}

// Collect takes away images that are not in keep, the least recently used first, if more than high percent of the file
// system is in use, until no more than low percent is. Where there is room enough it only makes sure that what was
// unpacked survives a power cut: call it now and then.
func (s *Store) Collect(ctx context.Context, keep []string, high, low int) (Pruned, error) {
	s.settle()
	var all Pruned
	used, err := s.usage()
	if err != nil || used <= high {
		return all, err
	}
	images, err := s.List(ctx)
	if err != nil {
		return all, err
	}
	slices.SortStableFunc(images, func(a, b Image) int { return a.LastUsed.Compare(b.LastUsed) })
	gone := map[string]bool{}
	// One round first for what belongs to no image at all.
	for i := -1; i < len(images) && used > low; i++ {
		if err := ctx.Err(); err != nil {
			return all, context.Cause(ctx)
		}
		victim := ""
		if i >= 0 {
			if victim = images[i].Digest; gone[victim] || slices.Contains(keep, victim) {
				continue
			}
			gone[victim] = true
		}
		p, err := s.drop(ctx, func(e v1.Descriptor) bool {
			// What is not here any more is no image, whenever it was last used.
			d := e.Digest.String()
			return d == victim || !slices.Contains(keep, d) && s.lost(e.Digest)
		}, keep, partialAge)
		all.add(p)
		if err != nil {
			return all, fmt.Errorf("collect images: %w", err)
		}
		if used, err = s.usage(); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (p *Pruned) add(q Pruned) {
	p.Images = append(p.Images, q.Images...)
	p.Layers += q.Layers
	p.Blobs += q.Blobs
	p.Bytes += q.Bytes
}

// drop takes the entries that match out of the index, and then every blob and layer that no entry, no digest of keep
// and no lease needs. Downloads that broke off are kept while they are younger than age.
func (s *Store) drop(ctx context.Context, match func(v1.Descriptor) bool, keep []string, age time.Duration) (Pruned, error) {
	var p Pruned
	failpoint.Here("gc: not begun")
	trash, err := s.newTemp(filepath.Join(s.layers, "tmp"))
	if err != nil {
		return p, err
	}
	defer trash.remove() // the slow part, after the lock is free again
	return p, s.locked(unix.LOCK_EX, func() error {
		oldest, leased, err := s.oldestLease()
		if err != nil {
			return err
		}
		stays := func(info fs.FileInfo) bool { return leased && !info.ModTime().Before(oldest) }
		var gone []v1.Descriptor
		var marked map[string]bool
		if err := s.changeIndexLocked(func(i *v1.IndexManifest) (bool, error) {
			i.Manifests = slices.DeleteFunc(i.Manifests, func(e v1.Descriptor) bool {
				if !match(e) {
					return false
				}
				if info, err := os.Stat(s.blobPath(e.Digest)); err == nil && stays(info) {
					return false // somebody is bringing it right now
				}
				gone = append(gone, e)
				return true
			})
			var err error
			marked, err = s.mark(i, keep)
			return len(gone) > 0, err
		}); err != nil {
			return err
		}
		failpoint.Here("gc: out of the index, there still")
		for _, e := range gone {
			if !marked[e.Digest.String()] {
				img, _, _ := s.load(e.Digest, e.Annotations[refName])
				if img.Digest == "" {
					img = Image{Ref: e.Annotations[refName], Digest: e.Digest.String()}
				}
				p.Images = append(p.Images, img)
			}
		}
		return s.sweepUnmarked(ctx, &p, marked, stays, trash.dir, age)
	})
}

// mark returns the digests of all blobs, and "layer " and the digits of all chain ids, that must stay. It fails for an
// image that was here and cannot be read: nobody knows its layers then, and containers may run on them.
func (s *Store) mark(index *v1.IndexManifest, keep []string) (map[string]bool, error) {
	marked := map[string]bool{}
	visit := func(h v1.Hash) error {
		if marked[h.String()] {
			return nil
		}
		m, cfg, err := s.manifest(h)
		if err != nil {
			return err
		}
		chain, err := chainIDs(cfg.RootFS.DiffIDs)
		if err != nil {
			return err
		}
		marked[h.String()], marked[m.Config.Digest.String()] = true, true
		for i, d := range m.Layers {
			marked[d.Digest.String()], marked["layer "+chain[i].Hex] = true, true
		}
		return nil
	}
	for _, e := range index.Manifests {
		if err := visit(e.Digest); err != nil {
			return nil, fmt.Errorf("nothing is removed until image %s is pulled again or removed: %w",
				cmp.Or(e.Annotations[refName], e.Digest.String()), err)
		}
	}
	for _, k := range keep {
		h, err := v1.NewHash(k)
		if err != nil {
			continue
		}
		// One that is not here may be on its way.
		if err := visit(h); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("nothing is removed until image %s is pulled again: %w", k, err)
		}
	}
	return marked, nil
}

// lost reports whether an image's manifest or configuration is not here or is corrupt.
func (s *Store) lost(h v1.Hash) bool {
	_, _, err := s.manifest(h)
	var corrupt *corruptError
	return errors.Is(err, fs.ErrNotExist) || errors.As(err, &corrupt)
}

// sweepUnmarked removes blobs that are not marked, and moves such layers to trash.
func (s *Store) sweepUnmarked(ctx context.Context, p *Pruned, marked map[string]bool, stays func(fs.FileInfo) bool, trash string, age time.Duration) error {
	n := 0
	gone := func(err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	each := func(dir string, fn func(name, path string, info fs.FileInfo) error) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := fn(e.Name(), filepath.Join(dir, e.Name()), info); err != nil {
				return err
			}
		}
		return nil
	}
	failpoint.Here("gc: layers there")
	if err := each(s.layers, func(name, path string, info fs.FileInfo) error {
		if name == "tmp" || strings.HasPrefix(name, asidePrefix) || marked["layer "+name] || stays(info) {
			return nil
		}
		if r, ok := s.layer(v1.Hash{Algorithm: "sha256", Hex: name}); ok {
			p.Bytes += r.Bytes
		}
		p.Layers++
		n++
		return gone(os.Rename(path, filepath.Join(trash, strconv.Itoa(n))))
	}); err != nil {
		return err
	}
	failpoint.Here("gc: layers aside")
	algorithms, err := os.ReadDir(filepath.Join(s.images, "blobs"))
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		if err := each(filepath.Join(s.images, "blobs", a.Name()), func(name, path string, info fs.FileInfo) error {
			if marked[a.Name()+":"+name] || stays(info) {
				return nil
			}
			p.Bytes += info.Size()
			p.Blobs++
			return gone(os.Remove(path))
		}); err != nil {
			return err
		}
	}
	failpoint.Here("gc: blobs gone")
	return each(filepath.Join(s.images, "ingest"), func(_, path string, info fs.FileInfo) error {
		if time.Since(info.ModTime()) < age {
			return nil
		}
		removed, err := removeFree(path)
		if removed {
			p.Bytes += info.Size()
		}
		return gone(err)
	})
}

// settle makes layers that were unpacked since the last call survive a power cut, all with one sync.
func (s *Store) settle() {
	entries, err := os.ReadDir(s.layers)
	if err != nil {
		return
	}
	var fresh []v1.Hash
	for _, e := range entries {
		h := v1.Hash{Algorithm: "sha256", Hex: e.Name()}
		if r, ok := s.layer(h); ok && !r.Synced {
			fresh = append(fresh, h)
		}
	}
	if len(fresh) == 0 {
		return
	}
	f, err := os.Open(s.layers)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		s.log.Warn("cannot sync unpacked layers: after a power cut they are unpacked again", "error", err)
		return
	}
	// Under the lock, so that no two write one record, and none that was removed meanwhile.
	if err := s.lockedAsIs(unix.LOCK_EX, func() error {
		for _, h := range fresh {
			r, ok := s.layer(h)
			if !ok || r.Synced {
				continue
			}
			r.Synced = true
			if err := writeRecord(s.layerDir(h), r); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		s.log.Warn("cannot note that unpacked layers are synced: after a reboot they are unpacked again", "error", err)
	}
}
