package supervisor

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// Bounds of kept output where the caller gives none, and the smallest that make sense.
const (
	defaultLogSize  = 10 << 20
	defaultLogFiles = 3
	minLogSize      = 4 << 10
	maxSplice       = 1 << 20
	maxPending      = 64 << 10
	// reopenAfter is how long to wait before kept output that could not be opened is tried again.
	reopenAfter = time.Second
)

// logWriter moves a container's output from its FIFOs into segments. Bytes go by splice(2), never by read and write: a
// supervisor that is killed at any moment leaves them in the pipe or in the file, never in its own memory. It must not
// be the other way round; in a prototype 300 kills of a reading one lost 19,651 lines.
//
// A segment's three files together stay below Logs.MaxSize, and there are at most Logs.MaxFiles segments.
type logWriter struct {
	mu    sync.Mutex
	dir   string
	size  int64
	files int

	seg     uint64
	raw     [2]int // file descriptors; not os.File, which would want them in its poller
	index   int
	rawLen  [2]int64
	idxLen  int64
	runAt   [2]int64 // where the present run begins in this segment's files
	midline [2]bool  // what the segment before this one ended with
	start   uint32

	pending []byte   // index records that could not be written yet
	lost    [2]int64 // bytes dropped since the last record that says so
	failed  error    // why the last write failed; nil while all is well
	onFail  func(error)
	null    int
	retry   time.Time // when to open again what could not be opened
	closed  bool
}

// openLog opens the kept output in dir for appending, repairing what a crash left. A writer that comes with an error
// drops what it is given and tries to open again: whoever has a container that runs goes on with it.
func openLog(dir string, logs runtime.Logs, onFail func(error)) (*logWriter, error) {
	w := &logWriter{dir: dir, raw: [2]int{-1, -1}, index: -1, null: -1, onFail: onFail}
	w.setLimits(logs)
	var err error
	if w.null, err = unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0); err != nil {
		return w, fmt.Errorf("open /dev/null: %w", err)
	}
	return w, w.open()
}

func (w *logWriter) open() error {
	w.retry = time.Now().Add(reopenAfter)
	segs, err := segments(w.dir)
	switch {
	case err != nil:
	case len(segs) == 0:
		err = w.openSegment(1)
	default:
		err = w.repair(segs[len(segs)-1])
	}
	if err != nil {
		w.closeFiles()
		return fmt.Errorf("open kept output in %s: %w", w.dir, err)
	}
	return nil
}

// beginRun marks the start of another run of the container.
func (w *logWriter) beginRun() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start++
	w.runAt, w.midline = w.rawLen, [2]bool{}
	return w.record(record{kind: kindStart, time: time.Now().UnixNano(), start: w.start})
}

// repair opens the newest segment of an earlier writer: a torn end of the index is cut off, and bytes that were moved
// but not yet recorded are recorded with the time of the file.
func (w *logWriter) repair(seg uint64) error {
	data, err := os.ReadFile(segmentPath(w.dir, "index", seg))
	if err != nil {
		return err
	}
	recs, err := parseIndex(data)
	if err != nil {
		return err
	}
	if len(recs) > 0 && recs[0].kind != kindHeader {
		recs = nil
	}
	covered, err := w.replay(recs)
	if err != nil {
		return err
	}
	if err := w.openFiles(seg, 0); err != nil {
		return err
	}
	w.pending, w.idxLen = w.pending[:0], int64(len(recs))*recordSize
	failpoint.Here("log: not repaired")
	if err := unix.Ftruncate(w.index, w.idxLen); err != nil {
		return fmt.Errorf("cut torn index: %w", err)
	}
	failpoint.Here("log: a torn index cut")
	if len(recs) == 0 {
		w.fail(w.record(w.header()))
	}
	for i := range w.raw {
		var st unix.Stat_t
		if err := unix.Fstat(w.raw[i], &st); err != nil {
			return fmt.Errorf("stat: %w", err)
		}
		w.rawLen[i] = st.Size
		if st.Size < covered[i] { // a power cut took what the index promises: never write where it points
			return w.openSegment(seg + 1)
		}
		for extra := st.Size - covered[i]; extra > 0; extra = st.Size - covered[i] {
			n := min(extra, 1<<30)
			w.fail(w.record(record{
				kind: kindChunk, stream: byte(i), length: uint32(n), offset: uint64(covered[i]),
				time: st.Mtim.Nano(), start: w.start,
			}))
			covered[i] += n
		}
	}
	return nil
}

