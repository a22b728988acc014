package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"reconciler/runtime/failpoint"
)

// layerRecord is layers/<chain id>/layer.json.
type layerRecord struct {
	Version  int      `json:"version"`
	DiffID   v1.Hash  `json:"diffID"`
	Bytes    int64    `json:"bytes"`
	Entries  int      `json:"entries"`
	Warnings []string `json:"warnings,omitempty"`
	// Boot is the boot in which the layer was unpacked. A layer that no sync followed is trusted only in the same
	// one: after a power cut its files may be empty, and it is unpacked again.
	Boot   string `json:"boot"`
	Synced bool   `json:"synced"`
}

const layerVersion = 1

// chainIDs returns the chain id of each layer, which names it together with everything below it.
// https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid
func chainIDs(diffs []v1.Hash) ([]v1.Hash, error) {
	chain := make([]v1.Hash, len(diffs))
	for i, d := range diffs {
		if i == 0 {
			chain[0] = d
			continue
		}
		h, _, err := v1.SHA256(strings.NewReader(chain[i-1].String() + " " + d.String()))
		if err != nil {
			return nil, err
		}
		chain[i] = h
	}
	return chain, nil
}

// layerDir is the directory of a layer; its files are in fs below it.
func (s *Store) layerDir(chain v1.Hash) string { return filepath.Join(s.layers, chain.Hex) }

// layer returns the record of a layer that is here and whole.
func (s *Store) layer(chain v1.Hash) (layerRecord, bool) {
	path := filepath.Join(s.layerDir(chain), "layer.json")
	r, err := s.records.get(path, func() (layerRecord, error) {
		var r layerRecord
		b, err := os.ReadFile(path)
		if err != nil {
			return r, err
		}
		return r, json.Unmarshal(b, &r)
	})
	if err != nil || r.Version != layerVersion || !r.Synced && r.Boot != s.boot {
		return layerRecord{}, false
	}
	info, err := os.Lstat(filepath.Join(s.layerDir(chain), "fs"))
	return r, err == nil && info.IsDir()
}

// writeRecord replaces a layer's record. It needs no sync: a lost one costs unpacking again.
func writeRecord(dir string, r layerRecord) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, ".layer.json.tmp")
	failpoint.Here("layer: its record not written")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	failpoint.Here("layer: its record beside")
	err = os.Rename(tmp, filepath.Join(dir, "layer.json"))
	failpoint.Here("layer: its record in place")
	return err
}

// ensureLayer unpacks one layer whose blob is here, where that was not done yet. below are the unpacked layers under
// it, the top one first. Callers that want the same layer at the same time share the work.
func (s *Store) ensureLayer(ctx context.Context, l *lease, blob v1.Descriptor, diff, chain v1.Hash, below []string) error {
	if s.touchLayer(l, chain) {
		return nil
	}
	_, err := s.unpacking.do(ctx, chain.String(), nil, func(ctx context.Context, _ func(int64, int64)) (Image, error) {
		// The lease of whoever does the work protects it; those who wait touch it afterwards.
		return Image{}, s.unpackLayer(ctx, l, blob, diff, chain, below)
	})
	if err == nil && !s.touchLayer(l, chain) {
		return fmt.Errorf("unpack layer %s: it was removed meanwhile", diff)
	}
	return err
}

func (s *Store) touchLayer(l *lease, chain v1.Hash) bool {
	if _, ok := s.layer(chain); !ok {
		return false
	}
	return s.touch(l, s.layerDir(chain)) == nil
}

func (s *Store) unpackLayer(ctx context.Context, l *lease, blob v1.Descriptor, diff, chain v1.Hash, below []string) error {
	if s.touchLayer(l, chain) {
		return nil
	}
	failpoint.Here("layer: not unpacked")
	t, err := s.newTemp(filepath.Join(s.layers, "tmp"))
	if err != nil {
		return err
	}
	defer t.remove()
	whole := filepath.Join(t.dir, "layer")
	root := filepath.Join(whole, "fs")
	if err = os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	failpoint.Here("layer: an empty directory")
	record, err := s.unpackBlob(ctx, blob, l.hasVerified(blob.Digest), diff, root, below)
	if err != nil {
		return err
	}
	record.Version, record.DiffID, record.Boot = layerVersion, diff, s.boot
	failpoint.Here("layer: unpacked, without a record")
	if err = writeRecord(whole, record); err != nil {
		return err
	}
	dir := s.layerDir(chain)
	failpoint.Here("layer: whole beside")
	err = os.Rename(whole, dir)
	if errors.Is(err, fs.ErrExist) {
		if _, ok := s.layer(chain); ok {
			return nil // another process was faster
		}
		failpoint.Here("layer: a torn one there")
		if err = s.setAside(dir, filepath.Join(t.dir, "torn")); err != nil {
			return err
		}
		failpoint.Here("layer: a torn one aside")
		err = os.Rename(whole, dir)
	}
	failpoint.Here("layer: in place")
	if err == nil {
		err = s.touch(l, dir)
	}
	return err
}

// asidePrefix, with the boot, begins the name of a directory of layers that were replaced, beside the layers.
const asidePrefix = "aside-"

