package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// maxHaves is how many commits that we have are named to the server.
const maxHaves = 64

// request is what is asked of a server, beside the branch.
type request struct {
	depth   int // 0: all history that the haves do not have
	haves   []plumbing.Hash
	shallow map[plumbing.Hash]bool
}

// receive gets the pack for the branch and stores it in the repository at dir.
func (s *Source) receive(ctx context.Context, dir string, talk *conversation, r request) (err error) {
	req := packp.NewUploadPackRequestFromCapabilities(talk.refs.Capabilities)
	req.Wants = []plumbing.Hash{talk.want}
	req.Haves = r.haves
	canShallow := talk.refs.Capabilities.Supports(capability.Shallow)
	if r.depth > 0 && canShallow {
		req.Depth = packp.DepthCommits(r.depth)
	}
	if canShallow {
		// Without these lines the server takes our first commit's parents for known, and sends a revert of it
		// without its files. go-git's own fetch leaves them out.
		for h := range r.shallow {
			req.Shallows = append(req.Shallows, h)
		}
	}
	if len(req.Shallows) > 0 || !req.Depth.IsZero() {
		if err = req.Capabilities.Set(capability.Shallow); err != nil {
			return err
		}
	}
	if talk.refs.Capabilities.Supports(capability.NoProgress) {
		if err = req.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	res, err := talk.UploadPack(ctx, req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	var stream io.Reader = res
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		stream = sideband.NewDemuxer(sideband.Sideband64k, res)
	case req.Capabilities.Supports(capability.Sideband):
		stream = sideband.NewDemuxer(sideband.Sideband, res)
	}
	removeTorn(dir) // of a process that died
	from := &remembering{Reader: stream}
	if err = storePack(dir, from); err != nil {
		if from.err != nil {
			return fmt.Errorf("transfer cut short: %w", from.err)
		}
		return fmt.Errorf("store what the server sent: %w", err)
	}
	if len(res.Shallows) == 0 {
		return nil
	}
	sto := filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRU(cache.MiByte))
	defer func() { _ = sto.Close() }()
	return sto.SetShallow(res.Shallows)
}

// remembering keeps the error of the stream, to tell a broken connection from a full disk.
type remembering struct {
	io.Reader

	err error
}

func (r *remembering) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// removeTorn removes packs that did not arrive.
func removeTorn(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", "tmp_pack_*")) // the pattern is fine
	for _, name := range names {
		_ = os.Remove(name) // tried again after the next one
	}
}

// recent returns the newest commits of a branch, as far as they are here.
func recent(st *store, head plumbing.Hash) ([]plumbing.Hash, error) {
	first, err := st.commit(head)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	haves := []plumbing.Hash{head}
	for todo := []*object.Commit{first}; len(todo) > 0 && len(haves) < maxHaves; todo = todo[1:] {
		for _, p := range todo[0].ParentHashes {
			if slices.Contains(haves, p) {
				continue
			}
			if c, err := st.commit(p); err == nil {
				haves = append(haves, p)
				todo = append(todo, c)
			}
		}
	}
	return haves, nil
}
