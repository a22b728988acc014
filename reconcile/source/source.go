package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"reconciler/manifest"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

const dirPrefix = "dir:"

// Fetch looks for the newest revision and brings what is needed to read it: one request where nothing is new. It returns
// the same revision as before then. After an error the revisions known before stay readable.
func (s *Source) Fetch(ctx context.Context) (manifest.Revision, error) {
	s.fetching.Lock()
	defer s.fetching.Unlock()
	rev, err := s.fetch(ctx)
	if err != nil {
		return manifest.Revision{}, s.fail("fetch", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.head = rev
	return rev, nil
}

func (s *Source) fetch(ctx context.Context) (manifest.Revision, error) {
	if err := ctx.Err(); err != nil {
		return manifest.Revision{}, err
	}
	switch {
	case s.local:
		h, err := s.store.reference(plumbing.HEAD)
		if err != nil {
			return manifest.Revision{}, fmt.Errorf("%w: HEAD: %w", ErrBranchNotFound, err)
		}
		return s.described(s.store, h)
	case s.at.remote():
		return s.fetchRemote(ctx)
	}
	at, isGit, err := s.probe()
	switch {
	case err != nil:
		return manifest.Revision{}, err
	case isGit:
		return s.fetchInPlace(at)
	}
	return s.fetchDirectory(ctx)
}

// probe finds out what is at a local path. It may change while we run, so it is asked each time.
func (s *Source) probe() (gitDir, bool, error) {
	info, err := os.Stat(s.at.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return gitDir{}, false, fmt.Errorf("%w: there is no %s", ErrNotFound, s.at.dir)
	case err != nil:
		return gitDir{}, false, err
	case !info.IsDir():
		return gitDir{}, false, fmt.Errorf("%w: %s is a file", ErrNotFound, s.at.dir)
	}
	if s.at.kind == kindPath {
		return gitDir{s.at.dir, s.at.dir}, isRepository(s.at.dir), nil
	}
	at, ok, err := gitDirOf(s.at.dir)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s is no Git repository", ErrNotFound, s.at.dir)
	}
	return at, ok, err
}

// fetchInPlace reads the branch of a repository on this machine.
func (s *Source) fetchInPlace(at gitDir) (manifest.Revision, error) {
	st := s.current()
	if st == nil || st.at != at {
		opened, err := openStore(at)
		if err != nil {
			return manifest.Revision{}, err
		}
		st = s.replace(opened)
	}
	h, err := st.branch(s.cfg.Branch)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		names, listErr := st.branches()
		if listErr != nil {
			return manifest.Revision{}, listErr
		}
		return manifest.Revision{}, s.noBranch(names)
	}
	if err != nil {
		return manifest.Revision{}, fmt.Errorf("%w: branch %s: %w", ErrCorrupt, s.cfg.Branch, err)
	}
	s.mu.Lock()
	head := s.head
	s.mu.Unlock()
	if head.Commit == h.String() {
		return head, nil
	}
	// Drops the descriptors of packs that a gc may have removed, and the objects of the commit before.
	if err := st.reopen(); err != nil {
		return manifest.Revision{}, err
	}
	return s.described(st, h)
}

// noBranch says that the configured branch is missing, with those that are there.
func (s *Source) noBranch(names []string) error {
	if len(names) == 0 {
		return ErrEmptyRepository
	}
	slices.Sort(names)
	const most = 10
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	for i := range names {
		names[i] = printable(names[i], 100)
	}
	return withHint(fmt.Errorf("%w: there is no branch %s; there are: %s%s", ErrBranchNotFound, s.cfg.Branch, strings.Join(names, ", "), more),
		"name one of them with --branch, or push it")
}

func (s *Source) described(st *store, h plumbing.Hash) (manifest.Revision, error) {
	c, err := st.commit(h)
	if errors.Is(err, ErrUnknownCommit) {
		err = fmt.Errorf("%w: the branch points at %s, which is missing", ErrCorrupt, h)
	}
	if err != nil {
		return manifest.Revision{}, err
	}
	return revisionOf(c), nil
}

func (s *Source) current() *store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store
}

func (s *Source) replace(st *store) *store {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.store = st
	return st
}

