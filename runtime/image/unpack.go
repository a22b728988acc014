package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"strings"

	archive "github.com/moby/go-archive"

	"reconciler/runtime/failpoint"
)

// A layer is a stranger's tar, unpacked by root. Two hands do it: filter reads every header, refuses or leaves out
// what has no business in a layer and passes on a plain archive; moby/go-archive, which docker uses for the same,
// writes it through an os.Root, so that neither a name nor a link made before leads out of the directory.
// (containerd's pkg/archive would do too: it resolves paths by itself, and brings more packages.)
// Whiteouts are applied at the end, because the specification lets them stand anywhere in the archive and count for
// the layers below only: https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
	xattrRecord    = "SCHILY.xattr."
)

// unpack writes the layer in r to root. below are the unpacked layers under it, the top one first.
func (s *Store) unpack(ctx context.Context, r io.Reader, root string, below []string) (layerRecord, error) {
	f := &filter{
		ctx: ctx, below: view{below}, maxBytes: s.opts.MaxLayerSize, maxEntries: s.opts.MaxLayerEntries,
		have: map[string]bool{}, dropped: map[string]bool{}, moved: map[string]string{},
	}
	plain := newRelay()
	filtered := make(chan error, 1)
	go func() {
		err := f.run(tar.NewReader(r), plain)
		plain.end(err)
		filtered <- err
	}()
	failpoint.Here("layer: nothing unpacked")
	err := archive.Unpack(plain, root, &archive.TarOptions{NoLchown: os.Geteuid() != 0})
	if err == nil {
		_, err = io.Copy(io.Discard, plain)
	}
	plain.leave()
	if ferr := <-filtered; ferr != nil && !errors.Is(ferr, errUnpackFailed) {
		err = ferr
	}
	if ctx.Err() != nil {
		return layerRecord{}, context.Cause(ctx)
	}
	if err == nil {
		failpoint.Here("layer: unpacked, without whiteouts")
		err = f.finish(root)
	}
	var bad *badImageError
	if err != nil && !errors.As(err, &bad) {
		// Names of a stranger's are in it, and paths of this server.
		why := clip(strings.ReplaceAll(err.Error(), root, ""))
		if disk(err) {
			err = &shortError{why, err}
		} else {
			err = badImage("layer cannot be unpacked: %s", why)
		}
	}
	return layerRecord{Bytes: f.bytes, Entries: f.entries, Warnings: f.warnings}, err
}

var errUnpackFailed = errors.New("unpacking failed")
