package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// registryAt is where docker-registry listens in the network namespace that is ours alone.
const registryAt = "127.0.0.1:5000"

// pulls measures an image of ten layers from a registry on loopback, ours and podman's in turn, each into an empty store.
func (b *bench) pulls() (err error) {
	ref := registryAt + "/ten:1"
	if err = b.bigImage(ref); err != nil {
		return err
	}
	env, dir, err := b.podmanAt("podman-pull")
	if err != nil {
		return err
	}
	n, err := b.newNode("image")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(n.dir), os.RemoveAll(dir), os.RemoveAll(runOf(dir))) }()
	type puller struct {
		who, program string
		env          []string
		args         []string
	}
	both := []puller{
		{ours, b.reconciler, n.env, []string{"image", "pull", ref}},
		{pull, "/usr/bin/podman", env, []string{"pull", "--quiet", "--tls-verify=false", ref}},
	}
	if b.run%2 == 0 { // who is first finds the registry less warm
		slices.Reverse(both)
	}
	for _, one := range both {
		unix.Sync() // what others wrote is not for this one to wait for
		took, most, pullErr := b.withPeak(one.env, one.program, one.args...)
		if pullErr != nil {
			return pullErr
		}
		b.set("image", one.who, millis(took))
		b.set("image-peak", one.who, most)
	}
	_, _, err = b.do(env, "/usr/bin/podman", "rmi", "--all", "--force")
	return err
}

func (b *bench) startRegistry() (*daemon, error) {
	config := filepath.Join(b.dir, "registry.yaml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n",
		filepath.Join(b.dir, "registry"), registryAt)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, err
	}
	listens := func() bool {
		c, err := net.Dial("tcp", registryAt)
		if err == nil {
			_ = c.Close() // it was only asked whether it is there
		}
		return err == nil
	}
	return b.startDaemon(listens, "/usr/bin/docker-registry", "serve", config)
}

// bigImage pushes an image of ten layers, 50 MB each in 250 files of which half compresses well, unless it is there.
func (b *bench) bigImage(reference string) error {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return err
	}
	if _, err = remote.Head(ref); err == nil {
		return nil
	}
	var layers []v1.Layer
	for i := range 10 {
		path := filepath.Join(b.dir, fmt.Sprintf("layer-%d.tar.gz", i))
		if err = writeLayer(path, i); err != nil {
			return err
		}
		defer func() { _ = os.Remove(path) }() // it is in the registry
		l, layerErr := tarball.LayerFromFile(path)
		if layerErr != nil {
			return layerErr
		}
		layers = append(layers, l)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return err
	}
	_, err = push(ref, img)
	return err
}

// smallImage pushes an image of the files that every container of ours and of others has, and returns it with its digest.
func (b *bench) smallImage(reference string) (string, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return "", err
	}
	path, err := b.imageFile()
	if err != nil {
		return "", err
	}
	layer, err := tarball.LayerFromFile(path)
	if err != nil {
		return "", err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return "", err
	}
	digest, err := push(ref, img)
	return reference + "@" + digest, err
}

// push makes an image one for this machine and writes it.
func push(ref name.Reference, img v1.Image) (digest string, err error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return "", err
	}
	hash, err := img.Digest()
	if err != nil {
		return "", err
	}
	return hash.String(), remote.Write(ref, img)
}

func writeLayer(path string, number int) error {
	const files, size = 250, 200_000
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(file)
	w := tar.NewWriter(zip)
	random := rand.NewChaCha8([32]byte{byte(number)})
	body := make([]byte, size)
	for i := range files {
		if _, err := io.ReadFull(random, body[:size/2]); err != nil {
			return err
		}
		for at := size / 2; at < size; at++ {
			body[at] = "what compresses well\n"[at%21]
		}
		h := &tar.Header{Name: fmt.Sprintf("layer%d/file%03d", number, i), Mode: 0o644, Size: size, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(body); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), zip.Close(), file.Close())
}
