package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// filter makes of a layer's archive one that holds nothing but what a root file system needs.
type filter struct {
	ctx        context.Context //nolint:containedctx // it lives as long as one call of unpack
	below      view
	maxBytes   int64
	maxEntries int

	have    map[string]bool   // directories and symbolic links of this layer so far; true for directories
	dropped map[string]bool   // files that were left out, which hard links may name
	moved   map[string]string // directories that are symbolic links in the layers below, and where these lead

	root      *tar.Header
	whiteouts []string
	opaque    []string
	devices   int

	bytes    int64
	entries  int
	names    int // bytes of all names that are remembered
	warnings []string
	out      *tar.Writer
}

func (f *filter) run(in *tar.Reader, w io.Writer) error {
	f.out = tar.NewWriter(w)
	buf := make([]byte, 64<<10)
	for {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		failpoint.Here("layer: an entry more")
		keep, err := f.entry(hdr)
		if err != nil {
			return err
		}
		if keep == nil {
			continue
		}
		if err := f.out.WriteHeader(keep); err != nil {
			return writeError(keep.Name, err)
		}
		if keep.Typeflag == tar.TypeReg {
			if _, err := io.CopyBuffer(onlyWriter{f.out}, onlyReader{in}, buf); err != nil {
				return err
			}
		}
	}
	if f.devices > 0 {
		f.warnings = append(f.warnings, fmt.Sprintf("%d device nodes were left out: a container has a /dev of its own", f.devices))
	}
	return f.out.Close()
}

// writeError tells a header that cannot be written from a reader that has gone.
func writeError(name string, err error) error {
	if errors.Is(err, errUnpackFailed) {
		return err
	}
	return badImage("layer entry %q: %s", clip(name), err)
}

// onlyWriter and onlyReader keep io.Copy from making holes of a sparse file's zeros by itself.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// entry decides on one entry. It returns nil for one that is left out.
func (f *filter) entry(hdr *tar.Header) (*tar.Header, error) {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	if f.entries++; f.entries > f.maxEntries {
		return nil, badImage("layer has more than the %d files that are allowed", f.maxEntries)
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return nil, err
	}
	if err = f.remember(name); err != nil {
		return nil, err
	}
	if hdr.Uid < 0 || hdr.Gid < 0 || int64(hdr.Uid) >= 1<<32-1 || int64(hdr.Gid) >= 1<<32-1 {
		return nil, badImage("layer entry %q: owner %d:%d is out of range", clip(name), hdr.Uid, hdr.Gid)
	}
	if name == "." {
		if hdr.Typeflag == tar.TypeDir {
			f.root = hdr
		}
		return nil, nil
	}
	dir, base := path.Split(name)
	if strings.Contains("/"+dir, "/"+whiteoutPrefix) {
		if strings.Contains("/"+dir, "/"+whiteoutMeta) {
			return nil, nil // bookkeeping of AUFS
		}
		return nil, badImage("layer entry %q: below a whiteout", clip(name))
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return nil, f.whiteout(path.Clean(dir), base)
	}
	out := &tar.Header{
		Typeflag: hdr.Typeflag, Name: name, Mode: hdr.Mode & 0o7777, Uid: hdr.Uid, Gid: hdr.Gid,
		ModTime: hdr.ModTime, Format: tar.FormatPAX, PAXRecords: keptXattrs(hdr.PAXRecords),
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		out.Typeflag, out.Size = tar.TypeReg, hdr.Size
		if hdr.Size < 0 || hdr.Size > f.maxBytes-f.bytes {
			return nil, badImage("layer unpacks to more than the %d bytes that are allowed", f.maxBytes)
		}
		f.bytes += hdr.Size
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink:
		out.Linkname = hdr.Linkname
		out.PAXRecords = nil
	case tar.TypeLink:
		var target string
		if target, err = cleanName(hdr.Linkname); err != nil {
			return nil, err
		}
		if f.dropped[target] {
			f.dropped[name] = true
			return nil, nil
		}
		if target, err = f.place(target); err != nil {
			return nil, err
		}
		out.Linkname = target
	case tar.TypeChar, tar.TypeBlock:
		f.dropped[name] = true
		f.devices++
		return nil, nil
	default:
		return nil, badImage("layer entry %q: unknown type %q", clip(name), hdr.Typeflag)
	}
	if out.Name, err = f.place(name); err != nil {
		return nil, err
	}
	delete(f.dropped, name)
	switch out.Typeflag {
	case tar.TypeDir:
		f.have[out.Name] = true
	case tar.TypeSymlink:
		f.have[out.Name] = false
	default:
		delete(f.have, out.Name)
	}
	return out, nil
}

