package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// fetchAttempts is how often in a row a download may break off without progress worth the name.
const fetchAttempts = 4

// source is the registries that a pull's blobs may come from: the one that knew the manifest, then the others, which
// are spoken to only when they are needed.
type source struct {
	s         *Store
	endpoints []endpoint

	mu       sync.Mutex
	sessions []*session // of the first endpoints
}

// session returns the session with an endpoint.
func (src *source) session(ctx context.Context, i int) (*session, error) {
	src.mu.Lock()
	defer src.mu.Unlock()
	for len(src.sessions) <= i {
		sess, err := src.s.open(ctx, src.endpoints[len(src.sessions)])
		if err != nil {
			return nil, err
		}
		src.sessions = append(src.sessions, sess)
	}
	return src.sessions[i], nil
}

func (src *source) close() {
	src.mu.Lock()
	defer src.mu.Unlock()
	for _, sess := range src.sessions {
		sess.done()
	}
}

// fetch brings blob d here, where it is not yet, going on with what an earlier try left. progress is told how many
// more bytes are here, which is negative where bytes turned out to be wrong.
func (src *source) fetch(ctx context.Context, l *lease, d v1.Descriptor, progress func(int64)) error {
	s := src.s
	have := func() bool {
		size, err := s.blobSize(d.Digest)
		return err == nil && size == d.Size && s.touch(l, s.blobPath(d.Digest)) == nil
	}
	if have() {
		progress(d.Size)
		return nil
	}
	f, err := s.openPartial(ctx, d.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if have() { // another process was faster
		failpoint.Here("pull: an empty file of a blob that is there") // apart: where two bring one image
		_ = os.Remove(f.Name())
		progress(d.Size)
		return nil
	}
	failpoint.Here("pull: an empty file")
	p := &partial{f: f, want: d, pause: s.pause, progress: progress}
	if err := p.restore(); err != nil {
		return err
	}
	var errs []error
	for i := range src.endpoints {
		sess, err := src.session(ctx, i)
		if err == nil {
			err = p.from(ctx, sess)
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if disk(err) {
				return err
			}
			errs = append(errs, fmt.Errorf("blob %s from %s: %w", d.Digest, src.endpoints[i], err))
			continue
		}
		failpoint.Here("pull: a whole blob, not synced")
		if err := f.Sync(); err != nil {
			return err
		}
		if err := s.adopt(f.Name(), d.Digest); err != nil {
			return err
		}
		failpoint.Here("pull: a blob there")
		l.verified(d.Digest)
		return s.touch(l, s.blobPath(d.Digest))
	}
	return errors.Join(errs...)
}

// openPartial opens the file that blob h is gathered in, for this caller alone.
func (s *Store) openPartial(ctx context.Context, h v1.Hash) (*os.File, error) {
	path := filepath.Join(s.images, "ingest", h.Algorithm+"-"+h.Hex)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		failpoint.Here("pull: nothing of a blob")
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			// Whoever had it may have renamed it into the store, or a prune removed it, between open and lock.
			opened, err1 := f.Stat()
			named, err2 := os.Stat(path)
			if err1 == nil && err2 == nil && os.SameFile(opened, named) {
				return f, nil
			}
			_ = f.Close()
			continue
		}
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// partial is a blob on its way.
type partial struct {
	f        *os.File
	want     v1.Descriptor
	hash     hash.Hash
	have     int64
	resumed  bool          // bytes of an earlier process or try are in it
	pause    time.Duration // after the first failure; it doubles
	progress func(int64)
}

// restore takes over what is in the file.
func (p *partial) restore() error {
	var err error
	if p.hash, err = v1.Hasher(p.want.Digest.Algorithm); err != nil {
		return badImage("blob %s: %s", p.want.Digest, err)
	}
	if p.have, err = io.Copy(p.hash, p.f); err != nil {
		return err
	}
	p.resumed = p.have > 0
	if p.have > p.want.Size {
		p.have = 0
		return p.reset()
	}
	p.progress(p.have)
	return nil
}

// reset throws away what is there.
func (p *partial) reset() error {
	p.progress(-p.have)
	p.have, p.resumed = 0, false
	p.hash.Reset()
	failpoint.Here("pull: wrong bytes there")
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	failpoint.Here("pull: wrong bytes gone")
	_, err := p.f.Seek(0, io.SeekStart)
	return err
}

// from downloads what is missing from one registry, again and again while that makes progress.
func (p *partial) from(ctx context.Context, sess *session) error {
	for failures := 0; ; {
		before := p.have
		err := p.attempt(ctx, sess)
		if err == nil && p.have == p.want.Size {
			if fmt.Sprintf("%x", p.hash.Sum(nil)) == p.want.Digest.Hex {
				return nil
			}
			resumed := p.resumed
			if err = p.reset(); err != nil {
				return err
			}
			if resumed {
				continue // what the disk kept of an earlier try may have been at fault
			}
			return &corruptError{p.want.Digest}
		}
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var status *transport.Error
		if disk(err) || errors.As(err, &status) && !status.Temporary() {
			return err
		}
		if p.have-before >= minPace {
			failures = 0
		} else if failures++; failures >= fetchAttempts {
			return err
		}
		wait := time.NewTimer(p.pause << failures)
		select {
		case <-ctx.Done():
			wait.Stop()
			return context.Cause(ctx)
		case <-wait.C:
		}
	}
}

// attempt makes one request for what is missing and writes what comes.
func (p *partial) attempt(ctx context.Context, sess *session) error {
	if p.have == p.want.Size {
		return nil
	}
	repo := sess.ref.Context()
	url := "https://" + repo.RegistryStr() + "/v2/" + repo.RepositoryStr() + "/blobs/" + p.want.Digest.String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if p.have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", p.have))
	}
	resp, err := (&http.Client{Transport: sess.rt}).Do(req)
	if err != nil {
		return short(err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", p.have)) {
			return p.reset()
		}
		p.resumed = true
	case http.StatusOK: // a registry that knows no ranges
		if p.have > 0 {
			if err := p.reset(); err != nil {
				return err
			}
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return p.reset()
	default:
		return sess.explain(transport.CheckError(resp, http.StatusOK))
	}
	body := io.LimitReader(resp.Body, p.want.Size-p.have+1)
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			if p.have+int64(n) > p.want.Size {
				return badImage("blob %s is larger than the %d bytes that its manifest says", p.want.Digest, p.want.Size)
			}
			if _, werr := p.f.Write(buf[:n]); werr != nil {
				return werr
			}
			_, _ = p.hash.Write(buf[:n])
			p.have += int64(n)
			p.progress(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
