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
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/image/imagetest"
)

type file = imagetest.File

// unpackTo unpacks an archive below a directory with a witness beside it, and fails if anything but the directory
// changed.
func unpackTo(t testing.TB, s *Store, archive []byte, below ...string) (string, layerRecord, error) {
	t.Helper()
	outside := t.TempDir()
	root := filepath.Join(outside, "root")
	for _, d := range []string{root, filepath.Join(outside, "etc")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	witness := filepath.Join(outside, "etc", "passwd")
	if err := os.WriteFile(witness, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	record, err := s.unpack(t.Context(), bytes.NewReader(archive), root, below)
	for dir, want := range map[string]int{outside: 2, filepath.Join(outside, "etc"): 1} {
		entries, rerr := os.ReadDir(dir)
		if rerr != nil || len(entries) != want {
			t.Fatalf("written outside: %v %v", entries, rerr)
		}
	}
	info, serr := os.Stat(witness)
	b, rerr := os.ReadFile(witness)
	if serr != nil || rerr != nil || string(b) != "untouched" || info.Mode().Perm() != 0o600 {
		t.Fatalf("a file outside was changed: %q %v", b, info.Mode())
	}
	if st := statOf(info); st.Nlink != 1 {
		t.Fatal("a file outside was linked")
	}
	return root, record, err
}

func TestUnpackKeepsWhatMatters(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	root, record, err := unpackTo(t, s, imagetest.Tar(
		file{Name: ".", Type: tar.TypeDir, Mode: 0o750, UID: 7},
		file{Name: "bin", Type: tar.TypeDir, Mode: 0o755},
		file{Name: "bin/su", Body: "x", Mode: 0o4755, UID: 0, GID: 50},
		file{Name: "bin/ping", Body: "y", Mode: 0o755, PAX: map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "n"}},
		file{Name: "bin/su2", Type: tar.TypeLink, Link: "bin/su", Mode: 0o4755, GID: 50},
		file{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777},
		file{Name: "abs", Type: tar.TypeSymlink, Link: "/bin/su", UID: 9},
		file{Name: "boot/vmlinuz-6.1", Body: "kernel"},
		file{Name: "lib", Type: tar.TypeSymlink, Link: "usr/lib"},
		file{Name: "usr/lib/modules/6.1/vmlinuz", Body: "kernel"},
		file{Name: "usr/lib/modules/6.1/ext4.ko", Body: "module"},
	))
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) *syscall.Stat_t {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return statOf(info)
	}
	if st := stat("bin/su"); st.Mode&0o7777 != 0o4755 || st.Gid != 50 || st.Nlink != 2 || st.Mtim.Sec != 1_700_000_000 {
		t.Errorf("su: %o %d:%d links %d", st.Mode, st.Uid, st.Gid, st.Nlink)
	}
	if st := stat("."); st.Mode&0o7777 != 0o750 || st.Uid != 7 {
		t.Errorf("root: %o %d", st.Mode, st.Uid)
	}
	if st := stat("tmp"); st.Mode&0o7777 != 0o1777 || st.Mtim.Sec != 1_700_000_000 {
		t.Errorf("tmp: %o", st.Mode)
	}
	if st := stat("bin"); st.Mtim.Sec != 1_700_000_000 {
		t.Errorf("bin was modified at %v", time.Unix(st.Mtim.Sec, 0))
	}
	if target, err := os.Readlink(filepath.Join(root, "abs")); err != nil || target != "/bin/su" || stat("abs").Uid != 9 {
		t.Errorf("link: %s %v", target, err)
	}
	buf := make([]byte, 64)
	if n, err := unix.Lgetxattr(filepath.Join(root, "bin/ping"), "security.capability", buf); err != nil || string(buf[:n]) != capability {
		t.Errorf("capability: %q %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Lgetxattr(filepath.Join(root, "bin/ping"), "user.note", buf); err != nil || string(buf[:n]) != "n" {
		t.Errorf("user attribute: %q %v", buf[:max(n, 0)], err)
	}
	if wrong := hasNot("boot/vmlinuz-6.1", "usr/lib/modules/6.1/vmlinuz")(root); wrong != "" {
		t.Error(wrong)
	}
	if wrong := has("usr/lib/modules/6.1/ext4.ko", "boot")(root); wrong != "" {
		t.Error(wrong)
	}
	if len(record.Warnings) != 2 || record.Bytes != 20 || !strings.Contains(record.Warnings[0], "kernel /boot/vmlinuz-6.1") {
		t.Errorf("record %+v", record)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// TestLayersAsOverlay makes layers with everything that whiteouts can do and compares what overlayfs shows of them
// with what the specification says, and with what view sees without a mount.
func TestKernelsAreNamedWithinBounds(t *testing.T) {
	files := []file{{Name: "boot/vmlinuz-\x1b[2J", Body: "kernel"}}
	for i := range 30 {
		files = append(files, file{Name: fmt.Sprintf("boot/vmlinuz-z%d", i), Body: "kernel"})
	}
	root, record, err := unpackTo(t, newStore(t), imagetest.Tar(files...))
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "boot")); err != nil || len(left) > 0 {
		t.Errorf("left in /boot: %v %v", left, err)
	}
	want := []string{"the kernel /boot/vmlinuz- [2J was left out: a container runs on the server's", "23 more kernels were left out"}
	if n := len(record.Warnings); n != 9 || record.Warnings[0] != want[0] || record.Warnings[n-1] != want[1] {
		t.Errorf("warnings %q", record.Warnings)
	}
}

func TestLayersAsOverlay(t *testing.T) {
	needRoot(t)
	dir := func(name string) file { return file{Name: name, Type: tar.TypeDir} }
	layers := [][]file{
		{
			dir("etc"),
			{Name: "etc/keep", Body: "1"},
			{Name: "etc/gone", Body: "1"},
			dir("etc/conf"),
			{Name: "etc/conf/old", Body: "1"},
			dir("var"), dir("var/cache"),
			{Name: "var/cache/a", Body: "1"},
			dir("swap"),
			{Name: "swap/old", Body: "1"},
			{Name: "swap2", Body: "1"},
			dir("usr"), dir("usr/lib"),
			{Name: "usr/lib/one", Body: "1"},
			{Name: "lib", Type: tar.TypeSymlink, Link: "usr/lib"},
			{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777, UID: 3},
			{Name: "same", Body: "1"},
			dir("late"),
			{Name: "late/old", Body: "1"},
		},
		{
			{Name: "etc/.wh.gone"},
			{Name: "etc/conf/.wh..wh..opq"},
			{Name: "etc/conf/new", Body: "2"},
			{Name: "var/.wh.cache"},
			dir("var/cache"),
			{Name: "var/cache/b", Body: "2"}, // a directory anew
			{Name: ".wh.swap"},
			{Name: "swap", Body: "2"},
			{Name: ".wh.swap2"},
			dir("swap2"),
			{Name: "swap2/in", Body: "2"},
			{Name: "lib/two", Body: "2"},  // through the link below
			{Name: "tmp/file", Body: "2"}, // without an entry for tmp
			{Name: "same", Body: "2"},
			{Name: ".wh.same"}, // in one layer the file stays
			{Name: "late/new", Body: "2"},
			{Name: "late/.wh..wh..opq"}, // the marker may come last
			{Name: ".wh.never-there"},
		},
		{{Name: "etc/.wh.conf"}, {Name: "etc/third", Body: "3"}, {Name: "var/cache/.wh.b"}},
	}
	want := "etc/keep=1 etc/third=3 late/new=2 lib->usr/lib same=2 swap2/in=2 swap=2 tmp/file=2 usr/lib/one=1 usr/lib/two=2"

	var imgLayers []v1.Layer
	for _, l := range layers {
		imgLayers = append(imgLayers, imagetest.Layer(t, imagetest.Tar(l...)))
	}
	reg := newRegistry(t)
	imagetest.Push(t, reg.host+"/x:1", imagetest.Image(t, v1.Config{}, imgLayers...))
	img := ensure(t, newStore(t), reg.host+"/x:1")

	if got := seen(t, view{img.Layers}); got != want {
		t.Errorf("view:\n%s\nwant:\n%s", got, want)
	}
	merged := t.TempDir()
	if err := unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+strings.Join(img.Layers, ":")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	}()
	if got := seen(t, view{[]string{merged}}); got != want {
		t.Errorf("overlay:\n%s\nwant:\n%s", got, want)
	}
	info, err := os.Stat(filepath.Join(merged, "tmp"))
	if err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 || statOf(info).Uid != 3 {
		t.Errorf("a directory that a layer takes for granted lost its mode: %v %v", info.Mode(), err)
	}
}

