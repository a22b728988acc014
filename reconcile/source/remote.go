package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"reconciler/manifest"
	"reconciler/runtime/failpoint"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// maxPacks is how many packs a clone may have. Each fetch adds one and each slows every read; a clone with more is made
// again, which leaves the packing to the server. It is then as many commits deep: what is in force is in it still, as long
// as no push brings as many, and Descends need not ask for the whole history.
const maxPacks = 100

// cloneAgainAfter is how long a clone that was just made, and still misses objects, is left alone: then the server's
// repository is the damaged one.
const cloneAgainAfter = 10 * time.Minute

// conversation is one connection to a server, and what it has. All that is said in it ends with its context.
type conversation struct {
	transport.UploadPackSession

	ctx    context.Context //nolint:containedctx // it lasts as long as the conversation, over several calls
	cancel context.CancelCauseFunc
	refs   *packp.AdvRefs
	want   plumbing.Hash // the branch
}

func (c *conversation) Close() error {
	defer c.cancel(nil)
	return c.UploadPackSession.Close()
}

// ask connects and finds the branch. It is the whole of a poll that finds nothing new.
func (s *Source) ask(ctx context.Context) (*conversation, error) {
	var sess transport.UploadPackSession
	var err error
	// ctx cuts an ssh connection as long as the session lasts, so the limit for this part is a timer on it.
	cut, cancel := context.WithCancelCause(ctx)
	limit := 2 * s.cfg.Timeout
	slow := time.AfterFunc(limit, func() {
		cancel(fmt.Errorf("%w: the list of branches took longer than %s", ErrUnreachable, limit))
	})
	defer slow.Stop()
	if s.at.kind == kindSSH {
		sess, err = s.sshSession(cut, cancel)
	} else {
		sess, err = s.httpSession()
	}
	if err == nil {
		var refs *packp.AdvRefs
		if refs, err = sess.AdvertisedReferencesContext(cut); err == nil {
			c := &conversation{UploadPackSession: sess, ctx: cut, cancel: cancel, refs: refs}
			if c.want, err = s.pick(refs); err == nil {
				return c, nil
			}
		}
		_ = sess.Close() // the error is the news
	}
	if cause := context.Cause(cut); cause != nil {
		err = cause
	}
	cancel(nil)
	return nil, err
}

func (s *Source) pick(refs *packp.AdvRefs) (plumbing.Hash, error) {
	if h, ok := refs.References["refs/heads/"+s.cfg.Branch]; ok {
		return h, nil
	}
	var names []string
	for name := range refs.References {
		if short, ok := strings.CutPrefix(name, "refs/heads/"); ok {
			names = append(names, short)
		}
	}
	return plumbing.ZeroHash, s.noBranch(names)
}

// fetchRemote asks the server for the branch and makes the clone hold it.
func (s *Source) fetchRemote(ctx context.Context) (manifest.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, transferLimit)
	defer cancel()
	unlock, err := s.lockClone(ctx)
	if err != nil {
		return manifest.Revision{}, err
	}
	defer unlock()
	st, err := s.usableClone()
	if err != nil {
		s.log.Warn("the clone is damaged and is made again", "url", s.at.display, "error", err)
	}
	if damage := s.damage(); st != nil && damage != nil {
		s.log.Warn("the clone is damaged and is made again", "url", s.at.display, "error", damage)
		st = nil
	}
	talk, err := s.ask(ctx)
	if err != nil {
		return manifest.Revision{}, err
	}
	defer func() { _ = talk.Close() }()
	if st == nil {
		return s.cloneAnew(talk, 1)
	}
	rev, err := s.update(st, talk)
	if errors.Is(err, ErrCorrupt) {
		s.log.Warn("the clone is damaged and is made again", "url", s.at.display, "error", err)
		again, askErr := s.ask(ctx) // an ssh session is good for one transfer
		if askErr != nil {
			return manifest.Revision{}, askErr
		}
		defer func() { _ = again.Close() }()
		return s.cloneAnew(again, 1)
	}
	return rev, err
}

// usableClone returns the clone to go on with; nil where it is to be made.
func (s *Source) usableClone() (*store, error) {
	st := s.current()
	if st == nil {
		return s.openClone()
	}
	whose, err := s.owner(st)
	if err == nil && whose == "" {
		return st, nil
	}
	if err == nil {
		s.log.Info("another process made the clone one of another repository or branch: it is made again", "url", s.at.display, "was", whose)
	}
	return nil, err
}

// update brings the clone up to the branch.
func (s *Source) update(st *store, talk *conversation) (manifest.Revision, error) {
	have, err := st.branch(s.cfg.Branch)
	if err != nil {
		return manifest.Revision{}, fmt.Errorf("%w: branch %s: %w", ErrCorrupt, s.cfg.Branch, err)
	}
	s.mu.Lock()
	head := s.head
	s.mu.Unlock()
	if have == talk.want {
		if head.Commit == have.String() {
			return head, nil
		}
		return s.described(st, have)
	}
	if packs, err := countPacks(st.at.dir); err == nil && packs >= maxPacks {
		s.log.Info("the clone has many packs and is made again", "url", s.at.display, "packs", packs)
		return s.cloneAnew(talk, maxPacks)
	}
	// A branch that was moved back to a commit that is here needs nothing.
	if c, err := st.seen(talk.want); err != nil {
		haves, err := recent(st, have)
		if err != nil {
			return manifest.Revision{}, err
		}
		shallow, err := st.shallows()
		if err != nil {
			return manifest.Revision{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		failpoint.Here("fetch: not begun")
		if err := s.receive(st.at.dir, talk, request{haves: haves, shallow: shallow}); err != nil {
			return manifest.Revision{}, err
		}
	} else if _, err := st.tree(c.TreeHash); err != nil {
		return manifest.Revision{}, err
	}
	failpoint.Here("fetch: received, the branch not moved")
	if err := setBranch(st.at.dir, s.cfg.Branch, talk.want); err != nil {
		return manifest.Revision{}, err
	}
	failpoint.Here("fetch: the branch moved")
	if err := st.reopen(); err != nil {
		return manifest.Revision{}, err
	}
	return s.complete(st, talk.want)
}

// complete checks that a commit and its top directory have really arrived.
func (s *Source) complete(st *store, h plumbing.Hash) (manifest.Revision, error) {
	c, err := st.commit(h)
	if err != nil {
		return manifest.Revision{}, fmt.Errorf("%w: the server did not send commit %s: %w", ErrCorrupt, h, err)
	}
	if _, err := st.tree(c.TreeHash); err != nil {
		return manifest.Revision{}, err
	}
	return revisionOf(c), nil
}

// noteDamage makes the next Fetch clone again.
func (s *Source) noteDamage(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged == nil && s.at.remote() {
		s.damaged = err
	}
}

// damage returns what is wrong with the clone, unless cloning again has just been tried.
func (s *Source) damage() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged != nil && !s.cloned.IsZero() && time.Since(s.cloned) < cloneAgainAfter {
		return nil
	}
	return s.damaged
}
