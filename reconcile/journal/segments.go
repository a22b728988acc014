package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// The journal's bound: maxSegments files of about segmentSize bytes, and the folded history of what was dropped.
const (
	segmentSize = 1 << 20
	maxSegments = 8
)

// foldedName holds the entries of dropped segments, as records of TypeEntry.
const foldedName = "folded.jsonl"

// segments is the open journal. It is not safe for concurrent use.
type segments struct {
	dir     string
	number  int      // of the last segment
	file    *os.File // the last segment, written at its end
	size    int64
	limit   int64
	written int64
}

func segmentPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%08d.jsonl", n)) }

// listSegments returns the numbers of the segments in dir, lowest first.
func listSegments(dir string) ([]int, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	var numbers []int
	for _, f := range files {
		var n int
		if _, err := fmt.Sscanf(f.Name(), "%08d.jsonl", &n); err == nil && f.Name() == filepath.Base(segmentPath(dir, n)) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// openSegments opens the journal for appending and cuts a torn tail.
func openSegments(dir string) (*segments, []string, error) {
	numbers, err := listSegments(dir)
	if err != nil {
		return nil, nil, err
	}
	s := &segments{dir: dir, number: 1, limit: segmentSize}
	if len(numbers) > 0 {
		s.number = numbers[len(numbers)-1]
	}
	path := segmentPath(dir, s.number)
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read journal: %w", err)
	}
	_, good, damaged := scan(data)
	failpoint.Here("journal: not opened")
	if s.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, nil, fmt.Errorf("open journal: %w", err)
	}
	failpoint.Here("journal: opened")
	s.size = int64(good)
	var notes []string
	if damaged > 0 {
		notes = append(notes, damagedNote(path, damaged))
	}
	if torn := len(data) - good; torn > 0 {
		notes = append(notes, fmt.Sprintf("journal %s: cut %d bytes of a record that was not written whole", path, torn))
		if err := s.file.Truncate(s.size); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("repair journal: %w", err), s.file.Close())
		}
	}
	failpoint.Here("journal: no torn record")
	return s, notes, nil
}

func damagedNote(path string, lines int) string {
	return fmt.Sprintf("journal %s: skipped %d damaged lines", path, lines)
}

// readSegments reads every record in dir, oldest first, and changes nothing.
func readSegments(dir string) ([]Record, []string, error) {
	numbers, err := listSegments(dir)
	if err != nil {
		return nil, nil, err
	}
	paths := []string{filepath.Join(dir, foldedName)}
	for _, n := range numbers {
		paths = append(paths, segmentPath(dir, n))
	}
	var all []Record
	var notes []string
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile, or nothing was folded yet
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read journal: %w", err)
		}
		records, _, damaged := scan(data)
		if damaged > 0 {
			notes = append(notes, damagedNote(path, damaged))
		}
		all = append(all, records...)
	}
	return all, notes, nil
}

// append writes records at the end: all of them or, with an error, none.
func (s *segments) append(durable bool, records []Record) error {
	var buf []byte
	var err error
	for _, r := range records {
		if buf, err = encode(buf, r); err != nil {
			return err
		}
	}
	if s.size > 0 && s.size+int64(len(buf)) > s.limit {
		if err = s.rotate(); err != nil {
			return fmt.Errorf("rotate journal: %w", err)
		}
	}
	failpoint.Here("journal: records not written")
	_, err = s.file.WriteAt(buf, s.size)
	if err == nil && durable {
		err = s.file.Sync()
	}
	if err != nil {
		// Nothing of it stays in front of the next record, which may be the same: a full disk ends, the journal goes on.
		return errors.Join(fmt.Errorf("write journal: %w", err), s.file.Truncate(s.size))
	}
	failpoint.Here("journal: records written")
	s.size += int64(len(buf))
	s.written += int64(len(buf))
	return nil
}

// rotate begins the next segment and folds the oldest ones away. Where that fails there still is one to write to.
func (s *segments) rotate() error {
	failpoint.Here("journal: the segment full") // apart: by chance, when a segment is full
	if err := s.file.Sync(); err != nil {
		return err
	}
	next, err := os.OpenFile(segmentPath(s.dir, s.number+1), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err = atomicfile.SyncDir(s.dir); err != nil {
		return errors.Join(err, next.Close())
	}
	failpoint.Here("journal: the next segment begun") // apart: by chance, when a segment is full
	full := s.file
	s.file, s.number, s.size = next, s.number+1, 0
	if err = full.Close(); err != nil {
		return err
	}
	numbers, err := listSegments(s.dir)
	if err != nil {
		return err
	}
	for len(numbers) > maxSegments {
		if err := s.fold(numbers[0]); err != nil {
			return err
		}
		numbers = numbers[1:]
	}
	return nil
}

// fold keeps the history of segment n and removes its records.
func (s *segments) fold(n int) error {
	var records []Record
	for _, path := range []string{filepath.Join(s.dir, foldedName), segmentPath(s.dir, n)} {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		got, _, _ := scan(data)
		records = append(records, got...)
	}
	entries := Fold(records) // newest first
	var lines [][]byte
	for i, size := 0, 0; i < min(len(entries), maxEntries) && size < segmentSize; i++ {
		line, err := encode(nil, Record{Time: entries[i].Time, Type: TypeEntry, Entry: &entries[i]})
		if err != nil {
			return err
		}
		lines = append(lines, line)
		size += len(line)
	}
	slices.Reverse(lines)
	buf := bytes.Join(lines, nil)
	failpoint.Here("journal: history not folded") // apart: by chance, when a segment is full
	if err := atomicfile.WriteDurable(filepath.Join(s.dir, foldedName), buf, 0o600); err != nil {
		return err
	}
	failpoint.Here("journal: history folded") // apart: by chance, when a segment is full
	s.written += int64(len(buf))
	err := os.Remove(segmentPath(s.dir, n))
	failpoint.Here("journal: the folded segment gone") // apart: by chance, when a segment is full
	return err
}

func (s *segments) close() error { return errors.Join(s.file.Sync(), s.file.Close()) }