// seen lists the files and links of a view, directories by what is in them.
func seen(t *testing.T, v view) string {
	t.Helper()
	var got []string
	names := map[string]bool{}
	for _, l := range v.layers {
		if err := filepath.WalkDir(l, func(p string, _ fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(l, p)
			names[rel] = true
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for name := range names {
		n, err := v.lstat(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case n.info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(n.at[0])
			got = append(got, name+"->"+target)
		case n.info.Mode().IsRegular():
			b, err := v.readFile(name, 100)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, name+"="+string(b))
		case !n.info.IsDir():
			got = append(got, name+" is odd")
		}
	}
	return strings.Join(sorted(got), " ")
}

func TestZstdAndPlainLayers(t *testing.T) {
	archive := imagetest.Tar(file{Name: "hello", Body: "x"})
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	reg := newRegistry(t)
	for mediaType, b := range map[types.MediaType][]byte{types.OCILayerZStd: packed.Bytes(), types.OCIUncompressedLayer: archive, types.DockerLayer: archive} {
		base := imagetest.Image(t, v1.Config{}, static.NewLayer(archive, types.OCIUncompressedLayer))
		cfg, err := base.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.Append(base, mutate.Addendum{Layer: static.NewLayer(b, mediaType), MediaType: mediaType})
		if err != nil {
			t.Fatal(err)
		}
		diffs := append([]v1.Hash{}, cfg.RootFS.DiffIDs...)
		broken, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		broken = broken.DeepCopy()
		broken.RootFS.DiffIDs = append(diffs, diffs[0])
		if img, err = mutate.ConfigFile(img, broken); err != nil {
			t.Fatal(err)
		}
		ref := reg.host + "/x:1"
		imagetest.Push(t, ref, img)
		got, err := newStore(t).Ensure(t.Context(), Request{Ref: ref})
		if err != nil || read(t, got, "hello") != "x" || len(got.Layers) != 2 {
			t.Errorf("%s: %v", mediaType, err)
		}
	}
}

func TestWrongDiffID(t *testing.T) {
	reg := newRegistry(t)
	img := simple(t, "x")
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64)
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	imagetest.Push(t, reg.host+"/x:1", img)
	s := newStore(t)
	_, err = s.Ensure(t.Context(), Request{Ref: reg.host + "/x:1"})
	if !runtime.IsPermanent(err) || runtime.ReasonOf(err) != runtime.ReasonInvalidImage || !strings.Contains(err.Error(), "another digest") {
		t.Fatalf("%v", err)
	}
	leftovers(t, s)
}

func TestGzipBomb(t *testing.T) {
	// 64 MiB of zeros behind the end of the archive: the size of no file tells of them.
	layer := imagetest.Layer(t, append(imagetest.Tar(file{Name: "f", Body: "x"}), make([]byte, 64<<20)...))
	reg := newRegistry(t)
	imagetest.Push(t, reg.host+"/x:1", imagetest.Image(t, v1.Config{}, layer))
	s := newStore(t, func(o *Options) { o.MaxLayerSize = 1 << 20 })
	_, err := s.Ensure(t.Context(), Request{Ref: reg.host + "/x:1"})
	if !runtime.IsPermanent(err) || !strings.Contains(err.Error(), "unpacks to more") {
		t.Fatalf("%v", err)
	}
}
