package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// The transports that name files of the commit, in skopeo's words.
const (
	transportOCI           = "oci"
	transportOCIArchive    = "oci-archive"
	transportDockerArchive = "docker-archive"
)

// isLocal reports whether a reference names files and not a registry.
func isLocal(ref string) bool {
	kind, _, ok := strings.Cut(ref, ":")
	return ok && (kind == transportOCI || kind == transportOCIArchive || kind == transportDockerArchive)
}

// files are an image layout, or an unpacked docker-archive, that is imported.
type files struct{ fsys fs.FS }

// open opens one of the files. Anything but a regular file is refused before: a pipe would never be read to its end.
func (f files) open(name string) (fs.File, error) {
	info, err := fs.Stat(f.fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, badImage("%q in it is not a file", clip(name))
	}
	return f.fsys.Open(name)
}

// readSmall reads a JSON file of bounded size.
func (f files) readSmall(name string) ([]byte, error) {
	file, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(io.LimitReader(file, maxJSON+1))
	if err == nil && len(b) > maxJSON {
		err = badImage("%s is larger than %d MiB", clip(name), maxJSON>>20)
	}
	return b, err
}

// importTree brings an image of the commit's tree into the store.
func (s *Store) importTree(ctx context.Context, r Request, want runtime.Platform) (Image, error) {
	kind, rest, _ := strings.Cut(r.Ref, ":")
	name, tag, _ := strings.Cut(rest, ":")
	name = path.Clean(name)
	if !fs.ValidPath(name) {
		return Image{}, badImage("%q is not a path below the repository's root", rest)
	}
	l, err := s.newLease()
	if err != nil {
		return Image{}, err
	}
	defer l.end()
	var src files
	if kind == transportOCI {
		if src.fsys, err = fs.Sub(r.Tree, name); err != nil {
			return Image{}, err
		}
	} else {
		f, openErr := files{r.Tree}.open(name)
		if openErr != nil {
			return Image{}, treeError(openErr)
		}
		defer func() { _ = f.Close() }()
		t, tempErr := s.newTemp(filepath.Join(s.images, "tmp"))
		if tempErr != nil {
			return Image{}, tempErr
		}
		defer t.remove()
		var root *os.Root
		if src, root, err = s.spread(ctx, f, t); err != nil {
			return Image{}, err
		}
		defer func() { _ = root.Close() }()
	}
	found, err := s.contents(l, src, kind == transportDockerArchive)
	if err != nil {
		return Image{}, treeError(err)
	}
	d, err := pick(found, tag, want)
	if err != nil {
		return Image{}, err
	}
	return s.importOne(ctx, l, src, d, r.Ref, r.Digest, want)
}

// treeError makes an error of the tree one that says what a person can do.
func treeError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return badImage("%s: paths are relative to the repository's root", clip(err.Error()))
	}
	return err
}

// spread unpacks an archive of an image into a temporary directory. It treats it like a layer: a stranger's tar.
func (s *Store) spread(ctx context.Context, r io.Reader, t *temp) (files, *os.Root, error) {
	plain, err := decompress(r)
	if err != nil {
		return files{}, nil, badImage("it is not an archive of an image: %s", err)
	}
	defer plain.Close()
	dir := filepath.Join(t.dir, "archive")
	failpoint.Here("import: no directory for the archive")
	if err = os.Mkdir(dir, 0o700); err != nil {
		return files{}, nil, err
	}
	failpoint.Here("import: the archive not spread")
	if _, err = s.unpack(ctx, &boundedReader{r: plain, left: s.opts.MaxLayerSize, what: "archive"}, dir, nil); err != nil {
		return files{}, nil, err
	}
	failpoint.Here("import: the archive spread")
	root, err := os.OpenRoot(dir)
	if err != nil {
		return files{}, nil, err
	}
	return files{root.FS()}, root, nil
}

