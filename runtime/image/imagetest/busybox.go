package imagetest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// File is one entry of a layer.
type File struct {
	Name string // relative
	Type byte   // as in archive/tar; zero: a regular file
	Body string
	Link string
	Mode int64 // zero: 0644, 0755 for a directory
	UID  int
	GID  int
	PAX  map[string]string
}

// Tar makes an archive of files, in their order. It needs no testing.TB and may be used by fuzzers.
func Tar(files ...File) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{
			Name: f.Name, Typeflag: f.Type, Linkname: f.Link, Mode: f.Mode, Uid: f.UID, Gid: f.GID,
			ModTime: time.Unix(1_700_000_000, 0), PAXRecords: f.PAX, Format: tar.FormatPAX,
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(f.Body))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
			if h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err) // the test's own mistake
		}
		if _, err := io.WriteString(w, f.Body[:h.Size]); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Layer makes a layer, compressed with gzip, of an archive.
func Layer(t testing.TB, archive []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Image makes an image for this machine's platform of layers and a configuration.
func Image(t testing.TB, cfg v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", goruntime.GOARCH, cfg
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// Busybox makes an image with this machine's static busybox, a link for each of its applets, the users root, nobody
// and app (1000, group staff 50), and what cfg says; files are added in a second layer. Without a static busybox on
// this machine the test is skipped.
func Busybox(t testing.TB, cfg v1.Config, files ...File) v1.Image {
	t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs /bin/busybox, from the package busybox-static")
	}
	list, err := exec.CommandContext(t.Context(), "/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatalf("list the applets of busybox: %v", err)
	}
	layer := []File{
		{Name: "bin", Type: tar.TypeDir},
		{Name: "bin/busybox", Mode: 0o755, Body: string(program)},
		{Name: "etc", Type: tar.TypeDir},
		{Name: "etc/passwd", Body: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\napp:x:1000:50:app:/home/app:/bin/sh\n"},
		{Name: "etc/group", Body: "root:x:0:\nstaff:x:50:\nnogroup:x:65534:\naudio:x:29:app\n"},
		{Name: "home", Type: tar.TypeDir},
		{Name: "home/app", Type: tar.TypeDir, UID: 1000, GID: 50},
		{Name: "root", Type: tar.TypeDir, Mode: 0o700},
		{Name: "tmp", Type: tar.TypeDir, Mode: 0o1777},
	}
	for _, dir := range []string{"dev", "proc", "run", "sys", "var"} {
		layer = append(layer, File{Name: dir, Type: tar.TypeDir})
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet != "busybox" {
			layer = append(layer, File{Name: "bin/" + applet, Type: tar.TypeSymlink, Link: "busybox"})
		}
	}
	layers := []v1.Layer{Layer(t, Tar(layer...))}
	if len(files) > 0 {
		layers = append(layers, Layer(t, Tar(files...)))
	}
	if cfg.Env == nil {
		cfg.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	if cfg.Cmd == nil && cfg.Entrypoint == nil {
		cfg.Cmd = []string{"sh"}
	}
	return Image(t, cfg, layers...)
}

// Push pushes an image to a reference and returns its digest.
func Push(t testing.TB, ref string, img v1.Image, opts ...remote.Option) string {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err = remote.Write(r, img, append(opts, remote.WithContext(t.Context()))...); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// Archive writes an image as a docker-archive and returns the file's name.
func Archive(t testing.TB, ref string, img v1.Image) string {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	return file
}
