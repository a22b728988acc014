package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"reconciler/manifest"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

// Resolve returns the commit that a revision names: a full or abbreviated hash, a branch, a tag, HEAD~2, as git
// rev-parse reads them. Nothing is fetched. It fails with ErrUnknownCommit where there is none, or more than one.
func (s *Source) Resolve(_ context.Context, revision string) (manifest.Revision, error) {
	rev, err := s.resolve(revision)
	if err != nil {
		return manifest.Revision{}, s.fail("resolve", err)
	}
	return rev, nil
}

func (s *Source) resolve(revision string) (manifest.Revision, error) {
	if rev, ok := s.snapshotNamed(revision); ok {
		return rev, nil
	}
	unknown := func() error { return fmt.Errorf("%w %q", ErrUnknownCommit, printable(revision, 100)) }
	if strings.HasPrefix(revision, dirPrefix) || revision == "" {
		return manifest.Revision{}, unknown()
	}
	st, err := s.opened()
	if err != nil {
		return manifest.Revision{}, err
	}
	h, err := st.named(revision)
	if err != nil {
		return manifest.Revision{}, err
	}
	c, err := st.commit(h)
	if errors.Is(err, ErrUnknownCommit) {
		if shallow, listErr := st.shallows(); listErr == nil && len(shallow) > 0 && s.local {
			return manifest.Revision{}, withHint(unknown(), "this clone is shallow: git fetch --unshallow (fetch-depth: 0 in a workflow)")
		}
		return manifest.Revision{}, unknown()
	}
	if err != nil {
		return manifest.Revision{}, err
	}
	return revisionOf(c), nil
}

// named finds a commit's hash by what people write.
func (s *store) named(revision string) (plumbing.Hash, error) {
	if plumbing.IsHash(revision) {
		return plumbing.NewHash(revision), nil
	}
	h, err := s.revision(revision)
	if !regexp.MustCompile(`^[0-9a-fA-F]{4,39}$`).MatchString(revision) {
		if err != nil {
			return h, fmt.Errorf("%w %q", ErrUnknownCommit, printable(revision, 100))
		}
		return h, nil
	}
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/remotes/"} {
		if _, refErr := s.reference(plumbing.ReferenceName(prefix + revision)); refErr == nil && err == nil {
			return h, nil // a branch or tag with a name like a hash
		}
	}
	// go-git takes the first object that matches; approving has to be of one commit.
	found, listErr := s.commitsWithPrefix(strings.ToLower(revision))
	switch {
	case listErr != nil:
		return h, listErr
	case len(found) == 0:
		return h, fmt.Errorf("%w %q", ErrUnknownCommit, revision)
	case len(found) > 1:
		return h, withHint(fmt.Errorf("%w: %q is ambiguous: %d commits begin with it", ErrUnknownCommit, revision, len(found)),
			"give more digits")
	}
	return found[0], nil
}

// Descends reports whether commit is ancestor or has it in its history. It fetches the history where the clone is too
// shallow to tell. Where ancestor (or commit) is not in the repository the error wraps ErrUnknownCommit. A directory
// has no history: each of its revisions follows each other.
func (s *Source) Descends(ctx context.Context, ancestor, commit string) (bool, error) {
	ok, err := s.descends(ctx, ancestor, commit)
	if errors.Is(err, ErrCorrupt) {
		s.noteDamage(err)
	}
	if err != nil {
		return false, s.fail("compare history", err)
	}
	return ok, nil
}

func (s *Source) descends(ctx context.Context, ancestor, commit string) (bool, error) {
	if ancestor == commit || strings.HasPrefix(ancestor, dirPrefix) && strings.HasPrefix(commit, dirPrefix) {
		return true, nil
	}
	if !plumbing.IsHash(ancestor) || !plumbing.IsHash(commit) {
		return false, fmt.Errorf("%w: %s and %s have no common history", ErrUnknownCommit, printable(ancestor, 80), printable(commit, 80))
	}
	from, to := plumbing.NewHash(commit), plumbing.NewHash(ancestor)
	st, err := s.opened()
	if err != nil {
		return false, err
	}
	found, cut, err := st.reaches(ctx, from, to)
	if err == nil && !found && cut && s.at.remote() {
		s.fetching.Lock()
		err = s.deepen(ctx, st)
		s.fetching.Unlock()
		if err == nil {
			found, cut, err = st.reaches(ctx, from, to)
		}
	}
	if err != nil || found {
		return found, err
	}
	if _, err := st.commit(to); err != nil {
		return false, err
	}
	if cut {
		return false, withHint(fmt.Errorf("%w: the history of %s is cut off (shallow clone)", ErrUnknownCommit, commit),
			"git fetch --unshallow")
	}
	return false, nil
}

