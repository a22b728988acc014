package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/runtime"
)

// Options say where a store is and how it pulls.
type Options struct {
	// Dir is the state directory. The store makes images/ and layers/ in it, for root alone.
	Dir string
	// AuthFile is docker's config.json with credentials for registries, read at every use. Empty: none.
	// A credential helper that it names is run for a registry that it has no credentials for.
	AuthFile string
	// CAFile is a PEM file of certificates that are trusted for registries besides the system's, read at every use.
	CAFile string
	// Mirrors maps a registry's host ("docker.io", "registry.example.com:5000") to the URL of a mirror that is tried
	// first. A path in the URL goes before the repository's name. Only a URL that says http is spoken to in plain text.
	Mirrors map[string]string
	// AllowCapture are the absolute paths below which Capture may copy. Empty: nothing.
	AllowCapture []string
	// Platform is what images must be made for. Zero: this server's.
	Platform runtime.Platform
	// Parallel is how many layers are downloaded at once from one registry. Zero: 3.
	Parallel int
	// MaxLayerSize bounds an unpacked layer, in bytes. Zero: 64 GiB.
	MaxLayerSize int64
	// MaxLayerEntries bounds the files of a layer. Zero: 4 million.
	MaxLayerEntries int
	// Logger may be nil.
	Logger *slog.Logger
}

// Store keeps images. Its methods may be called concurrently, by several processes on the same directory too.
type Store struct {
	opts   Options
	log    *slog.Logger
	images string // an OCI image layout, with ingest/, leases/, tmp/ and lock beside
	layers string
	boot   string

	making sync.Mutex
	made   bool // the directories are there

	slotting sync.Mutex
	slots    map[string]chan struct{} // for each registry, one for each download: one that hangs holds up no other

	index     kept[*v1.IndexManifest]
	manifests kept[*v1.Manifest]
	configs   kept[*v1.ConfigFile]
	records   kept[layerRecord]

	pulls     flights
	fetches   flights
	unpacking flights

	// pause is how long a download that broke off waits before it goes on; it doubles.
	pause time.Duration
	// stall is how long an answer may take for minPace bytes.
	stall time.Duration
	// usage tells how many of 100 parts of the file system are in use.
	usage func() (int, error)
}

// Open opens the store in o.Dir. It makes nothing: the first call that changes something makes the directories and
// sweeps what dead processes left half made.
func Open(o Options) (*Store, error) {
	if o.Platform == (runtime.Platform{}) {
		o.Platform = HostPlatform()
	}
	o.Platform = normal(o.Platform)
	o.Parallel = cmp.Or(o.Parallel, 3)
	o.MaxLayerSize = cmp.Or(o.MaxLayerSize, 64<<30)
	o.MaxLayerEntries = cmp.Or(o.MaxLayerEntries, 4_000_000)
	dir, err := filepath.Abs(o.Dir)
	if err != nil || o.Dir == "" {
		return nil, fmt.Errorf("open image store: no state directory: %w", errors.Join(err, fs.ErrInvalid))
	}
	s := &Store{
		opts: o, log: o.Logger, images: filepath.Join(dir, "images"), layers: filepath.Join(dir, "layers"),
		slots: map[string]chan struct{}{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.usage, s.pause, s.stall = s.diskUsage, 100*time.Millisecond, stallTimeout
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s.boot = strings.TrimSpace(string(boot))
	return s, nil
}

// make makes the directories where they are not there yet, once for a Store that could.
func (s *Store) make() error {
	s.making.Lock()
	defer s.making.Unlock()
	if s.made {
		return nil
	}
	for _, d := range []string{
		filepath.Join(s.images, "blobs/sha256"), filepath.Join(s.images, "ingest"), filepath.Join(s.images, "leases"),
		filepath.Join(s.images, "tmp"), filepath.Join(s.layers, "tmp"),
	} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make image store: %w", err)
		}
	}
	for _, d := range []string{s.images, s.layers} {
		// Layers hold setuid programs and other people's files: only root may come near them.
		if err := os.Chmod(d, 0o700); err != nil {
			return fmt.Errorf("make image store: %w", err)
		}
	}
	if err := s.sweep(); err != nil {
		return fmt.Errorf("sweep image store: %w", err)
	}
	s.made = true
	return nil
}

const layoutFile = `{"imageLayoutVersion":"1.0.0"}`

// Find looks for an image in the store only, by digest or, where that is empty, by ref. It reports false for one that
// is not complete: without its configuration or with layers that are not unpacked.
func (s *Store) Find(ref, digest string) (Image, bool, error) {
	d, full, err := s.find(ref, digest, s.opts.Platform)
	if err != nil || d.Digest.Hex == "" {
		return Image{}, false, err
	}
	img, whole, err := s.load(d.Digest, full)
	return img, whole, err
}

// find returns the descriptor of an image that may be in the store, and its name in full. Nothing but the name or the
// digest is looked up; a zero descriptor says that there is none.
func (s *Store) find(ref, digest string, want runtime.Platform) (v1.Descriptor, string, error) {
	full, err := fullName(ref)
	if err != nil {
		return v1.Descriptor{}, "", err
	}
	if digest != "" {
		h, hashErr := v1.NewHash(digest)
		if hashErr != nil {
			return v1.Descriptor{}, "", badImage("%q is not a digest", digest)
		}
		_, err = s.blobSize(h)
		if errors.Is(err, fs.ErrNotExist) {
			return v1.Descriptor{}, full, nil
		}
		return v1.Descriptor{Digest: h}, full, err
	}
	d, _, err := s.lookup(full, want)
	return d, full, err
}