// replay learns from a segment's records what its writer knew, and returns how much of each stream they cover. Of a
// segment that was only just begun it learns the run from the one before.
func (w *logWriter) replay(recs []record) (covered [2]int64, err error) {
	w.runAt, w.midline = [2]int64{}, [2]bool{}
	if len(recs) == 0 {
		w.start, err = lastStart(w.dir)
		return covered, err
	}
	w.midline = [2]bool{recs[0].flags&1 != 0, recs[0].flags&2 != 0}
	for _, r := range recs {
		w.start = r.start
		switch r.kind {
		case kindChunk:
			covered[r.stream] = int64(r.offset) + int64(r.length)
		case kindStart:
			w.runAt, w.midline = covered, [2]bool{}
		}
	}
	return covered, nil
}

func (w *logWriter) openFiles(seg uint64, flags int) error {
	w.closeFiles()
	flags |= unix.O_RDWR | unix.O_CREAT | unix.O_CLOEXEC
	open := func(what string) (int, error) {
		path := segmentPath(w.dir, what, seg)
		fd, err := unix.Open(path, flags, 0o600)
		if err != nil {
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
	var err error
	if w.raw[0], err = open("stdout"); err != nil {
		return err
	}
	if w.raw[1], err = open("stderr"); err != nil {
		return err
	}
	// The index comes last: a reader that sees it finds the others.
	if w.index, err = open("index"); err != nil {
		return err
	}
	w.seg = seg
	return nil
}

// openSegment begins segment seg with a header and deletes what is too old.
func (w *logWriter) openSegment(seg uint64) error {
	failpoint.Here("log: a segment not begun")
	if err := w.openFiles(seg, unix.O_TRUNC); err != nil {
		return err
	}
	failpoint.Here("log: a segment without a header")
	w.rawLen, w.runAt, w.idxLen = [2]int64{}, [2]int64{}, 0
	w.pending = w.pending[:0] // of the segment before, whose reader finds the bytes without
	w.fail(w.record(w.header()))
	failpoint.Here("log: too many segments")
	w.prune()
	return nil
}

// header is the first record of the present segment.
func (w *logWriter) header() record {
	h := record{kind: kindHeader, length: indexVersion, time: time.Now().UnixNano(), offset: w.seg, start: w.start}
	if w.midline[0] {
		h.flags |= 1
	}
	if w.midline[1] {
		h.flags |= 2
	}
	return h
}

// prune deletes what is too old, also what is left where that was cut short before.
func (w *logWriter) prune() {
	for _, what := range []string{"index", "stdout", "stderr"} { // index first: without it nobody looks for the others
		segs, err := numbered(w.dir, what)
		if err != nil {
			return
		}
		for _, s := range segs {
			if s+uint64(w.files) <= w.seg {
				failpoint.Here("log: an old file there")
				_ = os.Remove(segmentPath(w.dir, what, s)) // what stays is tried again at the next rotation
				failpoint.Here("log: an old file gone")
			}
		}
	}
}

// rotate closes the present segment and begins the next.
func (w *logWriter) rotate() error {
	_ = w.flush()
	for i := range w.raw {
		if w.rawLen[i] > w.runAt[i] {
			var last [1]byte
			if _, err := unix.Pread(w.raw[i], last[:], w.rawLen[i]-1); err == nil {
				w.midline[i] = last[0] != '\n'
			}
		}
	}
	return w.openSegment(w.seg + 1)
}

// record appends r to the index. While the disk is full, records wait in memory.
func (w *logWriter) record(r record) error {
	w.pending = r.appendTo(w.pending)
	return w.flush()
}

// flush writes the records that wait.
func (w *logWriter) flush() error {
	if len(w.pending) == 0 {
		return nil
	}
	n, err := unix.Pwrite(w.index, w.pending, w.idxLen)
	if err == nil && n < len(w.pending) {
		err = unix.ENOSPC
	}
	if err != nil {
		return fmt.Errorf("write index of kept output: %w", err)
	}
	w.idxLen += int64(n)
	w.pending = w.pending[:0]
	return nil
}

// take moves what is in the pipe fd to the stream's file, at most once, and returns how much that was; 0 with
// unix.EAGAIN means that the pipe is empty. When the file cannot be written, output is dropped and counted: a full disk
// must not stop the container.
func (w *logWriter) take(stream byte, fd int) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, os.ErrClosed
	}
	if w.index < 0 {
		if time.Now().Before(w.retry) {
			return w.drop(stream, fd, w.failed)
		}
		if err := w.open(); err != nil {
			return w.drop(stream, fd, err)
		}
	}
	room := w.size - w.rawLen[0] - w.rawLen[1] - w.idxLen - int64(len(w.pending)) - 2*recordSize
	if room <= 0 {
		if err := w.rotate(); err != nil {
			return w.drop(stream, fd, err)
		}
		room = w.size - 3*recordSize
	}
	if len(w.pending) > maxPending {
		if err := w.flush(); err != nil {
			return w.drop(stream, fd, err)
		}
	}
	off := w.rawLen[stream]
	failpoint.Here("log: output in the pipe")
	n, err := unix.Splice(fd, nil, w.raw[stream], &off, int(min(room, maxSplice)), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, unix.EAGAIN
	case errors.Is(err, unix.EINTR):
		return 0, nil
	case err != nil:
		return w.drop(stream, fd, fmt.Errorf("keep output: %w", err))
	case n == 0:
		return 0, unix.EAGAIN
	}
	now := time.Now().UnixNano()
	if w.lost[stream] > 0 {
		lost := record{kind: kindLost, stream: stream, time: now, offset: uint64(w.lost[stream]), start: w.start}
		w.lost[stream] = 0
		w.fail(w.record(lost))
	}
	r := record{
		kind: kindChunk, stream: stream, length: uint32(n), time: now,
		offset: uint64(w.rawLen[stream]), start: w.start,
	}
	failpoint.Here("log: output moved, not in the index")
	w.rawLen[stream] += n
	w.fail(w.record(r))
	failpoint.Here("log: output in the index")
	return int(n), nil
}

