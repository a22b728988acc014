package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"

	"github.com/fsnotify/fsnotify"
)

// readPiece is how much of a chunk is read at once.
const readPiece = 64 << 10

// ReadLog reads the kept output of a container from its LogDir, oldest first. It needs no supervisor. With Follow it
// goes on until ctx ends, which is not an error. An iteration that fails yields the error last.
// Lines come in the order in which they were finished; one that has no newline yet comes at the end of its run, or of
// what is kept.
func ReadLog(ctx context.Context, dir string, opts LogOptions) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		r := &logReader{dir: dir, opts: opts, lines: logLines{opts: opts, yield: yield, tailed: opts.Tail == 0}}
		defer r.closeSegment()
		if err := r.run(ctx); err != nil && !errors.Is(err, errEnough) {
			yield(LogEntry{}, err)
		}
	}
}

// errEnough ends a reading whose consumer has had enough.
var errEnough = errors.New("enough")

// logReader reads one container's segments in order.
type logReader struct {
	dir   string
	opts  LogOptions
	lines logLines

	seg   uint64
	index *os.File
	raw   [2]*os.File
	at    int64    // how far the index is read
	end   [2]int64 // how far each stream is
	gap   bool     // what came before this segment was not read
	begun bool     // the first segment is open
	buf   []byte
}

func (r *logReader) run(ctx context.Context) error {
	var watch *fsnotify.Watcher
	if r.opts.Follow {
		var err error
		if watch, err = fsnotify.NewWatcher(); err != nil {
			return fmt.Errorf("follow output: %w", err)
		}
		defer func() { _ = watch.Close() }()
		if err := watch.Add(r.dir); err != nil {
			return fmt.Errorf("follow output: %w", err)
		}
	}
	if err := r.chooseRun(); err != nil {
		return err
	}
	r.buf = make([]byte, readPiece)
	for {
		if err := r.readAvailable(ctx); err != nil {
			return err
		}
		if !r.opts.Follow {
			if err := r.readRest(); err != nil {
				return err
			}
			if err := r.lines.flush(); err != nil {
				return err
			}
		}
		if err := r.lines.emitTail(); err != nil {
			return err
		}
		if !r.opts.Follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-watch.Events:
			if !ok {
				return nil
			}
		case err, ok := <-watch.Errors:
			// An overflow only means that something happened, which is all that is asked.
			if ok && !errors.Is(err, fsnotify.ErrEventOverflow) {
				return fmt.Errorf("follow output: %w", err)
			}
		}
	}
}

// chooseRun finds out which run Current or Previous mean.
func (r *logReader) chooseRun() error {
	if !r.opts.Current && !r.opts.Previous {
		return nil
	}
	last, err := lastStart(r.dir)
	if err != nil {
		return err
	}
	r.lines.only = last
	if r.opts.Previous {
		r.lines.only--
		if last < 2 {
			return fmt.Errorf("no output of a previous run is kept: %w", fs.ErrNotExist)
		}
	}
	return nil
}

// lastStart returns the number of the last run that left output in dir, 0 if none did.
func lastStart(dir string) (uint32, error) {
	segs, err := segments(dir)
	if err != nil {
		return 0, err
	}
	for _, seg := range slices.Backward(segs) {
		data, err := os.ReadFile(segmentPath(dir, "index", seg))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		recs, err := parseIndex(data)
		if err != nil {
			return 0, err
		}
		if len(recs) > 0 {
			return recs[len(recs)-1].start, nil
		}
	}
	return 0, nil
}

// readAvailable reads until the end of what is there.
func (r *logReader) readAvailable(ctx context.Context) error {
	if !r.begun {
		segs, err := segments(r.dir)
		if err != nil || len(segs) == 0 {
			return err
		}
		if err := r.openFirst(segs); err != nil || r.index == nil {
			return err
		}
	}
	for {
		if err := r.readIndex(ctx); err != nil {
			return err
		}
		next, err := r.nextSegment()
		if err != nil || next == 0 {
			return err
		}
		// A writer finishes a segment before it begins the next, so that now the rest of this one is there.
		if err := r.readIndex(ctx); err != nil {
			return err
		}
		if err := r.readRest(); err != nil {
			return err
		}
		if err := r.openSegment(next, r.seg+1 != next); err != nil {
			return err
		}
		if r.index == nil { // deleted meanwhile
			r.seg = next
		}
	}
}