// fullName is the name that the index keeps an image under.
func fullName(ref string) (string, error) {
	if ref == "" || isLocal(ref) || strings.HasPrefix(ref, capturePrefix) {
		return ref, nil
	}
	r, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	return display(r), nil
}

// load reads what an image says. It reports false where something of it is missing or corrupt.
func (s *Store) load(h v1.Hash, ref string) (Image, bool, error) {
	m, cfg, err := s.manifest(h)
	var corrupt *corruptError
	if errors.Is(err, fs.ErrNotExist) || errors.As(err, &corrupt) {
		return Image{}, false, nil
	}
	if err != nil {
		return Image{}, false, err
	}
	img := Image{
		Ref: ref, Digest: h.String(), Config: *cfg.Config.DeepCopy(), Created: cfg.Created.Time,
		Platform: normal(runtime.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}),
		Size:     m.Config.Size,
	}
	if w := m.Annotations[warningsKey]; w != "" && strings.HasPrefix(ref, capturePrefix) {
		img.Warnings = strings.Split(w, "\n")
	}
	if info, statErr := os.Stat(s.blobPath(h)); statErr == nil {
		img.Size += info.Size()
		img.LastUsed = info.ModTime()
	}
	chain, err := chainIDs(cfg.RootFS.DiffIDs)
	if err != nil {
		return Image{}, false, err
	}
	for i, c := range chain {
		img.Size += m.Layers[i].Size
		record, ok := s.layer(c)
		if !ok {
			return img, false, nil
		}
		img.Unpacked += record.Bytes
		img.Warnings = append(img.Warnings, record.Warnings...)
		img.Layers = append(img.Layers, filepath.Join(s.layerDir(c), "fs"))
	}
	slices.Reverse(img.Layers)
	return img, true, nil
}

// manifest reads an image's manifest and configuration, checks that they belong together, and returns them for reading only.
func (s *Store) manifest(h v1.Hash) (*v1.Manifest, *v1.ConfigFile, error) {
	m, err := s.manifests.get(s.blobPath(h), func() (*v1.Manifest, error) {
		b, err := s.readBlob(h)
		if err != nil {
			return nil, err
		}
		return parseManifest(b)
	})
	if err != nil {
		return nil, nil, err
	}
	cfg, err := s.config(m)
	return m, cfg, err
}

// config reads the configuration that a manifest names.
func (s *Store) config(m *v1.Manifest) (*v1.ConfigFile, error) {
	h := m.Config.Digest
	cfg, err := s.configs.get(s.blobPath(h), func() (*v1.ConfigFile, error) {
		b, err := s.readBlob(h)
		if err != nil {
			return nil, err
		}
		cfg, err := parseConfig(b)
		if err != nil {
			return nil, err
		}
		cfg.History = nil // most of it, often, and asked for by nobody
		return cfg, nil
	})
	if err != nil {
		return nil, err
	}
	if len(cfg.RootFS.DiffIDs) != len(m.Layers) {
		return nil, badImage("its configuration names %d layers, its manifest %d", len(cfg.RootFS.DiffIDs), len(m.Layers))
	}
	return cfg, nil
}

// diskUsage is what df shows under Use%.
func (s *Store) diskUsage() (int, error) {
	var st syscall.Statfs_t
	err := syscall.Statfs(s.images, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // no image was ever brought
	}
	if err != nil {
		return 0, fmt.Errorf("disk use of %s: %w", s.images, err)
	}
	used := st.Blocks - st.Bfree
	all := used + st.Bavail
	if all == 0 {
		return 0, nil
	}
	return int((used*100 + all - 1) / all), nil
}

// usedAgain is how long an image's last use stands for the uses that follow. Collect needs to know it no better, and what
// is used every second need not be written to disk, nor be read again, every second.
const usedAgain = time.Minute

// use says that an image was asked for just now, for Collect.
func (s *Store) use(img Image) {
	h, err := v1.NewHash(img.Digest)
	if err != nil {
		return
	}
	now := time.Now()
	if since := now.Sub(img.LastUsed); since >= 0 && since < usedAgain {
		return
	}
	if err := os.Chtimes(s.blobPath(h), now, now); err != nil {
		s.log.Debug("cannot note the use of an image", "digest", img.Digest, "error", err)
	}
}

// progressFunc makes what a Request's Progress is told.
func (r Request) progressFunc(what string) func(done, total int64) {
	if r.Progress == nil {
		return nil
	}
	return func(done, total int64) {
		r.Progress(runtime.Progress{Name: r.Name, What: what, Done: done, Total: total})
	}
}

// platform is what an image for this request must run on.
func (s *Store) platform(p *runtime.Platform) runtime.Platform {
	if p == nil || *p == (runtime.Platform{}) {
		return s.opts.Platform
	}
	return normal(*p)
}

// slot waits until one more download from a registry may run.
func (s *Store) slot(ctx context.Context, registry string) (func(), error) {
	s.slotting.Lock()
	slots := s.slots[registry]
	if slots == nil {
		slots = make(chan struct{}, s.opts.Parallel)
		s.slots[registry] = slots
	}
	s.slotting.Unlock()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
