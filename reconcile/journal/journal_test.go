package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
)

func at(minute int) time.Time { return time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC) }

func named(n string) *manifest.Name {
	return &manifest.Name{Namespace: manifest.DefaultNamespace, Name: n}
}

func revision(commit string) *manifest.Revision {
	return &manifest.Revision{Commit: commit, Author: "Ada <ada@example.com>", Subject: "subject of " + commit}
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A journal torn at any byte gives back every record that was written whole, and takes new ones.
func TestTornAtEveryByte(t *testing.T) {
	records := []Record{
		{Time: at(1), Type: TypeAccepted, Commit: "c1", Revision: revision("c1")},
		{Time: at(2), Type: TypeIntent, Commit: "c1", Name: named("web"), Op: plan.OpCreate, Reason: "new\nline and a \"quote\""},
		{Time: at(3), Type: TypeResult, Commit: "c1", Name: named("web"), Op: plan.OpCreate, Result: StepDone, DurationMs: 12},
	}
	var whole []byte
	var ends []int
	for _, r := range records {
		var err error
		if whole, err = encode(whole, r); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, len(whole))
	}
	dir := t.TempDir()
	for cut := 0; cut <= len(whole); cut++ {
		log := filepath.Join(dir, fmt.Sprint(cut))
		if err := os.MkdirAll(log, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(segmentPath(log, 1), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := 0
		for want < len(ends) && ends[want] <= cut {
			want++
		}
		s, notes, err := openSegments(log)
		if err != nil {
			t.Fatal(err)
		}
		torn := cut > 0 && (want == 0 || ends[want-1] != cut)
		if torn != (len(notes) == 1) {
			t.Fatalf("cut at %d: notes %q", cut, notes)
		}
		if err = s.append(false, []Record{{Time: at(9), Type: TypeNote, Message: "after"}}); err != nil {
			t.Fatal(err)
		}
		if err = s.file.Close(); err != nil {
			t.Fatal(err)
		}
		got, damage, err := readSegments(log)
		if err != nil || len(damage) != 0 || len(got) != want+1 || got[want].Message != "after" {
			t.Fatalf("cut at %d: %d records, want %d; %v %v", cut, len(got), want+1, damage, err)
		}
		for i := range want {
			records[i].Version = recordVersion
			if !reflect.DeepEqual(got[i], records[i]) {
				t.Fatalf("cut at %d: record %d is %+v", cut, i, got[i])
			}
		}
	}
}

// One byte changed anywhere loses at most the record that it is in.
func TestFlippedByteLosesOneRecord(t *testing.T) {
	var whole []byte
	for i := range 5 {
		whole, _ = encode(whole, Record{Time: at(i), Type: TypeNote, Message: fmt.Sprint(i)})
	}
	for i := range whole {
		broken := append([]byte{}, whole...)
		broken[i] ^= 0x40
		records, good, _ := scan(broken)
		if len(records) < 3 || good > len(broken) {
			t.Fatalf("byte %d changed: %d records of 5", i, len(records))
		}
		for _, r := range records {
			if len(r.Message) != 1 || r.Message[0] < '0' || r.Message[0] > '4' {
				t.Fatalf("byte %d changed: %+v taken for a record", i, r)
			}
		}
	}
}

func FuzzScan(f *testing.F) {
	seed, _ := encode(nil, Record{Time: at(1), Type: TypeNote, Message: "x"})
	f.Add(seed)
	f.Add([]byte("00000000 {}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, good, _ := scan(data)
		if good < 0 || good > len(data) {
			t.Fatalf("good %d of %d", good, len(data))
		}
		Fold(records)
		again, whole, damaged := scan(data[:good])
		if len(again) != len(records) || whole != good {
			t.Fatalf("%d records, then %d; %d damaged", len(records), len(again), damaged)
		}
	})
}

func TestJournalIsBoundedAndKeepsHistory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, _, err := openSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.limit = 16 << 10
	for i := range 1200 {
		c := fmt.Sprintf("commit-%04d", i)
		err = s.append(false, []Record{
			{Time: at(i), Type: TypeAccepted, Commit: c, Revision: revision(c)},
			{Time: at(i), Type: TypeIntent, Commit: c, Name: named("web"), Op: plan.OpReplace, Reason: "image changed"},
			{Time: at(i), Type: TypeResult, Commit: c, Name: named("web"), Op: plan.OpReplace, Result: StepDone},
			{Time: at(i), Type: TypeSettled, Commit: c, Result: ResultApplied},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err = s.close(); err != nil {
		t.Fatal(err)
	}
	numbers, _ := listSegments(dir)
	if len(numbers) != maxSegments {
		t.Errorf("%d segments, want %d", len(numbers), maxSegments)
	}
	records, _, err := readSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries := Fold(records)
	if len(entries) < maxEntries || len(entries) > maxEntries+200 {
		t.Errorf("%d entries", len(entries))
	}
	for i, e := range entries {
		if want := fmt.Sprintf("commit-%04d", 1199-i); e.Revision != want || e.Result != ResultApplied || len(e.Steps) != 1 {
			t.Fatalf("entry %d: %+v, want %s", i, e, want)
		}
	}
}

func TestFold(t *testing.T) {
	records := []Record{
		{Time: at(1), Type: TypeAccepted, Commit: "c1", Revision: revision("c1")},
		{Time: at(2), Type: TypeIntent, Commit: "c1", Name: named("web"), Op: plan.OpCreate, Reason: "new"},
		{Time: at(3), Type: TypeResult, Commit: "c1", Name: named("web"), Op: plan.OpCreate, Result: StepFailed, Error: "no"},
		{Time: at(4), Type: TypeSettled, Commit: "c1", Result: ResultFailed, Message: "web: no"},
		{Time: at(5), Type: TypeRejected, Commit: "c2", Revision: revision("c2"), Message: "a.yaml:1: bad"},
		{Time: at(6), Type: TypeIntent, Commit: "c1", Name: named("web"), Op: plan.OpCreate, Reason: "new"},
		{Time: at(7), Type: TypeResult, Commit: "c1", Name: named("web"), Op: plan.OpCreate, Result: StepDone},
		{Time: at(8), Type: TypeSettled, Commit: "c1", Result: ResultApplied},
		{Time: at(9), Type: TypeBlocked, Commit: "c3", Revision: revision("c3"), Reason: "Emptying"},
		{Time: at(10), Type: TypeAccepted, Commit: "c3", Revision: revision("c3")},
		{Time: at(11), Type: TypeIntent, Commit: "c3", Name: named("web"), Op: plan.OpRemove},
	}
	got := Fold(records)
	var lines []string
	for _, e := range got {
		line := e.Revision + " " + e.Result
		for _, s := range e.Steps {
			line += fmt.Sprintf(" %s %s %s", s.Op, s.Name.Short(), s.Result)
		}
		lines = append(lines, line)
	}
	want := "c3 Progressing remove web Interrupted|c2 Rejected|c1 Applied create web Done"
	if text := strings.Join(lines, "|"); text != want {
		t.Errorf("folded to\n%s, want\n%s", text, want)
	}
}

func sampleState() State {
	name := *named("web")
	set := func(commit string) *manifest.Set {
		return &manifest.Set{
			Revision: *revision(commit), Node: manifest.Node{Name: "edge-1"}, NodeKnown: true,
			Workloads: []manifest.Workload{{
				Kind: manifest.KindContainer, Name: name, Digest: "sha256:" + commit,
				Spec:    manifest.Spec{Image: "web:1", Env: map[string]manifest.EnvValue{"A": {Value: ""}, "T": {Secret: "s", Key: "k"}}},
				Configs: map[string]manifest.ConfigData{"web": {"a.conf": {0, 1, 0xff}}},
			}},
		}
	}
	return State{
		Accepted: set("c2"), LastGood: set("c1"), AcceptedRevision: *revision("c2"), Applied: *revision("c1"),
		Approved: []string{"c2"}, Suspended: true, Node: "edge-1", Images: []string{"sha256:a"},
		Histories:    map[manifest.Name]plan.History{name: {Failures: 2, NextTry: at(5), Error: "no"}},
		ImageDigests: map[string]string{"web:1": "sha256:a"},
	}
}

func TestStateRoundTrip(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	want := sampleState()
	want.AppliedAt = at(7)
	if err := s.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil || len(got.Notes) != 0 {
		t.Fatal(err, got.Notes)
	}
	if !reflect.DeepEqual(got.State, want) {
		t.Errorf("read back\n%+v, want\n%+v", got.State, want)
	}
	written := s.BytesWritten()
	if err := s.Save(want); err != nil || s.BytesWritten() != written {
		t.Errorf("an unchanged state was written again: %v", err)
	}
	// Sets that nobody names any more go away.
	for i := range 5 {
		want.Accepted = &manifest.Set{Revision: *revision(fmt.Sprint("n", i))}
		if err := s.Save(want); err != nil {
			t.Fatal(err)
		}
	}
	files, _ := os.ReadDir(filepath.Join(dir, "sets"))
	if len(files) > 4 {
		t.Errorf("%d sets are kept", len(files))
	}
	for _, f := range []string{"state.json", "agent.lock", "journal/00000001.jsonl"} {
		if info, err := os.Stat(filepath.Join(dir, f)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
}

func TestNeededImages(t *testing.T) {
	s := State{Images: []string{"c", "a"}, PreviousImages: []string{"b", "a"}, ImageDigests: map[string]string{"x:1": "d", "y:1": ""}}
	if got := s.NeededImages(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("%v", got)
	}
}

func TestDamagedStateIsToldOf(t *testing.T) {
	good := t.TempDir()
	s := open(t, good)
	first := sampleState()
	first.Suspended = false
	for _, st := range []State{first, sampleState()} {
		if err := s.Save(st); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(statePath(good))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(whole); i += 41 {
		for _, broken := range [][]byte{whole[:i], append(append(append([]byte{}, whole[:i]...), whole[i]^1), whole[i+1:]...)} {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(good)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(statePath(dir), broken, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := Open(dir)
			if errors.Is(err, ErrNewerState) {
				continue // the changed byte was the version's
			}
			if err != nil {
				t.Fatal(err)
			}
			if st := s.State(); st.Node != "edge-1" || st.Accepted == nil || len(s.Notes()) == 0 && !st.Suspended {
				t.Fatalf("byte %d: state %+v, notes %q", i, st, s.Notes())
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// No part of a file is taken for the whole of it, and nothing for an empty state: a cut at any byte is damage.
func TestCutAtEveryByteIsDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Save(sampleState()); err != nil {
		t.Fatal(err)
	}
	state, err := os.ReadFile(statePath(dir))
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(state) {
		if _, err = decodeState(state[:cut]); err == nil {
			t.Fatalf("cut at %d it is taken for a state", cut)
		}
	}
	sets, err := filepath.Glob(filepath.Join(dir, "sets", "*.json"))
	if err != nil || len(sets) != 2 {
		t.Fatalf("sets: %v, %v", sets, err)
	}
	for _, path := range sets {
		digest := strings.TrimSuffix(filepath.Base(path), ".json")
		for info, err := os.Stat(path); ; info, err = os.Stat(path) {
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() == 0 {
				break
			}
			if err := os.Truncate(path, info.Size()-1); err != nil {
				t.Fatal(err)
			}
			if set, err := loadSet(dir, digest); err == nil {
				t.Fatalf("cut at %d it is taken for %+v", info.Size()-1, set)
			}
		}
	}
}

func TestNewerStateIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(statePath(dir), []byte(`{"version": 99, "sum": "0", "state": {}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrNewerState) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(statePath(dir)); err != nil {
		t.Error("the newer state was moved away")
	}
}

// State of version 1, as the first release wrote it, is read by every later one.
func TestStateVersion1(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/state-v1")); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil || len(got.Notes) != 0 || len(got.Records) != 2 {
		t.Fatalf("%v %q %d records", err, got.Notes, len(got.Records))
	}
	if want := sampleState(); !reflect.DeepEqual(got.State, want) {
		t.Errorf("read\n%+v, want\n%+v", got.State, want)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var locked *LockedError
	if _, err := Open(dir); !errors.As(err, &locked) || locked.Pid != os.Getpid() || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

// What is appended is written whole or not at all, so that it may be appended again; and a segment that cannot be
// finished, or history that cannot be folded, is no reason to write nothing ever after.
func TestFailedAppendIsAppendedAgain(t *testing.T) {
	dir := t.TempDir()
	s, _, err := openSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	s.limit = 300 // three records
	note := func(i int) []Record { return []Record{{Time: at(i), Type: TypeNote, Message: fmt.Sprint(i)}} }
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	failures := 0
	for i := range 60 {
		real := s.file
		if i%2 == 1 {
			s.file = full
			if err = s.append(true, note(i)); err == nil {
				t.Fatal("a full disk took a record")
			}
			if _, err = s.file.Stat(); err != nil || s.file != full {
				t.Fatalf("there is nothing to write to any more: %v", err)
			}
			s.file = real
		}
		if i == 10 { // before anything was: nothing can be folded
			if err = os.MkdirAll(filepath.Join(dir, foldedName, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for err = s.append(true, note(i)); err != nil; err = s.append(true, note(i)) {
			if failures++; failures > 60 {
				t.Fatal(err)
			}
		}
		if i == 40 {
			if err = os.RemoveAll(filepath.Join(dir, foldedName)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if failures == 0 {
		t.Error("nothing failed")
	}
	numbers, err := listSegments(dir)
	if err != nil || len(numbers) != maxSegments {
		t.Errorf("%d segments, %v", len(numbers), err)
	}
	records, _, err := readSegments(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range records {
		if want := fmt.Sprint(60 - len(records) + i); r.Message != want {
			t.Fatalf("record %d is %s, want %s", i, r.Message, want)
		}
	}
}

// A process that is killed in the middle of a write leaves its temporary file: no two of them pile up.
func TestTemporaryFilesGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Save(sampleState()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left := []string{".state.json.1.tmp", "sets/.abc.json.2.tmp", "journal/.folded.jsonl.3.tmp"}
	for _, name := range left {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir)
	if len(s.Notes()) != 0 || s.State().Node != "edge-1" || s.State().Accepted == nil {
		t.Errorf("%+v, %q", s.State(), s.Notes())
	}
	for _, name := range left {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is left", name)
		}
	}
}
