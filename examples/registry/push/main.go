package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	goruntime "runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: push REFERENCE GREETING")
		os.Exit(2)
	}
	digest, err := push(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
	fmt.Println(os.Args[1], digest)
}

// push makes the image and returns its digest.
func push(reference, greeting string) (v1.Hash, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return v1.Hash{}, err
	}
	files, err := layer()
	if err != nil {
		return v1.Hash{}, err
	}
	img, err := mutate.AppendLayers(empty.Image, files)
	if err != nil {
		return v1.Hash{}, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return v1.Hash{}, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	cfg.Config = v1.Config{
		Entrypoint: []string{"/bin/hello"}, Cmd: []string{"from cmd"},
		Env: []string{"PATH=/bin", "GREETING=" + greeting}, User: "app", WorkingDir: "/srv",
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return v1.Hash{}, err
	}
	if err := remote.Write(ref, img); err != nil {
		return v1.Hash{}, err
	}
	return img.Digest()
}

// layer returns the files of the image: busybox, a shell, a program and a user.
func layer() (v1.Layer, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("busybox-static is needed: %w", err)
	}
	hello := "#!/bin/sh\necho \"$GREETING $* as $(id -un) in $PWD\"\nexec sleep 3600\n"
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err = errors.Join(
		add(w, tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, nil),
		add(w, tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, nil),
		add(w, tar.Header{Name: "srv/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1000, Gid: 1000}, nil),
		add(w, tar.Header{Name: "bin/busybox", Mode: 0o755}, busybox),
		add(w, tar.Header{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil),
		add(w, tar.Header{Name: "bin/hello", Mode: 0o755}, []byte(hello)),
		add(w, tar.Header{Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0::/:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n")),
		add(w, tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\napp:x:1000:\n")),
		w.Close(),
	)
	if err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
}

func add(w *tar.Writer, header tar.Header, content []byte) error {
	header.Size = int64(len(content))
	if header.Typeflag == 0 {
		header.Typeflag = tar.TypeReg
	}
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}
