package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime"
)

// CPU is told per core and over the time between two measurements, whatever happened to containers in between.
func TestStatsRows(t *testing.T) {
	begun := time.Now()
	at := func(id runtime.ID, passed, cpu time.Duration) runtime.Stats {
		return runtime.Stats{ID: id, Name: runtime.Name{Namespace: "default", Name: string(id)}, CPU: cpu, Time: begun.Add(passed)}
	}
	const second = time.Second
	before := []runtime.Stats{at("a", 0, 10*second), at("again", 0, 10*second), at("gone", 0, second), at("other", 0, second)}
	now := []runtime.Stats{at("a", 2*second, 13*second), at("again", 2*second, second/2), at("new", 2*second, second), at("other", 2*second, second)}
	got := map[string]float64{}
	for _, row := range statsRows(before, now, func(s runtime.Stats) bool { return s.ID != "other" }) {
		got[row.Name] = row.CPUPercent
	}
	if len(got) != 3 || got["a"] != 150 || got["again"] != 0 || got["new"] != 0 {
		t.Errorf("got %v", got)
	}
}

func TestStatsOfWhatRuns(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{
		"busy.yaml": busybox("busy", "while true; do :; done", "resources: {limits: {memory: 64Mi, pids: 20, cpu: 500m}}"),
		"idle.yaml": busybox("idle", "sleep 3600"),
	})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	var rows []statsRow
	if err := json.Unmarshal([]byte(s.must("stats", "-o", "json")), &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2 || rows[0].Name != "busy" || rows[1].Name != "idle" {
		t.Fatalf("got %+v", rows)
	}
	busy, idle := rows[0], rows[1]
	if busy.CPUPercent <= idle.CPUPercent || busy.CPUSeconds <= 0 || busy.MemoryLimit != 64<<20 || busy.PidsLimit != 20 || busy.Pids < 1 {
		t.Errorf("got %+v", busy)
	}
	if table := s.must("stats", "busy"); !strings.Contains(table, "/ 64Mi") || strings.Contains(table, "idle") {
		t.Errorf("got\n%s", table)
	}
	if r := s.do("stats", "bsy"); r.code != 1 || !strings.Contains(r.err, "did you mean busy?") {
		t.Errorf("status %d\n%s", r.code, r.err)
	}
}

// A watched list is printed again when something changed, and only then.
func TestPsWatch(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"one.yaml": busybox("one", "sleep 3600")})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	list := s.follow("ps", "--watch")
	list.await("one ", "Running")
	repo.CommitPush("two", sourcetest.Files{"two.yaml": busybox("two", "sleep 3600")})
	list.await("two ", "Running")
}
