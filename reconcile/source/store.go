package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"
)

const (
	objectCacheSize = 8 * cache.MiByte // bounds what reading a tree keeps in memory
	maxTreeObject   = 32 << 20         // bytes of one directory's listing
	maxCommitObject = 1 << 20          // bytes of one commit
)

// sha1Only is what to do with a repository that go-git cannot read.
const sha1Only = "only SHA-1 repositories with their references in files are read: git init --object-format=sha1"

// gitDir is where a repository's files are; common differs from dir in a linked work tree.
type gitDir struct{ dir, common string }

// store reads the objects of one repository. go-git's storage is not safe for several goroutines, so it is locked; and
// it does not notice what other processes add or repack, so a miss makes it look again.
type store struct {
	at gitDir

	mu   sync.Mutex
	sto  *filesystem.Storage
	repo *git.Repository
}

func openStore(at gitDir) (*store, error) {
	s := &store{at: at}
	return s, s.reopen()
}

// reopen makes what other processes did to the repository visible, and lets go of files that they removed.
func (s *store) reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reopenLocked()
}

func (s *store) reopenLocked() error {
	if s.sto != nil {
		_ = s.sto.Close() // only read from
	}
	files := osfs.New(s.at.dir)
	if s.at.common != s.at.dir {
		files = dotgit.NewRepositoryFilesystem(files, osfs.New(s.at.common))
	}
	s.sto = filesystem.NewStorageWithOptions(buffering{files}, cache.NewObjectLRU(objectCacheSize), filesystem.Options{
		KeepDescriptors:      true,
		LargeObjectThreshold: MaxReadFile,
		AlternatesFS:         osfs.New("/"),
	})
	repo, err := git.Open(s.sto, nil)
	switch {
	case errors.Is(err, git.ErrRepositoryNotExists), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: no HEAD in %s", ErrNotFound, s.at.dir)
	case errors.Is(err, git.ErrUnknownExtension), errors.Is(err, git.ErrUnsupportedExtensionRepositoryFormatVersion):
		return withHint(fmt.Errorf("%w: %s: %w", ErrProtocol, s.at.dir, err), sha1Only)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	s.repo = repo
	return nil
}

func (s *store) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.sto.Close() // only read from
}

// get returns an object, and looks again where another process may have added or repacked it.
func (s *store) get(t plumbing.ObjectType, h plumbing.Hash) (plumbing.EncodedObject, error) {
	obj, err := s.sto.EncodedObject(t, h)
	if err == nil {
		return obj, nil
	}
	if reopenErr := s.reopenLocked(); reopenErr != nil {
		return nil, fmt.Errorf("%w: object %s: %w", ErrCorrupt, h, reopenErr)
	}
	obj, err = s.sto.EncodedObject(t, h)
	if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		err = fmt.Errorf("%w: object %s: %w", ErrCorrupt, h, err)
	}
	return obj, err
}

// commit returns a commit; ErrUnknownCommit where it is not here.
func (s *store) commit(h plumbing.Hash) (*object.Commit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decodeCommit(h, s.get)
}

// seen is commit for one that is likely not here: it does not look again, which reads the index of each pack.
func (s *store) seen(h plumbing.Hash) (*object.Commit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decodeCommit(h, s.sto.EncodedObject)
}

func (s *store) decodeCommit(h plumbing.Hash, get func(plumbing.ObjectType, plumbing.Hash) (plumbing.EncodedObject, error)) (*object.Commit, error) {
	obj, err := get(plumbing.CommitObject, h)
	switch {
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return nil, fmt.Errorf("%w %s", ErrUnknownCommit, h)
	case err != nil:
		return nil, err
	case obj.Size() > maxCommitObject:
		return nil, fmt.Errorf("commit %s: %d bytes: %w", h, obj.Size(), ErrTooLarge)
	}
	c, err := object.DecodeCommit(s.sto, obj)
	if err != nil {
		return nil, fmt.Errorf("%w: commit %s: %w", ErrCorrupt, h, err)
	}
	return c, nil
}

// tree returns the entries of a directory.
func (s *store) tree(h plumbing.Hash) ([]object.TreeEntry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, err := s.get(plumbing.TreeObject, h)
	switch {
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return nil, fmt.Errorf("%w: directory %s is missing", ErrCorrupt, h)
	case err != nil:
		return nil, err
	case obj.Size() > maxTreeObject:
		err = fmt.Errorf("a directory's listing has %d bytes, more than %d MiB: %w", obj.Size(), maxTreeObject>>20, ErrTooLarge)
		return nil, withHint(err, "keep no more than some ten thousand files in one directory")
	}
	t, err := object.DecodeTree(s.sto, obj)
	if err != nil {
		return nil, fmt.Errorf("%w: directory %s: %w", ErrCorrupt, h, err)
	}
	return t.Entries, nil
}

