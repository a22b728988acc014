package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"reconciler/runtime"
)

// Whatever changes of a container's files is seen at once, however old what was read of them is.
func TestRecordCacheSeesEveryChange(t *testing.T) {
	s := stateDir{path: t.TempDir(), cache: &recordCache{}}
	rec := record{Version: recordVersion, ID: "web-1"}
	if err := s.create(rec, 0); err != nil {
		t.Fatal(err)
	}
	read := func() entry {
		t.Helper()
		e, err := s.read(rec.ID)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	marker := filepath.Join(s.dir(rec.ID), removingFile)
	changes := map[string]func(e *entry) error{
		"its starts": func(e *entry) error { e.last.Starts++; return s.writeRun(rec.ID, e.last) },
		"its turn":   func(e *entry) error { e.turn++; return writeTurn(s.dir(rec.ID), e.turn) },
		"its spec":   func(e *entry) error { e.StopSignal += "x"; return s.writeRecord(e.record) },
		"that it goes": func(e *entry) error {
			if e.removing = !e.removing; !e.removing {
				return os.Remove(marker)
			}
			return os.WriteFile(marker, nil, 0o600)
		},
	}
	seen := func(e entry) string { return fmt.Sprint(e.last.Starts, e.turn, e.StopSignal, e.removing) }
	for _, old := range []bool{true, false, true, true, false, false} {
		for what, change := range changes {
			if old {
				past := time.Now().Add(-time.Hour)
				if err := os.Chtimes(s.dir(rec.ID), past, past); err != nil {
					t.Fatal(err)
				}
			}
			want := read()
			if _, kept := s.cache.entries.Load(rec.ID); old && !kept {
				t.Error("what was read of an old directory is read again")
			}
			if err := change(&want); err != nil {
				t.Fatal(err)
			}
			if got := read(); seen(got) != seen(want) {
				t.Errorf("%s changed: read %s, want %s", what, seen(got), seen(want))
			}
		}
	}
	if err := s.remove(rec.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.read(rec.ID); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	if err := s.create(record{Version: recordVersion, ID: rec.ID, StopSignal: "another"}, 0); err != nil {
		t.Fatal(err)
	}
	if got := read(); got.StopSignal != "another" || got.last.Starts != 0 {
		t.Errorf("another of the same id: %+v", got)
	}
}