func (w *logWriter) drop(stream byte, fd int, cause error) (int, error) {
	w.fail(cause)
	// no failpoint: what is dropped is lost to whoever comes next too
	n, err := unix.Splice(fd, nil, w.null, nil, maxSplice, unix.SPLICE_F_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.EINTR) {
			return 0, nil
		}
		return 0, err
	}
	if n == 0 {
		return 0, unix.EAGAIN
	}
	w.lost[stream] += n
	return int(n), nil
}

func (w *logWriter) fail(err error) {
	if err != nil && w.failed == nil && w.onFail != nil {
		w.onFail(err)
	}
	w.failed = err
}

// setLimits bounds the kept output from now on.
func (w *logWriter) setLimits(logs runtime.Logs) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.size, w.files = logs.MaxSize, logs.MaxFiles
	if w.size <= 0 {
		w.size = defaultLogSize
	}
	if w.files <= 0 {
		w.files = defaultLogFiles
	}
	w.size = max(w.size, minLogSize)
	if w.seg > 0 {
		w.prune()
	}
}

func (w *logWriter) closeFiles() {
	for _, fd := range []*int{&w.raw[0], &w.raw[1], &w.index} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

func (w *logWriter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	w.settle()
	w.closeFiles()
	if w.null >= 0 {
		_ = unix.Close(w.null)
	}
}

// settle records what was lost since the last record that says so. w.mu is held.
func (w *logWriter) settle() {
	if w.index < 0 {
		return
	}
	for i := range w.lost {
		if w.lost[i] > 0 {
			_ = w.record(record{
				kind: kindLost, stream: byte(i), time: time.Now().UnixNano(),
				offset: uint64(w.lost[i]), start: w.start,
			})
			w.lost[i] = 0
		}
	}
	_ = w.flush()
}
