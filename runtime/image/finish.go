package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// finish does what cannot be said in an archive: whiteouts, the root directory itself, and kernels, which a container
// has no use for.
func (f *filter) finish(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := f.applyWhiteouts(root); err != nil {
		return err
	}
	if err := f.removeKernels(root); err != nil {
		return err
	}
	hdr := f.root
	if hdr == nil {
		hdr = &tar.Header{Mode: 0o755, ModTime: time.Unix(0, 0)}
		if n, err := f.below.lstat("."); err == nil {
			hdr = headerOf(".", n.info)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, hdr.Uid, hdr.Gid); err != nil {
			return err
		}
	}
	if err := unix.Chmod(dir, uint32(hdr.Mode&0o7777)); err != nil {
		return err
	}
	return os.Chtimes(dir, hdr.ModTime, hdr.ModTime)
}

func (f *filter) applyWhiteouts(root *os.Root) error {
	hidden := map[string]bool{} // directories that hide everything below
	for _, dir := range f.opaque {
		if err := f.hide(root, dir, hidden); err != nil {
			return err
		}
	}
	for _, name := range f.whiteouts {
		if _, err := f.below.lstat(name); err != nil || under(hidden, name) {
			continue // there is nothing to hide
		}
		info, err := root.Lstat(name)
		switch {
		case err == nil && info.IsDir():
			// The directory of this layer takes the place of what was there, and does not merge with it.
			if err = f.hide(root, name, hidden); err != nil {
				return err
			}
		case err == nil:
		case !errors.Is(err, fs.ErrNotExist):
			return err
		default:
			if err := keepingTimes(root, path.Dir(name), func(parent *os.File) error {
				return unix.Mknodat(int(parent.Fd()), path.Base(name), unix.S_IFCHR, 0)
			}); err != nil {
				return fmt.Errorf("whiteout of %q: %w", name, err)
			}
		}
	}
	return nil
}

// hide makes a directory of this layer opaque, if a layer below has one of that name.
func (f *filter) hide(root *os.Root, dir string, hidden map[string]bool) error {
	if n, err := f.below.lstat(dir); err != nil || !n.info.IsDir() {
		return nil
	}
	hidden[dir] = true
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := unix.Fsetxattr(int(d.Fd()), opaqueXattr(), []byte{'y'}, 0); err != nil {
		return fmt.Errorf("make %q opaque: %w", dir, err)
	}
	return nil
}

// under reports whether one of the directories is name or above it.
func under(dirs map[string]bool, name string) bool {
	for ; name != "."; name = path.Dir(name) {
		if dirs[name] {
			return true
		}
	}
	return dirs["."]
}

// maxWarnings bounds how many kernels are named.
const maxWarnings = 8

func (f *filter) removeKernels(root *os.Root) error {
	left := 0
	for _, pattern := range []string{"boot/vmlinuz*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz"} {
		found, err := fs.Glob(root.FS(), pattern)
		if err != nil {
			return err
		}
		for _, name := range found {
			info, err := root.Lstat(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // lib is a link to usr/lib
			}
			if err != nil {
				return err
			}
			if info.IsDir() {
				continue
			}
			if err := keepingTimes(root, path.Dir(name), func(parent *os.File) error {
				return unix.Unlinkat(int(parent.Fd()), path.Base(name), 0)
			}); err != nil {
				return err
			}
			if left++; left <= maxWarnings {
				f.warnings = append(f.warnings, clip("the kernel /"+name)+" was left out: a container runs on the server's")
			}
		}
	}
	if left > maxWarnings {
		f.warnings = append(f.warnings, fmt.Sprintf("%d more kernels were left out", left-maxWarnings))
	}
	return nil
}

// keepingTimes changes what is in a directory and puts back when it was modified.
func keepingTimes(root *os.Root, dir string, change func(*os.File) error) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if err := change(d); err != nil {
		return err
	}
	return root.Chtimes(dir, info.ModTime(), info.ModTime())
}
