package source

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // what Git packs are checked with
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"
)

// zeros is a stream of n bytes.
type zeros int64

func (z *zeros) Read(p []byte) (int, error) {
	if *z == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), int64(*z))
	clear(p[:n])
	*z -= zeros(n)
	return int(n), nil
}

// packed is one object of a pack made by hand: its type, the size that it says it has, and its content.
type packed struct {
	kind    byte
	says    int64
	content io.Reader
}

// pack makes a pack that says it has count objects.
func pack(t testing.TB, count uint32, objects ...packed) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("PACK")
	_ = binary.Write(&b, binary.BigEndian, []uint32{2, count})
	at := 0
	for _, o := range objects {
		start := b.Len()
		first, rest := o.kind<<4|byte(o.says&15), uint64(o.says)>>4
		for ; rest > 0; rest >>= 7 {
			b.WriteByte(first | 0x80)
			first = byte(rest & 0x7f)
		}
		b.WriteByte(first)
		if o.kind == 6 { // the distance to what it is made from, of less than 128 bytes here
			b.WriteByte(byte(start - at))
		}
		at = start
		z := zlib.NewWriter(&b)
		if _, err := io.Copy(z, o.content); err != nil {
			t.Fatal(err)
		}
		_ = z.Close()
	}
	sum := sha1.Sum(b.Bytes()) //nolint:gosec // what Git packs are checked with
	return append(b.Bytes(), sum[:]...)
}

func blob(n int64) packed {
	z := zeros(n)
	return packed{3, n, &z}
}

// delta makes an object of size from one of 10 bytes, by copying it again and again.
func delta(size uint64, copies int) packed {
	b := binary.AppendUvarint(binary.AppendUvarint(nil, 10), size)
	for range copies {
		b = append(b, 0x90, 10) // copy 10 bytes from the beginning
	}
	return packed{6, int64(len(b)), bytes.NewReader(b)}
}

// A server that sends a few bytes that become gigabytes is refused before they do.
func TestPackBombs(t *testing.T) {
	const bomb = maxObject + 1
	lies := blob(bomb)
	lies.says = 10
	small := func() packed { return blob(10) }
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"whole":             {pack(t, 2, small(), delta(20, 2)), nil},
		"large file":        {pack(t, 1, blob(bomb)), ErrTooLarge},
		"size that lies":    {pack(t, 1, lies), errAny},
		"size without end":  {pack(t, 1, packed{3, math.MaxInt64, bytes.NewReader([]byte("x"))}), errAny},
		"delta":             {pack(t, 2, small(), delta(1<<40, 2)), ErrTooLarge},
		"delta of nothing":  {pack(t, 2, small(), packed{6, 0, bytes.NewReader(nil)}), errAny},
		"too many":          {pack(t, math.MaxUint32, small()), ErrTooLarge},
		"fewer than it has": {pack(t, 3, small()), errAny},
		"nothing":           {nil, errAny},
		"no pack":           {[]byte("<html>please log in</html>"), errAny},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			var before, after goruntime.MemStats
			goruntime.GC()
			goruntime.ReadMemStats(&before)
			err := storePack(dir, bytes.NewReader(c.data))
			goruntime.ReadMemStats(&after)
			if (err == nil) != (c.want == nil) || errors.Is(c.want, ErrTooLarge) && !errors.Is(err, ErrTooLarge) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 32<<20 {
				t.Errorf("took %d MiB", used>>20)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "objects", "pack", "*"))
			if err != nil && len(left) > 0 || err == nil && len(left) != 2 {
				t.Errorf("left %v", left)
			}
		})
	}
}

var errAny = errors.New("any error")

func FuzzStorePack(f *testing.F) {
	f.Add(pack(f, 2, blob(10), delta(20, 2)))
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if storePack(dir, bytes.NewReader(data)) == nil {
			return
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "objects", "pack")); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
}
