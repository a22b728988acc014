package supervisor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kept output is a row of segments, numbered from 1: stdout.N and stderr.N hold the bytes as the container wrote them,
// index.N says when they came and in which order. A segment is never renamed, so a reader needs no lock; the oldest is
// deleted when a new one would be too many.
//
// The index is a row of records of 32 bytes, little endian:
//
//	0  kind    'H' header, 'C' chunk, 'S' start, 'L' lost
//	1  stream  0 stdout, 1 stderr
//	2  flags   H: bit 0 stdout, bit 1 stderr was in the middle of a line when the segment began
//	4  length  H: format version. C: bytes
//	8  time    nanoseconds since 1970
//	16 offset  H: segment number. C: where in the stream's file. L: bytes lost
//	24 start   number of the run that the record belongs to
//	28 crc32   IEEE, of the 28 bytes before
const (
	recordSize   = 32
	indexVersion = 1

	kindHeader = 'H'
	kindChunk  = 'C'
	kindStart  = 'S'
	kindLost   = 'L'
)

// record is one record of an index.
type record struct {
	kind   byte
	stream byte
	flags  uint16
	length uint32
	time   int64
	offset uint64
	start  uint32
}

func (r record) appendTo(b []byte) []byte {
	at := len(b)
	b = append(b, r.kind, r.stream)
	b = binary.LittleEndian.AppendUint16(b, r.flags)
	b = binary.LittleEndian.AppendUint32(b, r.length)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.time))
	b = binary.LittleEndian.AppendUint64(b, r.offset)
	b = binary.LittleEndian.AppendUint32(b, r.start)
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[at:]))
}

func parseRecord(b []byte) (r record, ok bool) {
	if len(b) < recordSize || crc32.ChecksumIEEE(b[:28]) != binary.LittleEndian.Uint32(b[28:]) {
		return record{}, false
	}
	r = record{
		kind:   b[0],
		stream: b[1],
		flags:  binary.LittleEndian.Uint16(b[2:]),
		length: binary.LittleEndian.Uint32(b[4:]),
		time:   int64(binary.LittleEndian.Uint64(b[8:])),
		offset: binary.LittleEndian.Uint64(b[16:]),
		start:  binary.LittleEndian.Uint32(b[24:]),
	}
	if r.stream > 1 || r.kind == kindChunk && r.offset > 1<<62 {
		return record{}, false
	}
	return r, true
}

// parseIndex returns the records before the first torn one. An index of a newer format is an error.
func parseIndex(b []byte) ([]record, error) {
	recs := make([]record, 0, len(b)/recordSize)
	for ; len(b) >= recordSize; b = b[recordSize:] {
		r, ok := parseRecord(b)
		if !ok {
			break
		}
		if r.kind == kindHeader && r.length > indexVersion {
			return nil, fmt.Errorf("index of kept output has format %d, this reconciler reads up to %d", r.length, indexVersion)
		}
		recs = append(recs, r)
	}
	return recs, nil
}

func streamOf(b byte) Stream {
	if b == 1 {
		return Stderr
	}
	return Stdout
}

func segmentPath(dir, what string, seg uint64) string {
	return filepath.Join(dir, what+"."+strconv.FormatUint(seg, 10))
}

// segments returns the numbers of the segments in dir, ascending. A directory that is not there has none.
func segments(dir string) ([]uint64, error) { return numbered(dir, "index") }

// numbered returns the numbers of the files of one kind in dir, ascending.
func numbered(dir, what string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var segs []uint64
	for _, e := range entries {
		if num, ok := strings.CutPrefix(e.Name(), what+"."); ok {
			if n, err := strconv.ParseUint(num, 10, 64); err == nil {
				segs = append(segs, n)
			}
		}
	}
	slices.Sort(segs)
	return segs, nil
}

func unixNano(ns int64) time.Time { return time.Unix(0, ns) }