// remember counts what keeping a name costs, in all: an archive of names compresses to nothing, memory does not.
func (f *filter) remember(name string) error {
	if f.names += len(name); f.names > f.maxEntries*meanName {
		return badImage("layer has longer names than the %d files that are allowed can have", f.maxEntries)
	}
	return nil
}

// meanName is how long names may be on average, in bytes, if there are as many as are allowed. Of Debian's it is 60.
const meanName = 128

// cleanName makes a name of an archive relative to the root. One that climbs out is refused, not bent: no honest tool
// writes it.
func cleanName(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", badImage("layer entry without a name")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == "" || clean == "/" {
		clean = "."
	}
	if !filepath.IsLocal(clean) {
		return "", badImage("layer entry %q: leads out of the image", clip(name))
	}
	if len(clean) >= unix.PathMax {
		return "", badImage("layer entry %q: longer than the %d bytes of a path", clip(name), unix.PathMax)
	}
	return clean, nil
}

// whiteout remembers what base says of dir.
func (f *filter) whiteout(dir, base string) error {
	switch {
	case base == whiteoutOpaque:
		placed, err := f.placeDir(dir)
		if err != nil {
			return err
		}
		f.opaque = append(f.opaque, placed)
	case strings.HasPrefix(base, whiteoutMeta):
	default:
		hidden := strings.TrimPrefix(base, whiteoutPrefix)
		if hidden == "" || hidden == "." || hidden == ".." {
			return badImage("layer entry %q: not a whiteout of anything", clip(path.Join(dir, base)))
		}
		name, err := f.place(path.Join(dir, hidden))
		if err != nil {
			return err
		}
		f.whiteouts = append(f.whiteouts, name)
	}
	return nil
}

// place makes sure that the directory of name was passed on before name is, and returns what name is called when the
// links of the layers below are followed.
func (f *filter) place(name string) (string, error) {
	dir, base := path.Split(name)
	placed, err := f.placeDir(path.Clean(dir))
	return path.Join(placed, base), err
}

// placeDir passes on a directory that the archive takes for granted, as it is in the layers below: without its own
// entry it would hide their owner and mode, and a directory in the place of their link would hide all behind it.
func (f *filter) placeDir(dir string) (string, error) {
	if dir == "." || dir == "" {
		return ".", nil
	}
	if _, ok := f.have[dir]; ok {
		return dir, nil
	}
	if to, ok := f.moved[dir]; ok {
		return to, nil
	}
	name, err := f.place(dir)
	if err != nil {
		return "", err
	}
	if _, ok := f.have[name]; ok {
		return name, nil
	}
	hdr := &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, Format: tar.FormatPAX, ModTime: time.Unix(0, 0)}
	if n, err := f.below.lstat(name); err == nil {
		if n.info.Mode()&fs.ModeSymlink != 0 {
			if to, err := f.below.resolve(name); err == nil && to.info.IsDir() && to.name != "." {
				placed, err := f.placeDir(to.name)
				if err != nil {
					return "", err
				}
				f.moved[dir] = placed
				return placed, nil
			}
		} else if n.info.IsDir() {
			hdr = headerOf(name, n.info)
		}
	}
	f.have[name] = true
	if err := f.remember(name); err != nil {
		return "", err
	}
	if f.entries++; f.entries > f.maxEntries {
		return "", badImage("layer has more than the %d files that are allowed", f.maxEntries)
	}
	if err := f.out.WriteHeader(hdr); err != nil {
		return "", writeError(name, err)
	}
	return name, nil
}

// headerOf describes a directory of a layer below.
func headerOf(name string, info fs.FileInfo) *tar.Header {
	hdr := &tar.Header{Typeflag: tar.TypeDir, Name: name, Format: tar.FormatPAX, ModTime: info.ModTime(), Mode: int64(info.Mode().Perm())}
	if st := statOf(info); st != nil {
		hdr.Uid, hdr.Gid, hdr.Mode = int(st.Uid), int(st.Gid), int64(st.Mode&0o7777)
	}
	return hdr
}

// keptXattrs leaves the extended attributes that mean the same in a container: file capabilities, access lists and
// the users' own. What overlayfs reads on our layers is ours to write, and labels are the host's.
func keptXattrs(records map[string]string) map[string]string {
	var kept map[string]string
	for k, v := range records {
		if attr, ok := strings.CutPrefix(k, xattrRecord); ok && keepXattr(attr) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}

func keepXattr(attr string) bool {
	switch attr {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(attr, "user.") && !strings.HasPrefix(attr, "user.overlay.")
}

// opaqueXattr marks a directory that hides what is below. Only root may set the one that overlayfs reads by default.
func opaqueXattr() string {
	if os.Geteuid() == 0 {
		return "trusted.overlay.opaque"
	}
	return "user.overlay.opaque"
}
