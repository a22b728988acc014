package failpoints_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"reconciler/runtime/runtimetest/failpoints"
)

// Every change of disk or kernel has a place before and behind it where the walk can have the process die.
func TestEveryStepIsMarked(t *testing.T) {
	points, problems, err := failpoints.Collect("../../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
	if len(points) < 300 {
		t.Errorf("%d points: the rest was not found", len(points))
	}
}

func TestCollect(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "runtime", "room")
	for _, d := range []string{dir, filepath.Join(root, "reconcile")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := os.WriteFile(filepath.Join(dir, "room.go"), []byte(`package room

func whole() {
	failpoint.Here("room: before")
	os.Rename("a", "b")
	failpoint.Here("room: behind") // apart: only after a full moon
}

func twice() { failpoint.Here("room: before") }

func without() error {
	failpoint.Here("room: only before")
	return os.Rename("a", "b")
}

func none() { os.Remove("a") }

// excused is a trial. no failpoint: nothing of it stays
func excused() { unix.Mount("a") }

func line() {
	os.Remove("a") // no failpoint: the error is the news
}

func computed(name string) { failpoint.Here(name) }
func path()                { failpoint.Here("a/b") }
`), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	points, problems, err := failpoints.Collect(root)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(points, func(p failpoints.Point) bool { return p.Name == "room: behind" })
	if at < 0 || points[at].Apart != "only after a full moon" || points[at].At != "runtime/room/room.go:6" {
		t.Errorf("points: %+v", points)
	}
	for _, want := range []string{
		`room.go:9: the name "room: before" is that of runtime/room/room.go:4 too`,
		"room.go:13: os.Rename has no failpoint before and behind it in without",
		"room.go:16: os.Remove has no failpoint before and behind it in none",
		"room.go:25: the name is not written there",
		`room.go:26: "a/b" cannot be a file's name`,
		`room.go:25: "" cannot be a file's name`,
	} {
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("no problem %q", want)
		}
	}
	if len(problems) != 6 {
		t.Errorf("%d problems, want 6:\n%s", len(problems), strings.Join(problems, "\n"))
	}
}