// size returns the size of a file's content in bytes.
func (s *store) size(h plumbing.Hash) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Not EncodedObjectSize: it leaves the file of each unpacked object open, and what is asked for is read next anyway.
	obj, err := s.get(plumbing.BlobObject, h)
	if err != nil {
		return 0, s.lost(h, err)
	}
	return obj.Size(), nil
}

// blob opens a file's content.
func (s *store) blob(h plumbing.Hash) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, err := s.get(plumbing.BlobObject, h)
	if err != nil {
		return nil, s.lost(h, err)
	}
	r, err := obj.Reader()
	if err != nil {
		return nil, fmt.Errorf("%w: object %s: %w", ErrCorrupt, h, err)
	}
	return r, nil
}

func (s *store) lost(h plumbing.Hash, err error) error {
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return fmt.Errorf("%w: object %s is missing", ErrCorrupt, h)
	}
	return err
}

// branch returns the commit that a branch points at; plumbing.ErrReferenceNotFound where there is none.
func (s *store) branch(name string) (plumbing.Hash, error) {
	return s.reference(plumbing.NewBranchReferenceName(name))
}

func (s *store) reference(name plumbing.ReferenceName) (plumbing.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref, err := storer.ResolveReference(s.sto, name)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return ref.Hash(), nil
}

// origin returns which repository and branch a clone is of.
func (s *store) origin() (url string, branch plumbing.ReferenceName, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg, err := s.sto.Config()
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	remote := cfg.Remotes["origin"]
	head, err := s.sto.Reference(plumbing.HEAD)
	if remote == nil || len(remote.URLs) != 1 || err != nil {
		return "", "", fmt.Errorf("%w: %s does not say what it is a clone of", ErrCorrupt, s.at.dir)
	}
	return remote.URLs[0], head.Target(), nil
}

// branches returns the names of all branches.
func (s *store) branches() ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	iter, err := s.sto.IterReferences()
	if err != nil {
		return nil, err
	}
	defer iter.Close()
	var names []string
	err = iter.ForEach(func(r *plumbing.Reference) error {
		if r.Name().IsBranch() {
			names = append(names, r.Name().Short())
		}
		return nil
	})
	return names, err
}

// shallows returns the commits whose parents were left out.
func (s *store) shallows() (map[plumbing.Hash]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.sto.Shallow()
	set := make(map[plumbing.Hash]bool, len(list))
	for _, h := range list {
		set[h] = true
	}
	return set, err
}

// revision resolves what git rev-parse would: hashes, abbreviated ones, branches, tags, HEAD~2.
func (s *store) revision(rev string) (plumbing.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if plumbing.IsHash(rev) {
		return plumbing.NewHash(strings.ToLower(rev)), nil
	}
	h, err := s.repo.ResolveRevision(plumbing.Revision(rev))
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return *h, nil
}

// discover finds the repository that dir is in, going up as git does.
func discover(dir string) (gitDir, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return gitDir{}, err
	}
	if _, err := os.Stat(abs); err != nil {
		return gitDir{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	for d := abs; ; d = filepath.Dir(d) {
		if at, ok, err := gitDirOf(d); ok || err != nil {
			return at, err
		}
		if d == filepath.Dir(d) {
			return gitDir{}, withHint(fmt.Errorf("%w: neither %s nor a directory above it is a Git repository", ErrNotFound, abs),
				"run it in a clone, or name one")
		}
	}
}

// gitDirOf returns the repository at dir itself: a bare one, DIR/.git, or what a .git file points at.
func gitDirOf(dir string) (gitDir, bool, error) {
	if isRepository(dir) {
		return gitDir{dir, dir}, true, nil
	}
	dot := filepath.Join(dir, ".git")
	info, err := os.Stat(dot)
	switch {
	case err != nil:
		return gitDir{}, false, nil //nolint:nilerr // no .git here: not a repository
	case info.IsDir():
		return gitDir{dot, dot}, isRepository(dot), nil
	}
	link, err := readSmall(dot)
	if err != nil {
		return gitDir{}, false, err
	}
	target, ok := strings.CutPrefix(strings.TrimSpace(string(link)), "gitdir: ")
	if !ok {
		return gitDir{}, false, fmt.Errorf("%w: %s is no .git file", ErrCorrupt, dot)
	}
	target = rebase(dir, target)
	at := gitDir{target, target}
	if common, err := readSmall(filepath.Join(target, "commondir")); err == nil {
		at.common = rebase(target, strings.TrimSpace(string(common)))
	}
	return at, true, nil
}

// isRepository reports whether dir looks like the inside of a Git repository. HEAD is not asked for: a damaged
// repository must not be taken for a plain directory.
func isRepository(dir string) bool {
	for _, name := range []string{"objects", "refs"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

func rebase(dir, p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}

// readSmall reads a configuration or credential file, which cannot be large.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, MaxReadFile+1))
	if err == nil && len(b) > MaxReadFile {
		err = fmt.Errorf("%s: %w", name, ErrTooLarge)
	}
	return b, err
}
