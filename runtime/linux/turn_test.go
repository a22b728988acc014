package linux

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"reconciler/runtime"
)

func withTurn(id runtime.ID, turn int64, age time.Duration) *entry {
	return &entry{record: record{ID: id, CreatedAt: time.Unix(1_000_000, 0).Add(-age)}, turn: turn}
}

// Of one name the highest number serves, of the same the newest, and nobody below 0.
func TestServingOf(t *testing.T) {
	for name, c := range map[string]struct {
		list []*entry
		want runtime.ID
	}{
		"nobody":                      {nil, ""},
		"alone":                       {[]*entry{withTurn("a", 0, 0)}, "a"},
		"alone and aside":             {[]*entry{withTurn("a", aside, 0)}, ""},
		"earlier release: the newer":  {[]*entry{withTurn("a", 0, time.Hour), withTurn("b", 0, 0)}, "b"},
		"beside an earlier release's": {[]*entry{withTurn("a", 0, time.Hour), withTurn("b", aside, 0)}, "a"},
		"the higher, however old":     {[]*entry{withTurn("a", 2, time.Hour), withTurn("b", 1, 0)}, "a"},
		"all aside":                   {[]*entry{withTurn("a", aside, 0), withTurn("b", aside, 0)}, ""},
	} {
		got := runtime.ID("")
		if first := servingOf(c.list); first != nil {
			got = first.ID
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// In whatever order the containers are read, the same one serves, and who gets the next number does.
func TestServingProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var list []*entry
		for i := range rapid.IntRange(0, 5).Draw(t, "containers") {
			list = append(list, withTurn(runtime.ID(rune('a'+i)), rapid.Int64Range(aside, 3).Draw(t, "turn"), time.Duration(rapid.IntRange(0, 2).Draw(t, "age"))))
		}
		first, again := servingOf(list), servingOf(rapid.Permutation(list).Draw(t, "permuted"))
		if (first == nil) != (again == nil) || first != nil && first.ID != again.ID {
			t.Fatalf("%v and %v", first, again)
		}
		if len(list) == 0 {
			return
		}
		i := rapid.IntRange(0, len(list)-1).Draw(t, "who")
		list[i].turn = nextTurn(list)
		if now := servingOf(list); now.ID != list[i].ID {
			t.Fatalf("%s serves, not %s", now.ID, list[i].ID)
		}
	})
}

// The format on disk: what this release writes, and what it must always be able to read.
func TestServingFile(t *testing.T) {
	dir := t.TempDir()
	if err := writeTurn(dir, 3); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, turnFile))
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "serving.v1.json")
	want, err := os.ReadFile(golden)
	if err != nil || string(got) != string(want) {
		t.Errorf("%s (%v): %s, want %s", golden, err, got, want)
	}
	s := stateDir{path: t.TempDir(), cache: &recordCache{}}
	rec := record{Version: recordVersion, ID: "web-1"}
	if err = s.create(rec, 0); err != nil {
		t.Fatal(err)
	}
	for content, turn := range map[string]int64{string(want): 3, `{"version":1,"turn":-1}`: aside, `{"version":2,"turn":3}`: -2} {
		path := filepath.Join(s.dir(rec.ID), turnFile)
		if err = os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err = os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := s.read(rec.ID)
		if turn == -2 {
			if err == nil {
				t.Errorf("%s: read", content)
			}
		} else if err != nil || e.turn != turn {
			t.Errorf("%s: %d, %v", content, e.turn, err)
		}
	}
	if !json.Valid(want) {
		t.Error("the golden is no JSON")
	}
}
