package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// refName is OCI's annotation for the name of an image in a layout's index.
const refName = "org.opencontainers.image.ref.name"

func (s *Store) indexPath() string { return filepath.Join(s.images, "index.json") }

// readIndex returns the store's index, which the caller must not change.
func (s *Store) readIndex() (*v1.IndexManifest, error) {
	index, err := s.index.get(s.indexPath(), s.parseIndex)
	if errors.Is(err, fs.ErrNotExist) {
		return newIndex(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the image store: %w", err)
	}
	return index, nil
}

func newIndex() *v1.IndexManifest {
	return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
}

// parseIndex reads the store's index. One that cannot be read is put aside: what is in use is found by its digest,
// and the rest is pulled again, mostly without a download.
func (s *Store) parseIndex() (*v1.IndexManifest, error) {
	b, err := os.ReadFile(s.indexPath())
	if errors.Is(err, fs.ErrNotExist) {
		return newIndex(), nil
	}
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(b, &index); err != nil {
		aside := s.indexPath() + ".corrupt"
		s.log.Error("the index of the image store is corrupt: putting it aside and beginning a new one", "file", aside, "error", err)
		failpoint.Here("image: a corrupt index there")
		if err := os.Rename(s.indexPath(), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("put aside the corrupt index: %w", err)
		}
		failpoint.Here("image: a corrupt index aside")
		return newIndex(), nil
	}
	return &index, nil
}

// changeIndex lets fn change the index and writes it, if fn says that it did.
func (s *Store) changeIndex(fn func(*v1.IndexManifest) (bool, error)) error {
	return s.locked(unix.LOCK_EX, func() error { return s.changeIndexLocked(fn) })
}

func (s *Store) changeIndexLocked(fn func(*v1.IndexManifest) (bool, error)) error {
	index, err := s.parseIndex() // of its own: fn changes it
	if err != nil {
		return fmt.Errorf("read the image store: %w", err)
	}
	changed, err := fn(index)
	if err != nil || !changed {
		return err
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	failpoint.Here("image: the index not changed")
	return atomicfile.WriteDurable(s.indexPath(), b, 0o600)
}

// record gives an image its name for a platform. The image that had the name until now stays, without a name.
func (s *Store) record(ref string, d v1.Descriptor, p runtime.Platform) error {
	entry := v1.Descriptor{MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, Platform: toV1(p)}
	if ref != "" {
		entry.Annotations = map[string]string{refName: ref}
	}
	return s.changeIndex(func(index *v1.IndexManifest) (bool, error) {
		for _, have := range index.Manifests {
			if have.Digest == d.Digest && have.Annotations[refName] == ref && fromV1(have.Platform) == normal(p) {
				return false, nil
			}
		}
		named := slices.ContainsFunc(index.Manifests, func(have v1.Descriptor) bool {
			return have.Digest == d.Digest && have.Annotations[refName] != ""
		})
		if ref == "" && named {
			return false, nil
		}
		for i, have := range index.Manifests {
			if have.Annotations[refName] == ref && fromV1(have.Platform) == normal(p) {
				index.Manifests[i].Annotations = nil
			}
		}
		index.Manifests = append(index.Manifests, entry)
		index.Manifests = tidy(index.Manifests)
		return true, nil
	})
}

// tidy drops nameless entries of content that has a name, or another nameless entry.
func tidy(entries []v1.Descriptor) []v1.Descriptor {
	named := map[v1.Hash]bool{}
	for _, e := range entries {
		if e.Annotations[refName] != "" {
			named[e.Digest] = true
		}
	}
	return slices.DeleteFunc(entries, func(e v1.Descriptor) bool {
		if e.Annotations[refName] != "" {
			return false
		}
		if named[e.Digest] {
			return true
		}
		named[e.Digest] = true
		return false
	})
}

// lookup returns the entry of a name for a platform.
func (s *Store) lookup(ref string, want runtime.Platform) (v1.Descriptor, bool, error) {
	index, err := s.readIndex()
	if err != nil {
		return v1.Descriptor{}, false, err
	}
	best, found := v1.Descriptor{}, false
	for _, e := range index.Manifests {
		if e.Annotations[refName] != ref {
			continue
		}
		have := fromV1(e.Platform)
		if runs(want, have) && (!found || level(have) > level(fromV1(best.Platform))) {
			best, found = e, true
		}
	}
	return best, found, nil
}
