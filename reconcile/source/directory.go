package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"reconciler/manifest"

	"golang.org/x/sys/unix"
)

const (
	maxSnapshot   = 64 << 20        // bytes of files kept in memory; what is beyond is verified when it is read
	keptSnapshots = 2               // revisions of a directory that stay readable
	settled       = 2 * time.Second // a file younger than this is read again: its next change may leave no trace in stat
	readAttempts  = 5               // to catch a file that is being written at rest
)

// snapshot is a directory as it was when it was hashed.
type snapshot struct {
	rev  manifest.Revision
	dir  string
	top  *snapshotFile
	held int64 // bytes in memory
	all  map[string]*snapshotFile
}

// snapshotFile is one entry. Its content is in memory, or is read from the disk and checked.
type snapshotFile struct {
	path     string // slash-separated, below the directory; "." is the top
	mode     fs.FileMode
	size     int64
	content  []byte // of a small file; target of a symbolic link
	inMemory bool
	sum      [sha256.Size]byte
	stat     fileStat
	read     time.Time
	children []node
}

// fileStat tells whether a file may have changed.
type fileStat struct {
	dev, ino     uint64
	size         int64
	mtime, ctime time.Time
}

func statOf(info fs.FileInfo) fileStat {
	st := fileStat{size: info.Size(), mtime: info.ModTime()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.dev, st.ino = sys.Dev, sys.Ino
		st.ctime = time.Unix(sys.Ctim.Unix())
	}
	return st
}

// fetchDirectory hashes the directory as it is now.
func (s *Source) fetchDirectory(ctx context.Context) (manifest.Revision, error) {
	s.mu.Lock()
	var last *snapshot
	if n := len(s.snapshots); n > 0 {
		last = s.snapshots[n-1]
	}
	s.mu.Unlock()
	if last == nil {
		if _, err := os.Lstat(filepath.Join(s.at.dir, ".git")); err == nil {
			s.log.Info("the directory is a Git work tree: its files count as they are, committed or not; "+
				"to follow its commits give the .git directory or a file:// URL", "dir", s.at.dir)
		}
	}
	snap, err := takeSnapshot(ctx, s.at.dir, last)
	if err != nil {
		return manifest.Revision{}, err
	}
	if last != nil && last.rev.Commit == snap.rev.Commit {
		return last.rev, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots = append(s.snapshots, snap)
	if extra := len(s.snapshots) - keptSnapshots; extra > 0 {
		s.snapshots = slices.Delete(s.snapshots, 0, extra)
	}
	return snap.rev, nil
}

// openSnapshot returns the files of a directory revision: of one that is kept, or of the directory as it is now if that
// has the same hash.
func (s *Source) openSnapshot(ctx context.Context, commit string) (*treeFS, error) {
	find := func() *snapshot {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, snap := range s.snapshots {
			if snap.rev.Commit == commit {
				return snap
			}
		}
		return nil
	}
	if snap := find(); snap != nil {
		return newFS(snap), nil
	}
	if s.at.remote() {
		return nil, fmt.Errorf("%w %s", ErrUnknownCommit, printable(commit, 80))
	}
	if _, err := s.Fetch(ctx); err != nil {
		return nil, err
	}
	if snap := find(); snap != nil {
		return newFS(snap), nil
	}
	return nil, fmt.Errorf("%w %s: the directory has changed since", ErrUnknownCommit, printable(commit, 80))
}

// snapshotNamed finds a kept revision of the directory by its hash or the beginning of it.
func (s *Source) snapshotNamed(revision string) (manifest.Revision, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []manifest.Revision
	for _, snap := range s.snapshots {
		full := strings.TrimPrefix(snap.rev.Commit, dirPrefix)
		if short := strings.TrimPrefix(revision, dirPrefix); len(short) >= 4 && strings.HasPrefix(full, short) {
			found = append(found, snap.rev)
		}
	}
	if len(found) != 1 {
		return manifest.Revision{}, false
	}
	return found[0], true
}

// scan reads a directory, and takes from the snapshot before what has not changed.
type scan struct {
	root *os.Root
	snap *snapshot
	last *snapshot
	sum  hash.Hash
}

func takeSnapshot(ctx context.Context, dir string, last *snapshot) (*snapshot, error) {
	root, err := os.OpenRoot(dir) // nothing below is followed out of it
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	sc := &scan{
		root: root, last: last, sum: sha256.New(),
		snap: &snapshot{dir: dir, all: make(map[string]*snapshotFile)},
	}
	sc.snap.top, err = sc.directory(ctx, ".", 0)
	if err != nil {
		return nil, err
	}
	sc.snap.rev.Commit = dirPrefix + hex.EncodeToString(sc.sum.Sum(nil))
	files := "files"
	if sc.snap.files() == 1 {
		files = "file"
	}
	sc.snap.rev.Subject = fmt.Sprintf("%d %s in %s", sc.snap.files(), files, printable(dir, 150))
	return sc.snap, nil
}

func (s *snapshot) files() int {
	n := 0
	for _, f := range s.all {
		if !f.mode.IsDir() {
			n++
		}
	}
	return n
}

func (sc *scan) directory(ctx context.Context, name string, depth int) (*snapshotFile, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%q: more than %d directories deep: %w", name, maxDepth, ErrTooLarge)
	}
	d, err := sc.root.Open(name)
	if err != nil {
		return nil, err
	}
	entries, err := d.ReadDir(-1)
	_ = d.Close() // only read from
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	self := &snapshotFile{path: name, mode: fs.ModeDir | 0o755}
	sc.snap.all[name] = self
	if len(sc.snap.all) > maxEntries {
		return nil, fmt.Errorf("more than %d files and directories: %w", maxEntries, ErrTooLarge)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if e.Name() == ".git" {
			continue
		}
		below := filepath.ToSlash(filepath.Join(name, e.Name()))
		f, err := sc.entry(ctx, below, e, depth)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since it was listed
			continue
		case err != nil:
			return nil, err
		case f == nil: // a socket or a device is nobody's manifest
			continue
		}
		self.children = append(self.children, node{name: e.Name(), mode: f.mode, file: f})
	}
	return self, nil
}