// openFirst opens the oldest segment that matters.
func (r *logReader) openFirst(segs []uint64) error {
	first := 0
	if r.opts.Tail > 0 && r.lines.only == 0 && r.opts.Stream == "" && r.opts.Since.IsZero() {
		first = r.tailSegment(segs)
	}
	for _, s := range segs[first:] {
		if err := r.openSegment(s, true); err != nil {
			return err
		}
		if r.index != nil {
			r.begun = true
			return nil
		}
	}
	return nil
}

// tailSegment returns the position of the newest segment from which on there are lines enough.
func (r *logReader) tailSegment(segs []uint64) int {
	lines := 0
	for i := len(segs) - 1; i > 0; i-- {
		for _, what := range []string{"stdout", "stderr"} {
			data, err := os.ReadFile(segmentPath(r.dir, what, segs[i])) // bounded by Logs.MaxSize
			if err == nil {
				lines += bytes.Count(data, []byte{'\n'})
			}
		}
		if lines > r.opts.Tail+2 { // the first of each stream may be cut
			return i
		}
	}
	return 0
}

func (r *logReader) nextSegment() (uint64, error) {
	segs, err := segments(r.dir)
	if err != nil {
		return 0, err
	}
	for _, s := range segs {
		if s > r.seg {
			return s, nil
		}
	}
	return 0, nil
}

// openSegment opens segment seg; one that is gone leaves r.index nil. After a gap the beginnings of lines are lost.
func (r *logReader) openSegment(seg uint64, gap bool) error {
	if gap {
		if err := r.lines.begin(0); err != nil {
			return err
		}
	}
	r.closeSegment()
	open := func(what string) (*os.File, error) {
		f, err := os.Open(segmentPath(r.dir, what, seg))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return f, err
	}
	var err error
	if r.index, err = open("index"); err != nil || r.index == nil {
		return err
	}
	for i, what := range []string{"stdout", "stderr"} {
		if r.raw[i], err = open(what); err != nil {
			return err
		}
	}
	r.seg, r.at, r.end = seg, 0, [2]int64{}
	r.gap = gap
	return nil
}

func (r *logReader) closeSegment() {
	if r.index != nil {
		_ = r.index.Close()
	}
	closeFiles(r.raw[:]...)
	r.index, r.raw = nil, [2]*os.File{}
}

// readIndex reads the records that were added since the last time.
func (r *logReader) readIndex(ctx context.Context) error {
	if r.index == nil {
		return nil
	}
	buf := make([]byte, 128*recordSize)
	for {
		if ctx.Err() != nil && !r.opts.Follow {
			return ctx.Err()
		}
		n, err := r.index.ReadAt(buf, r.at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		recs, perr := parseIndex(buf[:n])
		if perr != nil {
			return perr
		}
		if len(recs) == 0 {
			return nil // the end, or a torn record that is being written
		}
		r.at += int64(len(recs)) * recordSize
		for _, rec := range recs {
			if err := r.apply(rec); err != nil {
				return err
			}
		}
	}
}

func (r *logReader) apply(rec record) error {
	if err := r.lines.begin(rec.start); err != nil {
		return err
	}
	switch rec.kind {
	case kindHeader:
		for i := range r.lines.line {
			r.lines.line[i].skip = r.gap && rec.flags&(1<<i) != 0
		}
		r.gap = false
	case kindChunk:
		r.end[rec.stream] = int64(rec.offset) + int64(rec.length)
		return r.readChunk(rec.stream, int64(rec.offset), int64(rec.length), rec.time)
	case kindLost:
		if err := r.lines.flushStream(rec.stream); err != nil {
			return err
		}
		return r.lines.emit(LogEntry{
			Time: unixNano(rec.time), Stream: streamOf(rec.stream),
			Start: int(rec.start), Lost: int64(rec.offset),
		})
	}
	return nil
}

// readRest reads bytes that were moved but never recorded, because the supervisor died in between.
func (r *logReader) readRest() error {
	for i, f := range r.raw {
		if f == nil {
			continue
		}
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if n := st.Size() - r.end[i]; n > 0 {
			off := r.end[i]
			r.end[i] = st.Size()
			if err := r.readChunk(byte(i), off, n, st.ModTime().UnixNano()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *logReader) readChunk(stream byte, off, length, at int64) error {
	f := r.raw[stream]
	if f == nil {
		return nil
	}
	for length > 0 {
		n, err := f.ReadAt(r.buf[:min(length, readPiece)], off)
		if ferr := r.lines.feed(stream, r.buf[:n], at); ferr != nil {
			return ferr
		}
		if errors.Is(err, io.EOF) {
			return nil // the file lost its end in a power cut
		}
		if err != nil {
			return err
		}
		off += int64(n)
		length -= int64(n)
	}
	return nil
}
