package image

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"reconciler/runtime"
)

// Options say where a store is and how it pulls.
type Options struct {
	// Dir is the state directory. The store makes images/ and layers/ in it, for root alone.
	Dir string
	// AuthFile is docker's config.json with credentials for registries, read at every use. Empty: none.
	AuthFile string
	// CAFile is a PEM file of certificates that are trusted for registries besides the system's, read at every use.
	CAFile string
	// Mirrors maps a registry's host ("docker.io", "registry.example.com:5000") to the URL of a mirror that is tried
	// first. Only a URL that says http is spoken to in plain text.
	Mirrors map[string]string
	// AllowCapture are the absolute paths below which Capture may copy. Empty: nothing.
	AllowCapture []string
	// Platform is what images must be made for. Zero: this server's.
	Platform runtime.Platform
	// Parallel is how many layers are downloaded at once by the whole store. Zero: 3.
	Parallel int
	// MaxLayerSize bounds an unpacked layer, in bytes. Zero: 64 GiB. MaxLayerEntries bounds its files. Zero: 4 million.
	MaxLayerSize    int64
	MaxLayerEntries int
	// Logger may be nil.
	Logger *slog.Logger
}

// Store keeps images. Its methods may be called concurrently, by several processes on the same directory too.
type Store struct{ opts Options }

var errNotBuilt = errors.New("not built")

// Open opens the store in o.Dir, makes it where it is not there yet, and sweeps what dead processes left half made.
func Open(o Options) (*Store, error) { return &Store{opts: o}, nil }

// Ensure brings an image to this server, where it is not there yet, with every layer unpacked. It is idempotent, cheap
// where everything is here, and concurrent calls for the same content share the work.
func (s *Store) Ensure(ctx context.Context, r Request) (Image, error) { return Image{}, errNotBuilt }

// Capture makes an image from this server's own files. key identifies what was asked for, the digest of the spec's
// capture: for each key the files are taken once, and found from then on.
func (s *Store) Capture(ctx context.Context, paths []runtime.Path, key string) (Image, error) {
	return Image{}, errNotBuilt
}

// Find looks for an image in the store only, by digest or, where that is empty, by ref. It reports false for one whose
// content is not complete.
func (s *Store) Find(ref, digest string) (Image, bool, error) { return Image{}, false, errNotBuilt }

// Resolve asks the registry what ref means now and returns the digest of the platform's manifest. Nil is the store's
// platform. Nothing is downloaded but manifests.
func (s *Store) Resolve(ctx context.Context, ref string, platform *runtime.Platform) (string, error) {
	return "", errNotBuilt
}

// List returns every image, sorted by ref, then digest.
func (s *Store) List(ctx context.Context) ([]Image, error) { return nil, errNotBuilt }

// Inspect returns the image that ref names: a reference, a digest, or 12 or more digits of one.
// The error wraps ErrNotFound where there is none.
func (s *Store) Inspect(ctx context.Context, ref string) (Image, error) { return Image{}, errNotBuilt }

// Remove takes away the name ref, and the content that no other name needs.
// The error wraps ErrNotFound where there is none.
func (s *Store) Remove(ctx context.Context, ref string) (Pruned, error) { return Pruned{}, errNotBuilt }

// Prune takes away every image whose digest is not in keep.
func (s *Store) Prune(ctx context.Context, keep []string) (Pruned, error) {
	return Pruned{}, errNotBuilt
}

// Collect takes away images that are not in keep, the least recently used first, if more than high percent of the file
// system is in use, until no more than low percent is.
func (s *Store) Collect(ctx context.Context, keep []string, high, low int) (Pruned, error) {
	return Pruned{}, errNotBuilt
}

// Save writes the image that ref names (as for Inspect) to w, as a tar file of an OCI image layout ("oci-archive").
func (s *Store) Save(ctx context.Context, ref string, w io.Writer) error { return errNotBuilt }

// Load reads an oci-archive or docker-archive, compressed or not, into the store.
func (s *Store) Load(ctx context.Context, r io.Reader) ([]Image, error) { return nil, errNotBuilt }

// ErrNotFound is wrapped by the error of a method that names an image which is not in the store.
var ErrNotFound = errors.New("no such image")