// setAside makes room for a layer that is unpacked anew. The old one goes to trash only if its record says that it is of
// another boot: else containers may run on its files, whatever befell the record, and they stay until the next boot.
func (s *Store) setAside(dir, trash string) error {
	var r layerRecord
	b, err := os.ReadFile(filepath.Join(dir, "layer.json"))
	if err != nil || json.Unmarshal(b, &r) != nil || r.Boot == "" || r.Boot == s.boot {
		aside := filepath.Join(s.layers, asidePrefix+s.boot)
		if err = os.MkdirAll(aside, 0o700); err != nil {
			return err
		}
		failpoint.Here("layer: no place for a torn one")
		if aside, err = os.MkdirTemp(aside, ""); err != nil {
			return err
		}
		trash = filepath.Join(aside, filepath.Base(dir))
		s.log.Warn("the record of an unpacked layer is damaged: it is unpacked again, the old files stay for what runs on them until the next boot",
			"layer", filepath.Base(dir))
	}
	if err = os.Rename(dir, trash); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	failpoint.Here("layer: a torn one moved")
	return err
}

// unpackBlob reads a layer's blob to its end, unpacks it into root and checks both its digests; only that of what comes out
// of it where the blob itself was verified on its way here, a moment ago.
func (s *Store) unpackBlob(ctx context.Context, blob v1.Descriptor, verified bool, diff v1.Hash, root string, below []string) (layerRecord, error) {
	f, err := os.Open(s.blobPath(blob.Digest))
	if err != nil {
		return layerRecord{}, err
	}
	defer func() { _ = f.Close() }()
	blobHash, err := v1.Hasher(blob.Digest.Algorithm)
	if err != nil {
		return layerRecord{}, err
	}
	diffHash, err := v1.Hasher(diff.Algorithm)
	if err != nil {
		return layerRecord{}, badImage("layer %s: %s", diff, err)
	}
	var compressed io.Reader = f
	if !verified {
		compressed = io.TeeReader(f, blobHash)
	}
	plain, err := decompress(compressed)
	if err != nil {
		return layerRecord{}, s.blame(f, blob.Digest, badImage("layer %s: %s", diff, err))
	}
	defer plain.Close()
	bounded := &boundedReader{r: plain, left: s.opts.MaxLayerSize, what: diff.String()}
	record, err := s.unpack(ctx, io.TeeReader(bounded, diffHash), root, below)
	if err == nil {
		// Padding after the end of the archive counts for both digests.
		if _, err = io.Copy(diffHash, bounded); err == nil {
			_, err = io.Copy(io.Discard, compressed)
		}
		if err != nil && !disk(err) {
			err = badImage("layer %s: %s", diff, err)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return layerRecord{}, context.Cause(ctx)
		}
		return layerRecord{}, s.blame(f, blob.Digest, err)
	}
	if !verified && fmt.Sprintf("%x", blobHash.Sum(nil)) != blob.Digest.Hex {
		return layerRecord{}, s.dropCorrupt(blob.Digest)
	}
	if fmt.Sprintf("%x", diffHash.Sum(nil)) != diff.Hex {
		return layerRecord{}, badImage("layer %s: the unpacked content has another digest than the image's configuration says", diff)
	}
	return record, nil
}

// blame finds out whether a layer could not be unpacked because its blob rotted on disk, which a new download cures.
func (s *Store) blame(f *os.File, h v1.Hash, err error) error {
	if _, bad := errors.AsType[*badImageError](err); !bad {
		return err
	}
	hasher, herr := v1.Hasher(h.Algorithm)
	if herr != nil {
		return err
	}
	if _, serr := f.Seek(0, io.SeekStart); serr != nil {
		return serr
	}
	if _, cerr := io.Copy(hasher, f); cerr != nil {
		return cerr
	}
	if fmt.Sprintf("%x", hasher.Sum(nil)) != h.Hex {
		return s.dropCorrupt(h)
	}
	return err
}

// boundedReader fails where more comes than is allowed.
type boundedReader struct {
	r    io.Reader
	left int64
	what string
}

// Read implements io.Reader.
func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, badImage("layer %s unpacks to more than is allowed", b.what)
	}
	return n, err
}

// stream is something decompressed that is closed without an error.
type stream struct {
	io.Reader
	close func()
}

// Close gives back what the decompressor holds.
func (s stream) Close() { s.close() }

// decompress tells by the first bytes, not by what a manifest says, how a stream is compressed.
func decompress(r io.Reader) (stream, error) {
	// Reads are as large as the disk and the hash like them, and gzip has a faster way for this very type.
	ahead := bufio.NewReaderSize(r, 128<<10)
	head, err := ahead.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return stream{}, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(ahead)
		if err != nil {
			return stream{}, err
		}
		return stream{z, func() { _ = z.Close() }}, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) == 4 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}) && head[0]&0xf0 == 0x50:
		// A window of 128 MiB is what zstd --long makes; a stranger may not ask for more memory.
		z, err := zstd.NewReader(ahead, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return stream{}, err
		}
		return stream{z, z.Close}, nil
	default:
		return stream{ahead, func() {}}, nil
	}
}
