package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// writeLayer writes what was collected as the blob of a layer.
func (s *Store) writeLayer(ctx context.Context, c *collector, file string) (v1.Descriptor, error) {
	failpoint.Here("capture: nothing written")
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer func() { _ = f.Close() }()
	hasher, err := v1.Hasher("sha256")
	if err != nil {
		return v1.Descriptor{}, err
	}
	failpoint.Here("capture: an empty file")
	if err = c.write(ctx, io.MultiWriter(f, hasher)); err != nil {
		return v1.Descriptor{}, err
	}
	failpoint.Here("capture: written, not synced")
	if err = f.Sync(); err != nil {
		return v1.Descriptor{}, err
	}
	failpoint.Here("capture: synced")
	info, err := f.Stat()
	if err != nil {
		return v1.Descriptor{}, err
	}
	h := v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", hasher.Sum(nil))}
	return v1.Descriptor{MediaType: types.OCIUncompressedLayer, Size: info.Size(), Digest: h}, s.adopt(file, h)
}

// write makes the archive, in the order of the paths. The same files give the same bytes.
func (c *collector) write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	linked := map[[2]uint64]string{}
	for _, name := range slices.Sorted(maps.Keys(c.entries)) {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := c.writeEntry(tw, name, c.entries[name], linked); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return tw.Close()
}

func (c *collector) writeEntry(tw *tar.Writer, name string, e entry, linked map[[2]uint64]string) error {
	hdr := e.hdr
	hdr.Name, hdr.Format, hdr.ModTime = strings.TrimPrefix(name, "/"), tar.FormatPAX, time.Unix(0, 0)
	if e.info != nil {
		if !e.implied {
			hdr.ModTime = e.info.ModTime()
		}
		setOwner(&hdr, e.info)
	}
	switch {
	case e.body != "":
		if err := tw.WriteHeader(&hdr); err != nil {
			return err
		}
		_, err := io.WriteString(tw, e.body)
		return err
	case hdr.Typeflag == tar.TypeReg:
		return writeRegular(tw, &hdr, e, linked)
	case hdr.Typeflag == tar.TypeDir && e.from != "":
		hdr.PAXRecords = readXattrs(e.from)
	}
	return tw.WriteHeader(&hdr)
}

func setOwner(hdr *tar.Header, info fs.FileInfo) {
	if st := statOf(info); st != nil {
		hdr.Mode, hdr.Uid, hdr.Gid = int64(st.Mode&0o7777), int(st.Uid), int(st.Gid)
	}
}

// openReal opens the very path that was checked, without following any link, so that nobody can put something else in
// its place meanwhile, or a pipe that makes the agent wait. (openat2(2), Linux 5.6.)
func openReal(p string) (*os.File, fs.FileInfo, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, p, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	f := os.NewFile(uintptr(fd), p)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = badImage("%s changed while it was copied", p)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// writeRegular copies a file.
func writeRegular(tw *tar.Writer, hdr *tar.Header, e entry, linked map[[2]uint64]string) error {
	f, info, err := openReal(e.from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	setOwner(hdr, info)
	hdr.ModTime = info.ModTime()
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Nlink > 1 {
		id := [2]uint64{uint64(st.Dev), st.Ino} //nolint:unconvert // 32 bits wide on some architectures
		if first, ok := linked[id]; ok {
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
			return tw.WriteHeader(hdr)
		}
		linked[id] = hdr.Name
	}
	hdr.Size = info.Size()
	hdr.PAXRecords = readXattrs(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err := tw.WriteHeader(hdr); err != nil {
		return err
	}
	if _, err := io.CopyN(tw, f, hdr.Size); err != nil {
		if errors.Is(err, io.EOF) {
			return badImage("%s became shorter while it was copied", e.from)
		}
		return err
	}
	return nil
}

// readXattrs returns the extended attributes that an image may have, as an archive's records.
func readXattrs(p string) map[string]string {
	size, err := unix.Listxattr(p, nil)
	if err != nil || size <= 0 {
		return nil
	}
	buf := make([]byte, size+256)
	if size, err = unix.Listxattr(p, buf); err != nil {
		return nil
	}
	var records map[string]string
	for attr := range strings.SplitSeq(string(buf[:size]), "\x00") {
		if attr == "" || !keepXattr(attr) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX of Linux
		n, err := unix.Getxattr(p, attr, value)
		if err != nil {
			continue
		}
		if records == nil {
			records = map[string]string{}
		}
		records[xattrRecord+attr] = string(value[:n])
	}
	return records
}
