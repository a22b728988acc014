package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"reconciler/runtime/failpoint"
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
func (s *Source) receive(dir string, talk *conversation, r request) (err error) {
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
	limit := slowest * s.cfg.Timeout
	slow := time.AfterFunc(limit, func() { talk.cancel(tooSlow(limit)) }) // what comes before the pack is small
	res, err := talk.UploadPack(talk.ctx, req)
	slow.Stop()
	if err != nil {
		return cmp.Or(context.Cause(talk.ctx), err)
	}
	defer func() { err = errors.Join(err, res.Close()) }()
	from := newPaced(res, limit, talk.cancel)
	defer from.timer.Stop()
	var stream io.Reader = from
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		stream = sideband.NewDemuxer(sideband.Sideband64k, from)
	case req.Capabilities.Supports(capability.Sideband):
		stream = sideband.NewDemuxer(sideband.Sideband, from)
	}
	failpoint.Here("pack: torn ones there")
	removeTorn(dir) // of a process that died
	failpoint.Here("pack: torn ones gone")
	if err = storePack(dir, stream); err != nil {
		if cause := context.Cause(talk.ctx); cause != nil {
			return cause
		}
		return fmt.Errorf("receive the pack: %w", err)
	}
	if len(res.Shallows) == 0 {
		return nil
	}
	sto := filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRU(cache.MiByte))
	defer func() { _ = sto.Close() }()
	return sto.SetShallow(res.Shallows)
}

// A server that sends byte by byte is never silent, so minPace bytes have to come within slowest times what a silence may
// last. It is low enough for one that says only now and then that it still prepares the pack.
const (
	minPace = 1 << 10
	slowest = 10
)

// paced gives up a stream that is too slow.
type paced struct {
	io.Reader

	limit time.Duration
	timer *time.Timer
	got   int // bytes since the timer was set
}

func newPaced(r io.Reader, limit time.Duration, giveUp func(error)) *paced {
	return &paced{Reader: r, limit: limit, timer: time.AfterFunc(limit, func() { giveUp(tooSlow(limit)) })}
}

func tooSlow(limit time.Duration) error {
	return fmt.Errorf("%w: it sent less than %d bytes in %s", ErrUnreachable, minPace, limit)
}

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if p.got += n; p.got >= minPace {
		p.timer.Reset(p.limit)
		p.got = 0
	}
	if err != nil {
		p.timer.Stop()
	}
	return n, err
}

// removeTorn removes packs that did not arrive.
func removeTorn(dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", "tmp_pack_*")) // the pattern is fine
	for _, name := range names {
		failpoint.Here("pack: a torn one there")
		_ = os.Remove(name) // tried again after the next one
		failpoint.Here("pack: a torn one gone")
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
			if c, err := st.seen(p); err == nil {
				haves = append(haves, p)
				todo = append(todo, c)
			}
		}
	}
	return haves, nil
}
