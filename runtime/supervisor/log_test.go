package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"reconciler/runtime"
)

// logPipe is a log writer with a pipe to write into.
type logPipe struct {
	dir  string
	log  *logWriter
	r, w [2]int
}

func newLogPipe(t testing.TB, dir string, logs runtime.Logs) *logPipe {
	t.Helper()
	p := &logPipe{dir: dir}
	p.reopen(t, logs)
	for i := range p.r {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		p.r[i], p.w[i] = fds[0], fds[1]
		t.Cleanup(func() { _ = unix.Close(fds[0]); _ = unix.Close(fds[1]) })
	}
	t.Cleanup(func() { p.log.close() })
	return p
}

func (p *logPipe) reopen(t testing.TB, logs runtime.Logs) {
	t.Helper()
	if p.log != nil {
		p.log.close()
	}
	var err error
	if p.log, err = openLog(p.dir, logs, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
}

func (p *logPipe) write(t testing.TB, stream byte, text string) {
	t.Helper()
	for text != "" {
		n := min(len(text), 32<<10)
		if _, err := unix.Write(p.w[stream], []byte(text[:n])); err != nil {
			t.Fatal(err)
		}
		text = text[n:]
		for {
			if _, err := p.log.take(stream, p.r[stream]); errors.Is(err, unix.EAGAIN) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func read(t testing.TB, dir string, opts LogOptions) []string {
	t.Helper()
	var out []string
	for e, err := range ReadLog(context.Background(), dir, opts) {
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%d%s:%s", e.Start, e.Stream[3:4], e.Line)
		if e.Partial {
			s += "…"
		}
		if e.Lost > 0 {
			s += fmt.Sprintf("lost %d", e.Lost)
		}
		out = append(out, s)
	}
	return out
}

func diskUse(t testing.TB, dir string) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			size += fi.Size()
		}
	}
	return size
}

// Whatever is written, in whatever pieces, with restarts of writer and container between: the reader gives the same
// lines, and the files stay within their bounds.
func TestLogKeepsEveryLine(t *testing.T) {
	top, runs := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		dir := filepath.Join(top, fmt.Sprint(runs))
		runs++
		if err := os.Mkdir(dir, 0o700); err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		const files = 1000 // nothing is deleted
		logs := runtime.Logs{MaxSize: int64(rapid.IntRange(1, 20).Draw(rt, "kib")) << 10, MaxFiles: files}
		p := newLogPipe(t, dir, logs)
		if err := p.log.beginRun(); err != nil {
			rt.Fatal(err)
		}
		run := 1
		var written, want [2]strings.Builder
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0:
				p.reopen(t, logs)
			case 1:
				if err := p.log.beginRun(); err != nil {
					rt.Fatal(err)
				}
				for i := range want { // a line without newline ends with its run
					flushModel(&want[i], &written[i], run, i, true)
				}
				run++
			default:
				stream := rapid.IntRange(0, 1).Draw(rt, "stream")
				text := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[a-z]{0,30}\n?`), 0, 60).Draw(rt, "text"), "")
				p.write(t, byte(stream), text)
				written[stream].WriteString(text)
				flushModel(&want[stream], &written[stream], run, stream, false)
			}
		}
		for i := range want {
			flushModel(&want[i], &written[i], run, i, true)
		}
		for i, stream := range []Stream{Stdout, Stderr} {
			got := strings.Join(append(read(t, dir, LogOptions{Stream: stream}), ""), "\n")
			if got != want[i].String() {
				rt.Fatalf("%s is\n%q, want\n%q", stream, got, want[i].String())
			}
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if fi, err := e.Info(); err == nil && fi.Size() > max(logs.MaxSize, minLogSize) {
				rt.Fatalf("%s has %d bytes", e.Name(), fi.Size())
			}
		}
	})
}

// flushModel turns the whole lines of written, at the end all of it, into what the reader is to say.
func flushModel(want, written *strings.Builder, run, stream int, end bool) {
	text := written.String()
	written.Reset()
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			if end && line != "" {
				fmt.Fprintf(want, "%d%s:%s\n", run, []string{"o", "e"}[stream], line)
			} else {
				written.WriteString(line)
			}
			return
		}
		fmt.Fprintf(want, "%d%s:%s\n", run, []string{"o", "e"}[stream], line)
		text = rest
	}
}

func TestLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	logs := runtime.Logs{MaxSize: 8 << 10, MaxFiles: 3}
	p := newLogPipe(t, dir, logs)
	if err := p.log.beginRun(); err != nil {
		t.Fatal(err)
	}
	for i := range 20_000 {
		p.write(t, byte(i%2), fmt.Sprintf("line %d\n", i))
	}
	if use := diskUse(t, dir); use > 3*8<<10 {
		t.Errorf("%d bytes are kept", use)
	}
	got := read(t, dir, LogOptions{})
	if len(got) < 100 || got[len(got)-1] != "1e:line 19999" {
		t.Fatalf("%d lines, the last is %q", len(got), got[len(got)-1])
	}
	for i, line := range got { // in order, and none cut
		n := 20_000 - len(got) + i
		if want := fmt.Sprintf("1%s:line %d", []string{"o", "e"}[n%2], n); line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
	if tail := read(t, dir, LogOptions{Tail: 7}); !slices.Equal(tail, got[len(got)-7:]) {
		t.Errorf("tail: %q", tail)
	}
	p.log.setLimits(runtime.Logs{MaxSize: 8 << 10, MaxFiles: 1})
	if segs, _ := segments(dir); len(segs) != 1 {
		t.Errorf("segments %v after lowering to one", segs)
	}
}

func TestLogLongLine(t *testing.T) {
	dir := t.TempDir()
	p := newLogPipe(t, dir, runtime.Logs{MaxSize: 64 << 10, MaxFiles: 100})
	long := strings.Repeat("x", 3*maxLine+17)
	p.write(t, 0, "before\n"+long+"\nafter\n")
	var whole bytes.Buffer
	pieces := 0
	for e, err := range ReadLog(context.Background(), dir, LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Line) > maxLine {
			t.Errorf("a piece of %d bytes", len(e.Line))
		}
		whole.Write(e.Line)
		if !e.Partial {
			whole.WriteByte('\n')
		}
		pieces++
	}
	if whole.String() != "before\n"+long+"\nafter\n" || pieces != 6 {
		t.Errorf("%d bytes in %d pieces", whole.Len(), pieces)
	}
}

func TestLogTornTail(t *testing.T) {
	dir := t.TempDir()
	logs := runtime.Logs{MaxSize: 64 << 10, MaxFiles: 3}
	p := newLogPipe(t, dir, logs)
	p.write(t, 0, "one\n")
	p.write(t, 0, "two\n")
	p.log.close()
	index := segmentPath(dir, "index", 1)
	whole, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(whole); cut >= 0; cut-- {
		if err := os.WriteFile(index, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		// What the index does not cover is in the file all the same.
		if got := read(t, dir, LogOptions{}); !slices.Equal(got, []string{"0o:one", "0o:two"}) {
			t.Fatalf("cut at %d: %q", cut, got)
		}
	}
	if err := os.WriteFile(index, append(whole[:len(whole)-recordSize], "garbage that a power cut left behind"...), 0o600); err != nil {
		t.Fatal(err)
	}
	p.reopen(t, logs)
	p.write(t, 0, "three\n")
	if got := read(t, dir, LogOptions{}); !slices.Equal(got, []string{"0o:one", "0o:two", "0o:three"}) {
		t.Errorf("after repair: %q", got)
	}
	// A power cut that took the file's end but not the index's: nothing new may land where the index points.
	p.log.close()
	if err := os.Truncate(segmentPath(dir, "stdout", 1), 4); err != nil {
		t.Fatal(err)
	}
	p.reopen(t, logs)
	p.write(t, 0, "four\n")
	if got := read(t, dir, LogOptions{}); !slices.Equal(got, []string{"0o:one", "0o:four"}) {
		t.Errorf("after a lost end: %q", got)
	}
}

func TestLogNewerFormat(t *testing.T) {
	dir := t.TempDir()
	h := record{kind: kindHeader, length: indexVersion + 1}
	if err := os.WriteFile(segmentPath(dir, "index", 1), h.appendTo(nil), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range ReadLog(context.Background(), dir, LogOptions{}) {
		if err == nil || !strings.Contains(err.Error(), "format 2") {
			t.Errorf("error is %v", err)
		}
	}
}

// The format of today must be readable for ever.
func TestLogGolden(t *testing.T) {
	got := read(t, "testdata/log-v1", LogOptions{})
	want := []string{"1o:hello", "1e:oops", "1o:no newline", "2o:again", "2o:lost 77", "2o:cut", "2o:end"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	e, ok, err := ReadExit("testdata/log-v1")
	if err != nil || !ok || codeOf(e) != "137" || e.Signal != "SIGKILL" || !e.OOMKilled || e.Ran != 1500*time.Millisecond {
		t.Errorf("exit %+v, %v %v", e, ok, err)
	}
}

func TestLogFollow(t *testing.T) {
	dir := t.TempDir()
	p := newLogPipe(t, dir, runtime.Logs{MaxSize: 4 << 10, MaxFiles: 1000})
	p.write(t, 0, "old 1\nold 2\nold 3\n")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const lines = 2000
	seen := make(chan string)
	go func() {
		defer close(seen)
		for e, err := range ReadLog(ctx, dir, LogOptions{Follow: true, Tail: 2}) {
			if err != nil {
				t.Error(err)
				return
			}
			seen <- string(e.Line)
			if string(e.Line) == fmt.Sprint("new ", lines-1) {
				return
			}
		}
	}()
	if a, b := <-seen, <-seen; a != "old 2" || b != "old 3" {
		t.Fatalf("tail is %q %q", a, b)
	}
	go func() {
		for i := range lines {
			p.write(t, 0, fmt.Sprintf("new %d\n", i))
		}
	}()
	n := 0
	for line := range seen {
		if want := fmt.Sprint("new ", n); line != want {
			t.Fatalf("%q, want %q", line, want)
		}
		n++
	}
	if n != lines {
		t.Errorf("%d lines", n)
	}
}

func TestLogDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	var failed error
	log, err := openLog(dir, runtime.Logs{MaxSize: 10 << 20, MaxFiles: 3}, func(err error) { failed = err })
	if err != nil {
		t.Fatal(err)
	}
	p := newLogPipe(t, t.TempDir(), runtime.Logs{})
	p.log.close()
	p.log, p.dir = log, dir
	p.write(t, 0, "kept\n")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 48<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("y", 99) + "\n"
	for range 1000 { // returns: a full disk does not block the container
		p.write(t, 0, line)
	}
	if !errors.Is(failed, syscall.ENOSPC) {
		t.Errorf("failure is %v", failed)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.write(t, 0, "back\n")
	got := read(t, dir, LogOptions{})
	if got[0] != "0o:kept" || got[len(got)-1] != "0o:back" || !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "lost") }) {
		t.Errorf("%d lines: %q … %q", len(got), got[0], got[len(got)-3:])
	}
}

// FuzzReadLog: an index of a damaged disk must give an error or lines, never a crash or a lot of memory.
func FuzzReadLog(f *testing.F) {
	r := record{kind: kindChunk, length: 5}
	f.Add(record{kind: kindHeader, length: 1}.appendTo(nil), []byte("hello\nworld"))
	f.Add(r.appendTo(record{kind: kindHeader, length: 1}.appendTo(nil)), []byte("hello\nworld"))
	f.Add(record{kind: kindChunk, stream: 1, length: 1 << 31, offset: 1 << 62}.appendTo(nil), []byte{})
	f.Fuzz(func(t *testing.T, index, raw []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"index.1": index, "stdout.1": raw, "stderr.1": raw} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for _, opts := range []LogOptions{{}, {Tail: 3}, {Current: true}} {
			for _, err := range ReadLog(context.Background(), dir, opts) {
				if err != nil {
					break
				}
			}
		}
		log, _ := openLog(dir, runtime.Logs{}, nil) // with or without an error there is one
		log.close()
	})
}

func BenchmarkLogWrite(b *testing.B) {
	p := newLogPipe(b, b.TempDir(), runtime.Logs{MaxSize: 10 << 20, MaxFiles: 2})
	line := strings.Repeat("z", 99) + "\n"
	chunk := strings.Repeat(line, 300)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		p.write(b, byte(rand.IntN(2)), chunk)
	}
}
