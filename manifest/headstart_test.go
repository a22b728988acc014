package manifest

import (
	"bytes"
	"testing"
)

// TestHeadStartIsBounded: what a stranger's large files come to is not all held before the first of them is decoded, and what
// was parsed ahead is what the file says.
func TestHeadStartIsBounded(t *testing.T) {
	const size = maxHeadStartSize / 4
	files := make([]file, 10)
	h := newHeadStart()
	for i := range files {
		files[i].data = append([]byte("kind: Service #"), bytes.Repeat([]byte{'x'}, size-15)...)
		h.take(fileData{i, files[i].data})
	}
	h.end(files)
	for i, f := range files {
		switch {
		case f.early == nil: // of the first four too, where nobody got to them
		case i >= 4:
			t.Errorf("file %d was parsed ahead: %d bytes before it", i, i*size)
		case f.early.err != nil || len(f.early.docs) != 1 || child(f.early.docs[0], "kind").Value != "Service":
			t.Errorf("file %d: %+v", i, f.early)
		}
	}
	if h.taken != 4 {
		t.Errorf("%d files were taken, want 4 of %d bytes", h.taken, size)
	}
}
