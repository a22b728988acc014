package source

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"reconciler/runtime/failpoint"
)

// The limits of what a server sends. go-git holds each object of a pack in memory once, whatever it was told of its
// size, so a few bytes that inflate to gigabytes would end the agent.
const (
	maxPack    = 2 << 30   // bytes, as sent
	maxObject  = 128 << 20 // bytes of one file, inflated
	maxObjects = 1 << 20
)

// storePack stores the pack of a stream in the repository at dir, with its index. What was not stored whole leaves no
// trace.
func storePack(dir string, stream io.Reader) (err error) {
	packs := filepath.Join(dir, "objects", "pack")
	if err = os.MkdirAll(packs, 0o700); err != nil {
		return err
	}
	failpoint.Here("pack: not begun")
	pack, err := os.CreateTemp(packs, "tmp_pack_*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, pack.Close())
		if err != nil {
			_ = os.Remove(pack.Name())
		}
	}()
	failpoint.Here("pack: an empty file")
	n, err := io.Copy(pack, io.LimitReader(stream, maxPack+1))
	switch {
	case err != nil:
		return err
	case n > maxPack:
		return fmt.Errorf("the pack has more than %d MiB: %w", maxPack>>20, ErrTooLarge)
	}
	failpoint.Here("pack: received")
	if err = checkPack(pack); err != nil {
		return err
	}
	index := new(idxfile.Writer)
	parser, err := packfile.NewParser(packfile.NewScanner(pack), index)
	if err != nil {
		return err
	}
	sum, err := parser.Parse()
	if err != nil {
		return err
	}
	name := filepath.Join(packs, "pack-"+sum.String())
	failpoint.Here("pack: without an index")
	if err = writeIndex(packs, name+".idx", index); err != nil {
		return err
	}
	failpoint.Here("pack: an index without its pack")
	err = errors.Join(pack.Chmod(0o400), os.Rename(pack.Name(), name+".pack"))
	failpoint.Here("pack: in place")
	return err
}

func writeIndex(dir, name string, index *idxfile.Writer) (err error) {
	memory, err := index.Index()
	if err != nil {
		return err
	}
	failpoint.Here("pack: the index not begun")
	f, err := os.CreateTemp(dir, "tmp_pack_*")
	if err != nil {
		return err
	}
	failpoint.Here("pack: the index empty")
	_, err = idxfile.NewEncoder(f).Encode(memory)
	if err = errors.Join(err, f.Chmod(0o400), f.Close()); err == nil {
		failpoint.Here("pack: an index beside")
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	failpoint.Here("pack: an index in place")
	return err
}

// checkPack reads a pack once without keeping anything of it, says whether an object of it is too large, and goes back
// to its beginning.
func checkPack(pack io.ReadSeeker) error {
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s := packfile.NewScanner(pack)
	_, count, err := s.Header()
	if err != nil {
		return err
	}
	if count > maxObjects {
		return fmt.Errorf("%d files, directories and commits, more than %d: %w", count, maxObjects, ErrTooLarge)
	}
	for range count {
		h, headErr := s.NextObjectHeader()
		if headErr != nil {
			return headErr
		}
		m := &measure{size: h.Length}
		if _, _, err = s.NextObject(m); err != nil {
			return err
		}
		if h.Type.IsDelta() {
			if err = m.delta(); err != nil {
				return err
			}
		}
	}
	_, err = pack.Seek(0, io.SeekStart)
	return err
}

// measure counts what an object inflates to, and keeps its beginning.
type measure struct {
	size int64 // as its header says
	n    int64
	head []byte
}

func (m *measure) Write(p []byte) (int, error) {
	const sizes = 2 * binary.MaxVarintLen64
	m.head = append(m.head, p[:min(len(p), sizes-len(m.head))]...)
	if m.n += int64(len(p)); max(m.n, m.size) > maxObject {
		return 0, tooLargeObject()
	}
	return len(p), nil
}

// delta checks the size of what a delta makes: it stands at its beginning, after the size of what it is made from.
func (m *measure) delta() error {
	_, n := binary.Uvarint(m.head)
	if n <= 0 {
		return packfile.ErrInvalidDelta
	}
	size, n := binary.Uvarint(m.head[n:])
	switch {
	case n <= 0:
		return packfile.ErrInvalidDelta
	case size > maxObject:
		return tooLargeObject()
	}
	return nil
}

func tooLargeObject() error {
	return withHint(fmt.Errorf("a file of the repository has more than %d MiB: %w", maxObject>>20, ErrTooLarge),
		"keep images of that size in a registry")
}