// contents lists the images of a layout or docker-archive. Names are in the annotation refName.
func (s *Store) contents(l *lease, src files, docker bool) ([]v1.Descriptor, error) {
	name := "index.json"
	if docker {
		name = "manifest.json"
	}
	b, err := src.readSmall(name)
	if err != nil {
		return nil, err
	}
	if docker {
		return s.dockerContents(l, src, b)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return nil, badImage("index.json is not valid: %s", clip(err.Error()))
	}
	for i, d := range index.Manifests {
		if n := d.Annotations["io.containerd.image.name"]; n != "" {
			index.Manifests[i].Annotations[refName] = n
		}
	}
	return index.Manifests, nil
}

// dockerImage is one entry of a docker-archive's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerContents makes an OCI manifest of each image of a docker-archive, which has none. Its blobs move to the store.
func (s *Store) dockerContents(l *lease, src files, b []byte) ([]v1.Descriptor, error) {
	var images []dockerImage
	if err := json.Unmarshal(b, &images); err != nil {
		return nil, badImage("manifest.json is not valid: %s", clip(err.Error()))
	}
	var found []v1.Descriptor
	moved := map[string]v1.Descriptor{}
	take := func(name string) (v1.Descriptor, error) {
		name = path.Clean(name)
		if d, ok := moved[name]; ok {
			return d, nil
		}
		d, err := s.takeFile(l, src, name)
		moved[name] = d
		return d, err
	}
	for _, img := range images {
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
		var err error
		if m.Config, err = take(img.Config); err != nil {
			return nil, err
		}
		m.Config.MediaType = types.OCIConfigJSON
		for _, layer := range img.Layers {
			var d v1.Descriptor
			if d, err = take(layer); err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, d)
		}
		d, err := s.putJSON(m, m.MediaType)
		if err != nil {
			return nil, err
		}
		if len(img.RepoTags) == 0 {
			found = append(found, d)
		}
		for _, tag := range img.RepoTags {
			named := d
			named.Annotations = map[string]string{refName: tag}
			found = append(found, named)
		}
	}
	return found, nil
}

