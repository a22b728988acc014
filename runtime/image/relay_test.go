package image

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestRelayPassesEverythingOn(t *testing.T) {
	want := make([]byte, 3*relayBuffers*relayBuffer+17)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	for name, slow := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "by halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRelay()
			go func() {
				for left := want; len(left) > 0; {
					n := min(len(left), 1+rand.IntN(2*relayBuffer))
					if m, err := r.Write(left[:n]); m != n || err != nil {
						t.Errorf("wrote %d of %d: %v", m, n, err)
						break
					}
					left = left[n:]
				}
				r.end(nil)
			}()
			got, err := io.ReadAll(slow(r))
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes of %d, %v", len(got), len(want), err)
			}
		})
	}
}

// The reader learns why the writer gave up after what was written before, and the writer that nobody reads.
func TestRelayEnds(t *testing.T) {
	r := newRelay()
	broken := errors.New("broken")
	if _, err := r.Write([]byte("part")); err != nil {
		t.Fatal(err)
	}
	r.end(broken)
	if got, err := io.ReadAll(r); string(got) != "part" || !errors.Is(err, broken) {
		t.Fatalf("read %q, %v", got, err)
	}
	r = newRelay()
	wrote := make(chan error)
	go func() {
		_, err := r.Write(make([]byte, 2*relayBuffers*relayBuffer))
		r.end(err)
		wrote <- err
	}()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.leave()
	if err := <-wrote; !errors.Is(err, errUnpackFailed) {
		t.Fatalf("wrote on: %v", err)
	}
}