func (sc *scan) entry(ctx context.Context, name string, e fs.DirEntry, depth int) (*snapshotFile, error) {
	switch e.Type() {
	case fs.ModeDir:
		sc.record('d', name, nil)
		return sc.directory(ctx, name, depth+1)
	case fs.ModeSymlink:
		target, err := sc.root.Readlink(name)
		if err != nil {
			return nil, err
		}
		f := &snapshotFile{path: name, mode: fs.ModeSymlink | 0o777, content: []byte(target), inMemory: true, size: int64(len(target))}
		sc.record('l', name, f.content)
		sc.snap.all[name] = f
		return f, nil
	case 0:
		f, err := sc.file(name)
		if err != nil {
			return nil, err
		}
		kind := byte('f')
		if f.mode&0o100 != 0 {
			kind = 'x'
		}
		sc.record(kind, name, f.sum[:])
		sc.snap.all[name] = f
		if f.stat.mtime.After(sc.snap.rev.Time) {
			sc.snap.rev.Time = f.stat.mtime.UTC()
		}
		return f, nil
	}
	return nil, nil //nolint:nilnil // left out, which is no error
}

// record adds one entry to the revision's hash. Lengths in front keep entries apart.
func (sc *scan) record(kind byte, name string, data []byte) {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(name)))
	head = append(head, name...)
	head = binary.BigEndian.AppendUint32(head, uint32(len(data)))
	sc.sum.Write(head)
	sc.sum.Write(data)
}

// file reads one file, again where it changed meanwhile.
func (sc *scan) file(name string) (*snapshotFile, error) {
	for attempt := 0; ; attempt++ {
		f, err := sc.fileOnce(name)
		if !errors.Is(err, ErrChanged) || attempt == readAttempts {
			return f, err
		}
	}
}

func (sc *scan) fileOnce(name string) (*snapshotFile, error) {
	// Not blocking: the name may have become a fifo since it was listed.
	r, err := sc.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	info, err := r.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q: %w", name, ErrChanged)
	}
	f := &snapshotFile{path: name, mode: 0o644, size: info.Size(), stat: statOf(info), read: time.Now()}
	if info.Mode()&0o111 != 0 {
		f.mode = 0o755
	}
	if old := sc.unchanged(f); old != nil {
		f.sum, f.content, f.inMemory, f.read = old.sum, old.content, old.inMemory, old.read
		if f.inMemory {
			sc.snap.held += f.size
		}
		return f, nil
	}
	h := sha256.New()
	var readErr error
	if f.size <= MaxReadFile && sc.snap.held+f.size <= maxSnapshot {
		f.content, readErr = io.ReadAll(io.LimitReader(r, f.size+1))
		f.inMemory = true
		h.Write(f.content)
	} else {
		_, readErr = io.Copy(h, r)
	}
	if readErr != nil {
		return nil, readErr
	}
	after, err := r.Stat()
	if err != nil {
		return nil, err
	}
	if statOf(after) != f.stat || f.inMemory && int64(len(f.content)) != f.size {
		return nil, fmt.Errorf("%q: %w", name, ErrChanged)
	}
	if f.inMemory {
		sc.snap.held += f.size
	}
	h.Sum(f.sum[:0])
	return f, nil
}

// unchanged returns the same file of the snapshot before, if nothing can have happened to it since.
func (sc *scan) unchanged(f *snapshotFile) *snapshotFile {
	if sc.last == nil {
		return nil
	}
	old := sc.last.all[f.path]
	if old == nil || old.stat != f.stat || old.mode != f.mode ||
		old.read.Sub(old.stat.ctime) < settled || old.read.Sub(old.stat.mtime) < settled {
		return nil
	}
	return old
}

func (s *snapshot) root() node                    { return node{name: ".", mode: s.top.mode, file: s.top} }
func (s *snapshot) modTime() time.Time            { return s.rev.Time }
func (s *snapshot) list(dir node) ([]node, error) { return dir.file.children, nil }
func (s *snapshot) size(n node) (int64, error)    { return n.file.size, nil }
func (s *snapshot) link(n node) (string, error)   { return string(n.file.content), nil }

func (s *snapshot) key(n node) string { return string(n.file.sum[:]) }

func (s *snapshot) open(n node) (io.ReadCloser, error) {
	f := n.file
	if f.inMemory {
		return io.NopCloser(bytes.NewReader(f.content)), nil
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	r, err := root.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	info, err := r.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != f.size) {
		err = fmt.Errorf("%q: %w", f.path, ErrChanged)
	}
	if err != nil {
		_ = r.Close() // the error is the news
		return nil, err
	}
	return &verifiedReader{ReadCloser: r, file: f, sum: sha256.New()}, nil
}

// verifiedReader ends with ErrChanged, not io.EOF, where the content is not what was hashed.
type verifiedReader struct {
	io.ReadCloser

	file *snapshotFile
	sum  hash.Hash
}

func (r *verifiedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.sum.Write(p[:n])
	if errors.Is(err, io.EOF) && !bytes.Equal(r.sum.Sum(nil), r.file.sum[:]) {
		return n, fmt.Errorf("%q: %w", r.file.path, ErrChanged)
	}
	return n, err
}
