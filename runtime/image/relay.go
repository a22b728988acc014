package image

import "io"

// relay is an io.Pipe with room in it: whoever unpacks writes one file to disk while the next is decompressed and hashed.
type relay struct {
	full  chan []byte   // what was written and not yet read
	empty chan []byte   // buffers to write to
	left  chan struct{} // closed by a reader that has gone
	err   error         // of the writer, when full is closed

	writing, reading, read []byte // the buffers in use, and the one that reading is the rest of
}

const (
	relayBuffers = 4
	relayBuffer  = 128 << 10
)

func newRelay() *relay {
	r := &relay{full: make(chan []byte, relayBuffers), empty: make(chan []byte, relayBuffers), left: make(chan struct{})}
	for range relayBuffers {
		r.empty <- make([]byte, 0, relayBuffer)
	}
	return r
}

// Write implements io.Writer. It fails with errUnpackFailed when nobody reads any more.
func (r *relay) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if r.writing == nil {
			select {
			case r.writing = <-r.empty:
			case <-r.left:
				return n - len(p), errUnpackFailed
			}
		}
		k := min(len(p), cap(r.writing)-len(r.writing))
		r.writing = append(r.writing, p[:k]...)
		p = p[k:]
		if len(r.writing) == cap(r.writing) {
			r.pass()
		}
	}
	return n, nil
}

// pass hands over what was written. There is room for every buffer.
func (r *relay) pass() {
	r.full <- r.writing
	r.writing = nil
}

// end says that all was written, or why not.
func (r *relay) end(err error) {
	if len(r.writing) > 0 {
		r.pass()
	}
	r.err = err
	close(r.full)
}

// Read implements io.Reader.
func (r *relay) Read(p []byte) (int, error) {
	if len(r.reading) == 0 {
		if r.read != nil {
			r.empty <- r.read[:0]
			r.read = nil
		}
		b, ok := <-r.full
		if !ok {
			if r.err != nil {
				return 0, r.err
			}
			return 0, io.EOF
		}
		r.read, r.reading = b, b
	}
	n := copy(p, r.reading)
	r.reading = r.reading[n:]
	return n, nil
}

// leave says that nobody reads any more.
func (r *relay) leave() { close(r.left) }
