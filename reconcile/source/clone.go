package source

import (
	"context"
	"crypto/sha1" //nolint:gosec // what Git packs are checked with
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"reconciler/manifest"
	"reconciler/runtime/failpoint"

	"github.com/go-git/go-billy/v5/osfs"
	git "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/sys/unix"
)

// maxVerified bounds the bytes of packs whose checksums are verified when a clone is opened: larger ones are noticed
// when they are read.
const maxVerified = 256 << 20

// openClone opens the clone that an earlier process left; nil where there is none of this URL and branch.
func (s *Source) openClone() (*store, error) {
	dir := s.clonePath()
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing there is no error
	}
	st, err := openStore(gitDir{dir, dir})
	if err != nil {
		return nil, err
	}
	whose, err := s.owner(st)
	switch {
	case err != nil:
		return nil, err
	case whose != "":
		s.log.Info("the clone is of another repository or branch and is made again", "url", s.at.display, "branch", s.cfg.Branch, "was", whose)
		st.close()
		return nil, nil //nolint:nilnil // nothing there that can be used
	}
	if err = verifyPacks(dir); err != nil {
		return nil, err
	}
	h, err := st.branch(s.cfg.Branch)
	if err != nil {
		return nil, fmt.Errorf("%w: branch %s: %w", ErrCorrupt, s.cfg.Branch, err)
	}
	if _, err := s.complete(st, h); err != nil {
		return nil, err
	}
	return s.replace(st), nil
}

// owner returns what a clone is of, if that is not what s follows: `plan --branch other` beside an agent changes it.
func (s *Source) owner(st *store) (string, error) {
	url, branch, err := st.origin()
	if err != nil {
		return "", err
	}
	if url == s.at.display && branch == plumbing.NewBranchReferenceName(s.cfg.Branch) {
		return "", nil
	}
	return url + " " + branch.Short(), nil
}

// cloneAnew clones so many commits into a directory beside the clone and puts it in the clone's place. Trees that were handed out go on
// reading: they ask for objects, wherever those are.
func (s *Source) cloneAnew(talk *conversation, depth int) (_ manifest.Revision, err error) {
	dir := s.clonePath()
	failpoint.Here("clone: not begun")
	leftovers, _ := filepath.Glob(dir + ".*-*") // the pattern is fine
	for _, name := range leftovers {
		_ = os.RemoveAll(name) // of a process that died; tried again next time
	}
	failpoint.Here("clone: leftovers gone")
	tmp, err := os.MkdirTemp(s.cfg.StateDir, "repo.git.new-")
	if err != nil {
		return manifest.Revision{}, err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp) // the error is the news
		}
	}()
	failpoint.Here("clone: an empty directory")
	if err = s.initClone(tmp); err != nil {
		return manifest.Revision{}, err
	}
	failpoint.Here("clone: a repository without commits")
	if err = s.receive(tmp, talk, request{depth: depth}); err != nil {
		return manifest.Revision{}, err
	}
	failpoint.Here("clone: received, without a branch")
	if err = setBranch(tmp, s.cfg.Branch, talk.want); err != nil {
		return manifest.Revision{}, err
	}
	failpoint.Here("clone: whole beside")
	if err = swap(tmp, dir); err != nil {
		return manifest.Revision{}, err
	}
	failpoint.Here("clone: in place")
	s.mu.Lock()
	st := s.store
	if s.damaged != nil {
		s.cloned = time.Now()
	}
	s.damaged = nil
	s.mu.Unlock()
	if st == nil {
		if st, err = openStore(gitDir{dir, dir}); err != nil {
			return manifest.Revision{}, err
		}
		s.replace(st)
	} else if err = st.reopen(); err != nil {
		return manifest.Revision{}, err
	}
	return s.complete(st, talk.want)
}

func (s *Source) initClone(dir string) error {
	sto := filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRU(cache.MiByte))
	defer func() { _ = sto.Close() }()
	repo, err := git.Init(sto, nil)
	if err != nil {
		return err
	}
	branch := plumbing.NewBranchReferenceName(s.cfg.Branch)
	if err = sto.SetReference(plumbing.NewSymbolicReference(plumbing.HEAD, branch)); err != nil {
		return err
	}
	_, err = repo.CreateRemote(&config.RemoteConfig{
		Name: "origin", URLs: []string{s.at.display},
		Fetch: []config.RefSpec{config.RefSpec("+" + branch + ":" + branch)},
	})
	return err
}

// swap puts the directory fresh in the place of dir, which need not exist.
func swap(fresh, dir string) error {
	old := strings.Replace(fresh, ".new-", ".old-", 1)
	failpoint.Here("clone: the old one in place")
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("clone: the old one aside")
	if err := os.Rename(fresh, dir); err != nil {
		return err
	}
	failpoint.Here("clone: the new one in place")
	err := os.RemoveAll(old)
	failpoint.Here("clone: the old one gone")
	return err
}

func setBranch(dir, branch string, h plumbing.Hash) error {
	sto := filesystem.NewStorage(osfs.New(dir), cache.NewObjectLRU(cache.MiByte))
	defer func() { _ = sto.Close() }()
	return sto.SetReference(plumbing.NewHashReference(plumbing.NewBranchReferenceName(branch), h))
}

func packs(dir string) ([]string, error) {
	return filepath.Glob(filepath.Join(dir, "objects", "pack", "*.pack"))
}

func countPacks(dir string) (int, error) {
	names, err := packs(dir)
	return len(names), err
}

// verifyPacks compares each pack with the checksum at its end: a power cut leaves files that are short or zero.
func verifyPacks(dir string) error {
	names, err := packs(dir)
	if err != nil {
		return err
	}
	left := int64(maxVerified)
	for _, name := range names {
		if left, err = verifyPack(name, left); err != nil {
			return err
		}
	}
	return nil
}

func verifyPack(name string, left int64) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return left, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return left, err
	}
	if info.Size() < 12+sha1.Size {
		return left, fmt.Errorf("%w: %s has %d bytes", ErrCorrupt, name, info.Size())
	}
	if left -= info.Size(); left < 0 {
		return left, nil
	}
	sum := sha1.New() //nolint:gosec // what Git packs are checked with
	if _, err := io.CopyN(sum, f, info.Size()-sha1.Size); err != nil {
		return left, fmt.Errorf("%w: %s: %w", ErrCorrupt, name, err)
	}
	end := make([]byte, sha1.Size)
	if _, err := io.ReadFull(f, end); err != nil {
		return left, fmt.Errorf("%w: %s: %w", ErrCorrupt, name, err)
	}
	if string(end) != string(sum.Sum(nil)) {
		return left, fmt.Errorf("%w: %s does not match its checksum", ErrCorrupt, name)
	}
	return left, nil
}

// lockClone keeps other processes from changing the clone at the same time, such as an agent and a plan beside it.
func (s *Source) lockClone(ctx context.Context) (func(), error) {
	if err := os.MkdirAll(s.cfg.StateDir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.clonePath()+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { _ = f.Close() }, nil // closing unlocks
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			_ = f.Close() // the error is the news
			return nil, fmt.Errorf("lock clone: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close() // the error is the news
			return nil, ctx.Err()
		case <-again.C:
		}
	}
}
