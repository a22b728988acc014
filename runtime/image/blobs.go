package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// maxJSON bounds manifests and configurations, in bytes. Registries refuse manifests above 4 MiB.
const maxJSON = 8 << 20

// corruptError says that a blob's content is not what its digest says.
type corruptError struct{ digest v1.Hash }

// Error implements error.
func (e *corruptError) Error() string {
	return "blob " + e.digest.String() + " is corrupt: its content has another digest"
}

func (s *Store) blobPath(h v1.Hash) string {
	return filepath.Join(s.images, "blobs", h.Algorithm, h.Hex)
}

// blobSize returns how large a blob is, or fs.ErrNotExist.
func (s *Store) blobSize(h v1.Hash) (int64, error) {
	info, err := os.Stat(s.blobPath(h))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// readBlob returns a small blob whose content was checked. A corrupt one is taken away, so that it is fetched anew.
func (s *Store) readBlob(h v1.Hash) ([]byte, error) {
	f, err := os.Open(s.blobPath(h))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxJSON {
		return nil, badImage("blob %s is larger than the %d MiB that are allowed here", h, maxJSON>>20)
	}
	if !hashes(b, h) {
		return nil, s.dropCorrupt(h)
	}
	return b, nil
}

func (s *Store) dropCorrupt(h v1.Hash) error {
	failpoint.Here("image: a corrupt blob there") // apart: where a disk went bad
	if err := os.Remove(s.blobPath(h)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("image: a corrupt blob gone") // apart: where a disk went bad
	s.log.Warn("removed a corrupt blob from the image store", "digest", h.String())
	return &corruptError{h}
}

func hashes(b []byte, h v1.Hash) bool {
	hasher, err := v1.Hasher(h.Algorithm)
	if err != nil {
		return false
	}
	_, _ = hasher.Write(b)
	return fmt.Sprintf("%x", hasher.Sum(nil)) == h.Hex
}

// putBlob keeps bytes whose digest is h.
func (s *Store) putBlob(h v1.Hash, b []byte) error {
	if !hashes(b, h) {
		return &corruptError{h}
	}
	if size, err := s.blobSize(h); err == nil && size == int64(len(b)) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.blobPath(h)), 0o700); err != nil {
		return err
	}
	failpoint.Here("image: a small blob not written")
	return atomicfile.WriteDurable(s.blobPath(h), b, 0o600)
}

// putJSON keeps a value as a blob.
func (s *Store) putJSON(v any, mediaType types.MediaType) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	h, size, err := v1.SHA256(bytes.NewReader(b))
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: mediaType, Size: size, Digest: h}, s.putBlob(h, b)
}

// adopt moves a whole, synced file into the store as blob h.
func (s *Store) adopt(file string, h v1.Hash) error {
	if err := os.MkdirAll(filepath.Dir(s.blobPath(h)), 0o700); err != nil {
		return err
	}
	failpoint.Here("image: a blob not adopted")
	err := os.Rename(file, s.blobPath(h))
	failpoint.Here("image: a blob adopted")
	return err
}
