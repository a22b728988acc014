package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reconciler/runtime/image/imagetest"
)

// FuzzUnpack unpacks arbitrary archives on top of a layer with links and fails if anything outside is touched.
func FuzzUnpack(f *testing.F) {
	f.Add(imagetest.Tar(file{Name: "a/b", Body: "x"}, file{Name: "l", Type: tar.TypeSymlink, Link: "../etc"}, file{Name: "l/passwd", Body: "y"}))
	f.Add(imagetest.Tar(file{Name: "up/.wh.x"}, file{Name: "up/.wh..wh..opq"}, file{Name: "up/passwd", Type: tar.TypeLink, Link: "a"}))
	f.Add(imagetest.Tar(file{Name: "d", Type: tar.TypeDir, Mode: 0o7777}, file{Name: "d/.wh..", Body: ""}, file{Name: "/abs", Type: tar.TypeChar}))
	f.Add(imagetest.Tar(file{Name: "up/passwd", Body: "z"}, file{Name: "up", Type: tar.TypeDir}, file{Name: "up/../../etc/passwd", Body: "z"}))
	layers := newFuzzLayers(f)
	f.Fuzz(func(t *testing.T, archive []byte) { layers.unpack(t, archive) })
}

// FuzzUnpackEntries makes valid archives of arbitrary entries: a line each, with the type, the name and after ">" the
// link. Most of what FuzzUnpack tries has a header that is not valid.
func FuzzUnpackEntries(f *testing.F) {
	f.Add("2 l>../etc\n0 l/passwd\n1 p>l/passwd\n0 p")
	f.Add("2 a>b\n2 b>..\n0 a/etc/passwd\n5 a/etc")
	f.Add("0 up/passwd\n5 up\n0 up/.wh.passwd\n0 up/.wh..wh..opq\n0 .wh.up")
	f.Add("5 bin\n0 bin/sh\n0 .wh.bin\n2 usr>/etc\n0 bin/.wh.sh\n0 usr/bin/.wh..wh..opq")
	f.Add("0 boot/vmlinuz\n2 boot>../etc\n0 boot/vmlinuz-1\n2 lib>/\n0 lib/modules/1/vmlinuz")
	f.Add("6 p\n3 c\n1 d>c\n4 b\n1 e>p\n1 p>/bin/sh\n0 ../../etc/passwd\n5 /\n2 .>/etc")
	layers := newFuzzLayers(f)
	f.Fuzz(func(t *testing.T, entries string) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for line := range strings.Lines(entries) {
			line = strings.TrimSuffix(line, "\n")
			if len(line) < 3 {
				continue
			}
			name, link, _ := strings.Cut(line[2:], ">")
			hdr := &tar.Header{Typeflag: line[0], Name: name, Linkname: link, Mode: 0o755, Format: tar.FormatPAX}
			if hdr.Typeflag == tar.TypeReg {
				hdr.Size = 1
			}
			if w.WriteHeader(hdr) == nil && hdr.Size == 1 {
				_, _ = w.Write([]byte("x"))
			}
		}
		_ = w.Close()
		layers.unpack(t, b.Bytes())
	})
}

// fuzzLayers are two layers that hostile ones are unpacked on.
type fuzzLayers struct {
	s     *Store
	below []string
}

func newFuzzLayers(f *testing.F) fuzzLayers {
	l := fuzzLayers{newStore(f, func(o *Options) { o.MaxLayerSize, o.MaxLayerEntries = 1<<20, 100 }), nil}
	for _, files := range [][]file{
		{{Name: "up", Type: tar.TypeSymlink, Link: "../etc"}, {Name: "abs", Type: tar.TypeSymlink, Link: "/etc"}, {Name: "self", Type: tar.TypeSymlink, Link: "self"}},
		{{Name: "usr/bin/sh", Body: "x"}, {Name: "bin", Type: tar.TypeSymlink, Link: "usr/bin"}, {Name: "etc/passwd", Body: "x"}},
	} {
		dir := f.TempDir()
		if _, err := l.s.unpack(f.Context(), bytes.NewReader(imagetest.Tar(files...)), dir, nil); err != nil {
			f.Fatal(err)
		}
		l.below = append(l.below, dir)
	}
	return l
}

// listing tells everything of a directory that unpacking elsewhere must not change.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, p, info.Mode(), info.Size(), info.ModTime(), statOf(info).Nlink, statOf(info).Uid)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (l fuzzLayers) unpack(t *testing.T, archive []byte) {
	before := listing(t, l.below[0]) + listing(t, l.below[1])
	root, _, err := unpackTo(t, l.s, archive, l.below...)
	if after := listing(t, l.below[0]) + listing(t, l.below[1]); after != before {
		t.Errorf("a layer below was changed:\n%s", after)
	}
	if err != nil {
		return
	}
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz*"))
	if err != nil {
		t.Fatal(err)
	}
	if boot, err := os.Lstat(filepath.Join(root, "boot")); err == nil && boot.IsDir() && len(kernels) > 0 {
		t.Errorf("kernels were left: %v", kernels)
	}
	if err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeDevice != 0 {
			info, ierr := d.Info()
			if ierr != nil || !isWhiteout(info) {
				t.Errorf("%s is a device", p)
			}
		}
		return err
	}); err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Fatal(err)
	}
}
