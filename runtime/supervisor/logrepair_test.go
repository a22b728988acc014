package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// breakIndex makes writes to the present index fail, as on a full disk, and returns what mends it.
func (p *logPipe) breakIndex(t *testing.T) (mend func()) {
	t.Helper()
	p.log.onFail = nil
	readOnly, err := unix.Open(segmentPath(p.dir, "index", p.log.seg), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	good := p.log.index
	p.log.index = readOnly
	return func() {
		p.log.index = good
		_ = unix.Close(readOnly)
	}
}

// Records that could not be written belong to their segment: in the next one they would point at other bytes.
func TestLogRotatesWithoutIndex(t *testing.T) {
	dir := t.TempDir()
	logs := runtime.Logs{MaxSize: 4 << 10, MaxFiles: 100}
	p := newLogPipe(t, dir, logs)
	p.write(t, 0, "first\n")
	p.breakIndex(t)
	want := []string{"0o:first"}
	for i := 0; p.log.seg < 3; i++ { // it rotates, which opens an index that works
		p.write(t, 0, fmt.Sprintf("line %d\n", i))
		want = append(want, fmt.Sprintf("0o:line %d", i))
	}
	if got := read(t, dir, LogOptions{}); !slices.Equal(got, want) {
		t.Errorf("%d lines, want %d: %q", len(got), len(want), got)
	}
	p.reopen(t, logs)
	p.write(t, 0, "again\n")
	if got := read(t, dir, LogOptions{}); !slices.Equal(got, append(want, "0o:again")) {
		t.Errorf("after another start: %q", got)
	}
}

// However much could not be recorded, output is kept again once it can.
func TestLogRecoversFromFullIndex(t *testing.T) {
	dir := t.TempDir()
	p := newLogPipe(t, dir, runtime.Logs{MaxSize: 10 << 20, MaxFiles: 3})
	mend := p.breakIndex(t)
	for range maxPending/recordSize + 100 {
		p.write(t, 0, "x\n")
	}
	mend()
	p.write(t, 0, "back\n")
	got := read(t, dir, LogOptions{})
	if got[len(got)-1] != "0o:back" || !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "lost") }) {
		t.Errorf("%d lines, the last are %q", len(got), got[len(got)-3:])
	}
}

// A segment whose index lost all its records keeps its bytes, and the runs go on being counted.
func TestLogEmptyIndex(t *testing.T) {
	dir := t.TempDir()
	logs := runtime.Logs{MaxSize: 4 << 10, MaxFiles: 100}
	p := newLogPipe(t, dir, logs)
	for range 2 {
		if err := p.log.beginRun(); err != nil {
			t.Fatal(err)
		}
		p.write(t, 0, "one\n")
	}
	for p.log.seg == 1 {
		p.write(t, 1, "noise\n")
	}
	p.write(t, 0, "two\n")
	p.log.close()
	if err := os.Truncate(segmentPath(dir, "index", 2), 0); err != nil {
		t.Fatal(err)
	}
	p.reopen(t, logs)
	p.write(t, 0, "three\n")
	want := []string{"1o:one", "2o:one", "2o:two", "2o:three"}
	if got := read(t, dir, LogOptions{Stream: Stdout}); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLogOpensLater(t *testing.T) {
	dir := t.TempDir()
	newer := segmentPath(dir, "index", 1)
	if err := os.WriteFile(newer, record{kind: kindHeader, length: indexVersion + 1}.appendTo(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := openLog(dir, runtime.Logs{}, nil)
	if err == nil {
		t.Fatal("a newer format was opened")
	}
	p := newLogPipe(t, t.TempDir(), runtime.Logs{})
	p.log.close()
	p.log = log
	p.write(t, 0, strings.Repeat("dropped\n", 20_000)) // more than the pipe holds
	if err := os.Remove(newer); err != nil {
		t.Fatal(err)
	}
	log.retry = time.Time{}
	p.write(t, 0, "kept\n")
	if got := read(t, dir, LogOptions{}); !slices.Equal(got, []string{"0o:lost 160000", "0o:kept"}) {
		t.Errorf("%q", got)
	}
}

// A deletion that was cut short after the index is finished at the next rotation.
func TestLogPrunesRemains(t *testing.T) {
	dir := t.TempDir()
	p := newLogPipe(t, dir, runtime.Logs{MaxSize: 4 << 10, MaxFiles: 2})
	for p.log.seg < 2 {
		p.write(t, 0, "line\n")
	}
	if err := os.Remove(segmentPath(dir, "index", 1)); err != nil {
		t.Fatal(err)
	}
	for p.log.seg < 3 {
		p.write(t, 0, "line\n")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.1")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A container is adopted although its output cannot be kept, and does not stand still.
func TestAdoptedWithoutLog(t *testing.T) {
	e := newEnv(t)
	req := e.start("chatty", "sh", "-c", "echo ready; trap 'head -c 1000000 /dev/zero; exit 7' TERM; while :; do sleep 1 & wait $!; done")
	e.awaitLine(req, "ready")
	e.kill()
	newer := record{kind: kindHeader, length: indexVersion + 1}.appendTo(nil)
	if err := os.WriteFile(segmentPath(req.LogDir, "index", 9), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	e.ensure()
	if st := e.state(req.ID); !st.Running || !strings.Contains(fmt.Sprint(st.Warnings), "output is being lost") {
		t.Errorf("state %+v", st)
	}
	if err := e.c.Update(e.ctx(), req.ID, runtime.Resources{Pids: 50}, runtime.Logs{MaxSize: 1 << 20}); err != nil {
		t.Errorf("update: %v", err)
	}
	exit, err := e.c.Stop(e.ctx(), req.ID, "", 20*time.Second)
	if err != nil || exit.Signal != "" {
		t.Errorf("exit %+v, code %s, %v", exit, codeOf(exit), err)
	}
}
