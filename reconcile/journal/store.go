package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"reconciler/manifest"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// Store is the open state directory of one agent. Its methods may be called concurrently.
type Store struct {
	dir   string
	lock  *os.File
	notes []string

	mu      sync.Mutex
	log     *segments
	state   State
	digests map[*manifest.Set]string // of sets whose file is written
	last    []byte                   // state.json as last written
	written int64
	untidy  int // how many more saves may leave a set behind that nothing names
}

// Snapshot is what Read found: the state and the records, oldest first.
type Snapshot struct {
	State   State
	Records []Record
	Notes   []string // what was damaged
}

// Open locks the state directory, repairs what a crash left behind and reads the state. It fails with *LockedError if
// another process has it, and with ErrNewerState if a later release wrote it.
func Open(dir string) (*Store, error) {
	for _, d := range []string{dir, filepath.Join(dir, "sets"), logDir(dir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
	}
	l, err := lock(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, lock: l, digests: map[*manifest.Set]string{}, untidy: setCopies}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return s, nil
}

func (s *Store) load() error {
	if err := sweepTemporary(s.dir); err != nil {
		s.notes = append(s.notes, "cannot tidy the state directory: "+err.Error())
	}
	state, notes, err := loadState(s.dir, func(path string) string {
		to := path + ".corrupt"
		failpoint.Here("state: a corrupt one there")
		if err := os.Rename(path, to); err != nil {
			return fmt.Sprintf(" (cannot move it aside: %v)", err)
		}
		failpoint.Here("state: a corrupt one aside")
		return " (kept as " + to + ")"
	})
	if err != nil {
		return err
	}
	s.state, s.notes = state, append(s.notes, notes...)
	s.last, _ = os.ReadFile(statePath(s.dir)) // only spares a write
	log, more, err := openSegments(logDir(s.dir))
	if err != nil {
		return err
	}
	s.log = log
	s.notes = append(s.notes, more...)
	return nil
}

// Read reads a state directory without locking or changing it, also while an agent works on it.
func Read(dir string) (Snapshot, error) {
	state, notes, err := loadState(dir, nil)
	if err != nil {
		return Snapshot{}, err
	}
	records, more, err := readSegments(logDir(dir))
	if err != nil {
		return Snapshot{}, err
	}
	return Snapshot{State: state, Records: records, Notes: append(notes, more...)}, nil
}

// State returns the state as read by Open or last saved.
func (s *Store) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Notes says what Open found damaged and what it did about it.
func (s *Store) Notes() []string { return s.notes }

// BytesWritten is how much was written since Open, for the node's flash memory.
func (s *Store) BytesWritten() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written + s.log.written
}

// Save writes st durably. It writes nothing where nothing differs from the last time.
func (s *Store) Save(st State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	body := st.body()
	var err error
	if body.Accepted, err = s.saveSet(st.Accepted); err != nil {
		return err
	}
	if body.LastGood, err = s.saveSet(st.LastGood); err != nil {
		return err
	}
	data, err := encodeState(body)
	if err != nil {
		return err
	}
	if bytes.Equal(data, s.last) {
		s.state = st
		return nil
	}
	failpoint.Here("state: sets written, the state not")
	if err := keepPrevious(statePath(s.dir)); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	if err := atomicfile.WriteDurable(statePath(s.dir), data, 0o600); err != nil {
		return fmt.Errorf("save state: %w", err)
	}
	failpoint.Here("state: written")
	s.state, s.last = st, data
	s.written += int64(len(data))
	failpoint.Here("state: old sets there")
	if s.untidy > 0 {
		s.dropSets(body)
		s.untidy--
	}
	return nil
}

// setCopies is after how many saves nothing names a set any more: state.json and the copy before it did.
const setCopies = 2

func (s *Store) saveSet(set *manifest.Set) (string, error) {
	if set == nil {
		return "", nil
	}
	if digest, ok := s.digests[set]; ok {
		return digest, nil
	}
	data, err := json.Marshal(set)
	if err != nil {
		return "", fmt.Errorf("encode set: %w", err)
	}
	digest := setDigest(data)
	failpoint.Here("state: the set not written")
	if _, err := os.Stat(setPath(s.dir, digest)); errors.Is(err, fs.ErrNotExist) {
		if err := atomicfile.WriteDurable(setPath(s.dir, digest), data, 0o600); err != nil {
			return "", fmt.Errorf("save set: %w", err)
		}
		s.written += int64(len(data))
	}
	s.digests[set] = digest
	s.untidy = setCopies
	return digest, nil
}

// dropSets removes set files that neither state.json nor the copy before it names.
func (s *Store) dropSets(body stateBody) {
	keep := map[string]bool{body.Accepted: true, body.LastGood: true}
	if data, err := os.ReadFile(statePath(s.dir) + ".bak"); err == nil {
		if previous, err := decodeState(data); err == nil {
			keep[previous.Accepted], keep[previous.LastGood] = true, true
		}
	}
	for set, digest := range s.digests {
		if !keep[digest] {
			delete(s.digests, set)
		}
	}
	files, err := os.ReadDir(filepath.Join(s.dir, "sets"))
	if err != nil {
		return // they are tidied at the next change
	}
	for _, f := range files {
		if digest, ok := strings.CutSuffix(f.Name(), ".json"); ok && !keep[digest] {
			failpoint.Here("state: an old set there")
			_ = os.Remove(setPath(s.dir, digest))
		}
	}
	failpoint.Here("state: old sets gone")
}

// Append writes records. With durable they are on disk when it returns; without, a power cut may lose them, but no
// crash of the process.
func (s *Store) Append(durable bool, records ...Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.append(durable, records)
}

// Records returns everything that the journal still holds, oldest first.
func (s *Store) Records() ([]Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	records, _, err := readSegments(logDir(s.dir))
	return records, err
}

// Close gives the lock up.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.log.close(), s.lock.Close())
}

func logDir(dir string) string { return filepath.Join(dir, "journal") }
