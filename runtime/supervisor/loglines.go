package supervisor

import "bytes"

// maxLine is how long a line of output may be before it is given in pieces.
const maxLine = 256 << 10

// logLines makes lines of what is read of both streams and gives those that are asked for.
type logLines struct {
	opts  LogOptions
	yield func(LogEntry, error) bool
	only  uint32 // the run that is asked for; 0 means all

	run    uint32 // the run that is being read; 0 before the first
	line   [2]partialLine
	ring   []LogEntry // the last Tail entries, while reading what is there already
	ringAt int
	tailed bool
}

// partialLine is a line whose end was not seen yet.
type partialLine struct {
	text []byte
	time int64
	skip bool // its beginning is lost: nothing until the next newline is to be shown
}

// begin turns to another run: a line without newline ends with its own.
func (l *logLines) begin(run uint32) error {
	if l.run != 0 && l.run != run {
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.run = run
	return nil
}

// feed splits b into lines.
func (l *logLines) feed(stream byte, b []byte, at int64) error {
	p := &l.line[stream]
	for len(b) > 0 {
		if len(p.text) == 0 {
			p.time = at
		}
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			for !p.skip && len(p.text)+len(b) > maxLine {
				n := maxLine - len(p.text)
				if err := l.piece(stream, append(p.text, b[:n]...)); err != nil {
					return err
				}
				b, p.text, p.time = b[n:], p.text[:0], at
			}
			if !p.skip {
				p.text = append(p.text, b...)
			}
			return nil
		}
		if !p.skip {
			for len(p.text)+i > maxLine {
				n := maxLine - len(p.text)
				if err := l.piece(stream, append(p.text, b[:n]...)); err != nil {
					return err
				}
				b, i, p.text, p.time = b[n:], i-n, p.text[:0], at
			}
			p.text = append(p.text, b[:i]...)
			if err := l.emitLine(stream, false); err != nil {
				return err
			}
		}
		p.skip = false
		b = b[i+1:]
	}
	return nil
}

func (l *logLines) piece(stream byte, text []byte) error {
	l.line[stream].text = text
	return l.emitLine(stream, true)
}

func (l *logLines) emitLine(stream byte, partial bool) error {
	p := &l.line[stream]
	err := l.emit(LogEntry{
		Time: unixNano(p.time), Stream: streamOf(stream), Line: p.text, Start: int(l.run), Partial: partial,
	})
	p.text = p.text[:0]
	if cap(p.text) > readPiece {
		p.text = nil // one long line shall not keep its memory
	}
	return err
}

// flush gives the lines that have no newline.
func (l *logLines) flush() error {
	for i := range l.line {
		if err := l.flushStream(byte(i)); err != nil {
			return err
		}
	}
	return nil
}

func (l *logLines) flushStream(stream byte) error {
	p := &l.line[stream]
	p.skip = false
	if len(p.text) == 0 {
		return nil
	}
	return l.emitLine(stream, false)
}

func (l *logLines) emit(e LogEntry) error {
	switch {
	case l.only != 0 && e.Start != int(l.only),
		l.opts.Stream != "" && e.Stream != l.opts.Stream,
		!l.opts.Since.IsZero() && e.Time.Before(l.opts.Since):
		return nil
	}
	if l.tailed {
		if !l.yield(e, nil) {
			return errEnough
		}
		return nil
	}
	if l.opts.Tail < 0 {
		return nil
	}
	e.Line = bytes.Clone(e.Line)
	if len(l.ring) < l.opts.Tail {
		l.ring = append(l.ring, e)
		return nil
	}
	l.ring[l.ringAt] = e
	l.ringAt = (l.ringAt + 1) % len(l.ring)
	return nil
}

// emitTail gives the kept end of what was there already; from then on everything is given at once.
func (l *logLines) emitTail() error {
	if l.tailed {
		return nil
	}
	l.tailed = true
	ring, at := l.ring, l.ringAt
	l.ring = nil
	for i := range ring {
		if !l.yield(ring[(at+i)%len(ring)], nil) {
			return errEnough
		}
	}
	return nil
}