// reaches walks the history of from, nearest first. cut says that it met a commit whose parents are left out.
func (s *store) reaches(ctx context.Context, from, to plumbing.Hash) (found, cut bool, err error) {
	shallow, err := s.shallows()
	if err != nil {
		return false, false, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	seen := map[plumbing.Hash]bool{from: true}
	for todo := []plumbing.Hash{from}; len(todo) > 0; todo = todo[1:] {
		if err := ctx.Err(); err != nil {
			return false, false, err
		}
		if todo[0] == to {
			return true, cut, nil
		}
		if shallow[todo[0]] {
			cut = true
			continue
		}
		c, err := s.commit(todo[0])
		if err != nil {
			if todo[0] != from && errors.Is(err, ErrUnknownCommit) {
				err = fmt.Errorf("%w: commit %s is missing", ErrCorrupt, todo[0])
			}
			return false, cut, err
		}
		for _, p := range c.ParentHashes {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return false, cut, nil
}

// deepen fetches the branch's whole history, once, and forgets where the clone was cut. s.fetching is held.
func (s *Source) deepen(ctx context.Context, st *store) error {
	ctx, cancel := context.WithTimeout(ctx, transferLimit)
	defer cancel()
	unlock, err := s.lockClone(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	shallow, err := st.shallows()
	if err != nil || len(shallow) == 0 {
		return err
	}
	talk, err := s.ask(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = talk.Close() }()
	s.log.Info("fetching the whole history, to see how two commits follow each other", "url", s.at.display)
	// Asked as if nothing were here: the server then cannot leave anything out.
	if err := s.receive(st.at.dir, talk, request{}); err != nil {
		return err
	}
	if err := st.reopen(); err != nil {
		return err
	}
	for _, h := range talk.refs.Shallows { // the server's own history may be cut off too
		shallow[h] = true
	}
	return st.unshallow(shallow)
}

// unshallow drops from the list of cut-off commits those whose parents are here now.
func (s *store) unshallow(cut map[plumbing.Hash]bool) error {
	keep := []plumbing.Hash{}
	for h := range cut {
		c, err := s.commit(h)
		if err != nil {
			continue
		}
		for _, p := range c.ParentHashes {
			if _, err := s.commit(p); err != nil {
				keep = append(keep, h)
				break
			}
		}
	}
	sto := filesystem.NewStorage(osfs.New(s.at.dir), cache.NewObjectLRU(cache.MiByte))
	defer func() { _ = sto.Close() }()
	return sto.SetShallow(keep)
}

// commitsWithPrefix returns all commits whose hash begins with prefix.
func (s *store) commitsWithPrefix(prefix string) ([]plumbing.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	even := []byte(hexBytes(prefix[:len(prefix)&^1]))
	all, err := s.sto.HashesWithPrefix(even)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	// go-git leaves out what a clone borrows from another (git clone --shared).
	lenders, err := dotgit.NewWithOptions(osfs.New(s.at.common), dotgit.Options{AlternatesFS: osfs.New("/")}).Alternates()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: alternates: %w", ErrCorrupt, err)
	}
	for _, lender := range lenders {
		more, err := filesystem.NewObjectStorage(lender, cache.NewObjectLRU(cache.MiByte)).HashesWithPrefix(even)
		if err != nil {
			return nil, fmt.Errorf("%w: alternates: %w", ErrCorrupt, err)
		}
		all = append(all, more...)
	}
	slices.SortFunc(all, func(a, b plumbing.Hash) int { return bytes.Compare(a[:], b[:]) })
	all = slices.Compact(all)
	var found []plumbing.Hash
	for _, h := range all {
		if !strings.HasPrefix(h.String(), prefix) {
			continue
		}
		if _, err := s.sto.EncodedObject(plumbing.CommitObject, h); err == nil {
			found = append(found, h)
		}
	}
	return found, nil
}

// hexBytes returns the bytes that an even number of hexadecimal digits stands for.
func hexBytes(digits string) string {
	h := plumbing.NewHash(digits + strings.Repeat("0", 40-len(digits)))
	return string(h[:len(digits)/2])
}
