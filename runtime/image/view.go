package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// view looks at unpacked layers, the top one first, as an overlay of them would show them, without mounting it.
// It relies on nobody changing them: every component is looked at before it is used as a directory, so that no link
// is ever followed by the kernel.
type view struct{ layers []string }

// node is one file of a view.
type node struct {
	name string // relative, without links in its directories
	info fs.FileInfo
	// at are the paths on this server: of a directory one in each layer that adds to it.
	at []string
}

// maxLinks is how many symbolic links Linux follows (MAXSYMLINKS, path_resolution(7)).
const maxLinks = 40

// lstat returns what a relative, clean name is. Symbolic links are not followed, not even in its directories, where
// they make it fs.ErrNotExist.
func (v view) lstat(name string) (node, error) {
	n, err := v.root()
	if err != nil || name == "." {
		return n, err
	}
	for part := range strings.SplitSeq(name, "/") {
		if n, err = n.child(part); err != nil {
			return node{}, err
		}
	}
	return n, nil
}

func (v view) root() (node, error) {
	if len(v.layers) == 0 {
		return node{}, notExist(".")
	}
	info, err := os.Lstat(v.layers[0])
	return node{".", info, v.layers}, err
}

// child returns an entry of a directory.
func (n node) child(part string) (node, error) {
	found := node{name: path.Join(n.name, part)}
	if n.info == nil || !n.info.IsDir() {
		return node{}, &fs.PathError{Op: "stat", Path: "/" + found.name, Err: unix.ENOTDIR}
	}
	for _, dir := range n.at {
		p := filepath.Join(dir, part)
		info, err := os.Lstat(p)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return node{}, err
		}
		if isWhiteout(info) {
			break
		}
		if found.info != nil && !info.IsDir() {
			break // hidden by the directory above
		}
		if found.info == nil {
			found.info = info
		}
		found.at = append(found.at, p)
		if !info.IsDir() || isOpaque(p) {
			break
		}
	}
	if found.info == nil {
		return node{}, notExist(found.name)
	}
	return found, nil
}

func notExist(name string) error {
	return &fs.PathError{Op: "stat", Path: "/" + strings.TrimPrefix(name, "."), Err: fs.ErrNotExist}
}

// resolve returns what an absolute or relative name leads to, with all links followed inside the view.
func (v view) resolve(name string) (node, error) {
	root, err := v.root()
	if err != nil {
		return node{}, err
	}
	stack := []node{root}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		n, err := stack[len(stack)-1].child(part)
		if err != nil {
			return node{}, err
		}
		if n.info.Mode()&fs.ModeSymlink == 0 {
			stack = append(stack, n)
			continue
		}
		if links++; links > maxLinks {
			return node{}, &fs.PathError{Op: "stat", Path: name, Err: unix.ELOOP}
		}
		target, err := os.Readlink(n.at[0])
		if err != nil {
			return node{}, err
		}
		if path.IsAbs(target) {
			stack = stack[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return stack[len(stack)-1], nil
}

// readFile returns at most limit bytes of a regular file.
func (v view) readFile(name string, limit int64) ([]byte, error) {
	n, err := v.resolve(name)
	if err != nil {
		return nil, err
	}
	if !n.info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: unix.EINVAL}
	}
	if n.info.Size() > limit {
		return nil, fmt.Errorf("read %s: larger than %d bytes", name, limit)
	}
	return os.ReadFile(n.at[0])
}

// isWhiteout reports whether overlayfs takes the file for a whiteout: a character device 0:0.
// https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories
func isWhiteout(info fs.FileInfo) bool {
	st := statOf(info)
	return st != nil && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func isOpaque(dir string) bool {
	var v [1]byte
	n, err := unix.Lgetxattr(dir, opaqueXattr(), v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

func statOf(info fs.FileInfo) *syscall.Stat_t {
	st, _ := info.Sys().(*syscall.Stat_t)
	return st
}