// Tree returns the files of a revision that Fetch or Resolve returned: the whole repository, read as it is asked for.
// The result also implements fs.ReadDirFS, fs.ReadFileFS, fs.StatFS and fs.ReadLinkFS, and is safe for use by several
// goroutines. It fails with ErrPathNotFound where the commit has no directory Config.Path. An error while reading that
// wraps ErrCorrupt says nothing of the commit: the next Fetch makes the clone again.
func (s *Source) Tree(ctx context.Context, commit string) (fs.FS, error) {
	fsys, err := s.open(ctx, commit)
	if err != nil {
		return nil, s.fail("read", err)
	}
	if err := s.checkPath(fsys, commit); err != nil {
		return nil, s.fail("read", err)
	}
	return fsys, nil
}

func (s *Source) open(ctx context.Context, commit string) (*treeFS, error) {
	if strings.HasPrefix(commit, dirPrefix) {
		return s.openSnapshot(ctx, commit)
	}
	if !plumbing.IsHash(commit) {
		return nil, fmt.Errorf("%w: %q is not a full hash", ErrUnknownCommit, commit)
	}
	c, st, err := s.commitFor(ctx, plumbing.NewHash(commit))
	if err != nil {
		return nil, err
	}
	return newFS(newGitTree(st, c, &s.listings, s.noteDamage)), nil
}

// commitFor returns a commit whose tree is here too, and gets both where the clone is damaged or too shallow.
func (s *Source) commitFor(ctx context.Context, h plumbing.Hash) (*object.Commit, *store, error) {
	st, err := s.opened()
	if err != nil {
		return nil, nil, err
	}
	try := func() (*object.Commit, error) {
		c, tryErr := st.commit(h)
		if tryErr == nil {
			_, tryErr = st.tree(c.TreeHash)
		}
		return c, tryErr
	}
	c, err := try()
	if err == nil || !s.at.remote() {
		return c, st, err
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	if errors.Is(err, ErrCorrupt) {
		s.noteDamage(err)
		if _, fetchErr := s.fetch(ctx); fetchErr != nil {
			return nil, nil, fetchErr
		}
		st = s.current()
		c, err = try()
	}
	if errors.Is(err, ErrUnknownCommit) {
		if deepErr := s.deepen(ctx, st); deepErr != nil {
			return nil, nil, deepErr
		}
		c, err = try()
	}
	return c, st, err
}

// opened returns the store that is there, without asking a server.
func (s *Source) opened() (*store, error) {
	if st := s.current(); st != nil {
		return st, nil
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	if st := s.current(); st != nil {
		return st, nil
	}
	if s.at.remote() {
		st, err := s.openClone()
		if err == nil && st == nil {
			err = fmt.Errorf("%w: nothing was fetched yet", ErrUnknownCommit)
		}
		return st, err
	}
	at, isGit, err := s.probe()
	if err == nil && !isGit {
		err = fmt.Errorf("%w: a plain directory has no commits", ErrUnknownCommit)
	}
	if err != nil {
		return nil, err
	}
	st, err := openStore(at)
	if err != nil {
		return nil, err
	}
	return s.replace(st), nil
}

func (s *Source) checkPath(fsys *treeFS, commit string) error {
	info, err := fsys.Stat(s.subdir)
	if err == nil && info.IsDir() {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	short := manifest.Revision{Commit: commit}.Short()
	err = fmt.Errorf("%w: %s has no directory %q", ErrPathNotFound, short, s.subdir)
	var dirs []string
	entries, listErr := fsys.ReadDir(".")
	for _, e := range entries {
		if e.IsDir() && len(dirs) < 10 {
			dirs = append(dirs, printable(e.Name(), 60))
		}
	}
	if listErr != nil || len(dirs) == 0 {
		return withHint(err, "name a directory of the repository with --path")
	}
	return withHint(err, "name a directory of the repository with --path; at its top are "+strings.Join(dirs, ", "))
}

// Watch returns a channel that gets a token when a repository or directory on this machine changed: a hint to call
// Fetch, which may come too often, and for changes that do not matter. Bursts become one token. For a remote it is nil,
// which never fires. The channel is never closed; ctx ends the watching.
func (s *Source) Watch(ctx context.Context) (<-chan struct{}, error) {
	if s.at.remote() {
		return nil, nil //nolint:nilnil // a nil channel never fires, which is right for a remote
	}
	ch, err := s.watchLocal(ctx)
	if err != nil {
		return nil, s.fail("watch", err)
	}
	return ch, nil
}

// clonePath is where the clone of a remote is.
func (s *Source) clonePath() string { return filepath.Join(s.cfg.StateDir, "repo.git") }