// takeFile moves a file whose digest is not known yet into the store.
func (s *Store) takeFile(l *lease, src files, name string) (v1.Descriptor, error) {
	if !fs.ValidPath(name) {
		return v1.Descriptor{}, badImage("manifest.json names %q", clip(name))
	}
	f, err := src.open(name)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer func() { _ = f.Close() }()
	var head bytes.Buffer
	h, size, err := v1.SHA256(io.TeeReader(f, &headWriter{&head}))
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{Digest: h, Size: size, MediaType: types.OCIUncompressedLayer}
	switch {
	case bytes.HasPrefix(head.Bytes(), []byte{0x1f, 0x8b}):
		d.MediaType = types.OCILayer
	case bytes.HasPrefix(head.Bytes(), []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d.MediaType = types.OCILayerZStd
	}
	return d, s.copyBlob(l, src, d, name)
}

// headWriter keeps the first bytes that are written to it.
type headWriter struct{ b *bytes.Buffer }

// Write implements io.Writer.
func (w *headWriter) Write(p []byte) (int, error) {
	if n := 4 - w.b.Len(); n > 0 {
		w.b.Write(p[:min(n, len(p))])
	}
	return len(p), nil
}

// copyBlob brings one file of an import into the store as blob d, whose digest is checked.
func (s *Store) copyBlob(l *lease, src files, d v1.Descriptor, name string) error {
	if size, err := s.blobSize(d.Digest); err == nil && size == d.Size && s.touch(l, s.blobPath(d.Digest)) == nil {
		return nil
	}
	in, err := src.open(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	t, err := s.newTemp(filepath.Join(s.images, "tmp"))
	if err != nil {
		return err
	}
	defer t.remove()
	file := filepath.Join(t.dir, "blob")
	failpoint.Here("import: nothing of a blob")
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }()
	hasher, err := v1.Hasher(d.Digest.Algorithm)
	if err != nil {
		return badImage("blob %s: %s", d.Digest, err)
	}
	failpoint.Here("import: an empty file")
	n, err := io.Copy(io.MultiWriter(out, hasher), io.LimitReader(in, d.Size+1))
	if err != nil {
		return err
	}
	if n != d.Size || fmt.Sprintf("%x", hasher.Sum(nil)) != d.Digest.Hex {
		return badImage("%s: its content has another digest or size than %s with %d bytes", clip(name), d.Digest, d.Size)
	}
	failpoint.Here("import: a blob, not synced")
	if err := out.Sync(); err != nil {
		return err
	}
	if err := s.adopt(file, d.Digest); err != nil {
		return err
	}
	l.verified(d.Digest)
	return s.touch(l, s.blobPath(d.Digest))
}

// pick chooses among the images of an import by tag and platform.
func pick(found []v1.Descriptor, tag string, want runtime.Platform) (v1.Descriptor, error) {
	var names []string
	matching := slices.DeleteFunc(slices.Clone(found), func(d v1.Descriptor) bool {
		name := d.Annotations[refName]
		if name != "" {
			names = append(names, name)
		}
		return tag != "" && name != tag && sameName(name) != sameName(tag)
	})
	slices.Sort(names)
	there := strings.Join(slices.Compact(names), ", ")
	switch {
	case len(matching) == 0 && tag == "":
		return v1.Descriptor{}, badImage("there is no image in it")
	case len(matching) == 0:
		return v1.Descriptor{}, badImage("there is no image %q in it, but %s", tag, there)
	case len(matching) == 1:
		return matching[0], nil
	}
	first := matching[0].Digest
	if !slices.ContainsFunc(matching, func(d v1.Descriptor) bool { return d.Digest != first }) {
		return matching[0], nil // one image by several names
	}
	d, err := choose(&v1.IndexManifest{Manifests: matching}, want)
	if err != nil && tag == "" && there != "" {
		return d, badImage("there are several images in it, add :TAG to say which: %s", there)
	}
	return d, err
}

// sameName is a name in full, or "" for what is not one.
func sameName(n string) string {
	full, err := fullName(n)
	if err != nil {
		return ""
	}
	return full
}

// importOne brings one image of a layout into the store under a name.
func (s *Store) importOne(ctx context.Context, l *lease, src files, d v1.Descriptor, ref, digest string, want runtime.Platform) (Image, error) {
	var raw []byte
	for depth := 0; ; depth++ {
		b, err := src.readSmall(blobName(d.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			b, err = s.readBlob(d.Digest) // made of a docker-archive, or shared with what is here
		}
		if err != nil {
			return Image{}, err
		}
		if !hashes(b, d.Digest) {
			return Image{}, badImage("%s: its content has another digest", blobName(d.Digest))
		}
		if !d.MediaType.IsIndex() {
			raw = b
			break
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(b))
		if err != nil || depth >= maxIndexes {
			return Image{}, badImage("its index is not valid or nested too deep")
		}
		if d, err = choose(index, want); err != nil {
			return Image{}, err
		}
	}
	if digest != "" && digest != d.Digest.String() {
		return Image{}, badImage("it has the digest %s now, %s is wanted and not on this server", d.Digest, digest)
	}
	m, err := parseManifest(raw)
	if err != nil {
		return Image{}, err
	}
	if err = s.bring(ctx, l, m, want, func(_ context.Context, blob v1.Descriptor) error {
		copyErr := s.copyBlob(l, src, blob, blobName(blob.Digest))
		if errors.Is(copyErr, fs.ErrNotExist) {
			return badImage("%s is missing in it", blobName(blob.Digest))
		}
		return copyErr
	}); err != nil {
		return Image{}, err
	}
	if err = s.putBlob(d.Digest, raw); err != nil {
		return Image{}, err
	}
	d.Size = int64(len(raw))
	if err = s.record(ref, d, want); err != nil {
		return Image{}, err
	}
	img, whole, err := s.load(d.Digest, ref)
	if err == nil && !whole {
		err = fmt.Errorf("it was removed while it was imported: %w", fs.ErrNotExist)
	}
	return img, err
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
