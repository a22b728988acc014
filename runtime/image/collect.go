package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// collector gathers what a capture copies, first as a list of paths, then as an archive.
type collector struct {
	allow    []string // as given
	real     []string // with links followed
	exclude  string   // the state directory, which holds other captures and everybody's volumes
	maxBytes int64
	maxFiles int

	entries  map[string]entry   // by absolute path inside
	programs []program          // files that were not looked into yet and must be able to run
	others   []program          // such files of directories, where not all is meant to run on this server
	looked   map[[2]string]bool // by the program that loads a file, and the file
	unfound  map[[2]string]bool // libraries that a file names and that are not there, as far as that file knows
	loaded   map[[2]string]bool // those that are there
	libs     *libraries
	bytes    int64
	warnings []string
}

// entry is one path inside.
type entry struct {
	from string      // real path of a file or directory outside; empty for what is made up
	info fs.FileInfo // of from, or nil
	hdr  tar.Header  // type and link target; the rest for what is made up
	body string      // of a file that is made up
	// implied directories are there only because something is in them: their times are no part of the content.
	implied bool
}

func newCollector(o Options, exclude string) *collector {
	c := &collector{
		exclude: exclude, maxBytes: o.MaxLayerSize, maxFiles: o.MaxLayerEntries,
		entries: map[string]entry{}, looked: map[[2]string]bool{}, unfound: map[[2]string]bool{},
		loaded: map[[2]string]bool{}, libs: &libraries{etc: "/etc"},
	}
	for _, p := range o.AllowCapture {
		p = filepath.Clean(p)
		c.allow = append(c.allow, p)
		if r, err := filepath.EvalSymlinks(p); err == nil {
			c.real = append(c.real, r)
		}
	}
	return c
}

// collect decides what is copied. Nothing is read but directories, links and the headers of programs.
func (c *collector) collect(ctx context.Context, paths []runtime.Path) error {
	for _, p := range paths {
		from, to := filepath.Clean(p.From), path.Clean(p.To)
		if p.To == "" {
			to = from
		}
		if !filepath.IsAbs(from) || !path.IsAbs(to) || to == "/" {
			return badImage("%s to %s: both must be absolute, and not the root inside", clip(p.From), clip(p.To))
		}
		if err := c.ask(ctx, from, to); err != nil {
			return err
		}
	}
	c.skeleton()
	others := c.others
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		var missing *missingError
		switch {
		case len(c.programs) > 0:
			p := c.programs[0]
			c.programs = c.programs[1:]
			if err := c.needs(p); err != nil {
				return err
			}
		case len(others) > 0:
			p := others[0]
			others = others[1:]
			if err := c.needs(p); errors.As(err, &missing) {
				c.warnings = append(c.warnings, clip(err.Error()))
			} else if err != nil {
				return err
			}
		default:
			c.warnOfLibraries()
			return nil
		}
	}
}

// warnOfLibraries tells which libraries no program that loads a file leads to.
func (c *collector) warnOfLibraries() {
	var warnings []string
	for file := range c.unfound {
		if !c.loaded[file] {
			warnings = append(warnings, fmt.Sprintf("%s: the library %q that it names was not found", clip(file[0]), clip(file[1])))
		}
	}
	slices.Sort(warnings)
	c.warnings = append(c.warnings, warnings...)
}

// ask takes a path that a manifest names.
func (c *collector) ask(ctx context.Context, from, to string) error {
	if !below(from, c.allow) {
		return fmt.Errorf("%s: %w", from, errNotAllowed)
	}
	if from == to {
		if err := c.links(from); err != nil {
			return err
		}
	}
	resolved, err := filepath.EvalSymlinks(from)
	if errors.Is(err, fs.ErrNotExist) {
		return &missingError{from, "there is no such file on this server"}
	}
	if err != nil {
		return err
	}
	if err = c.permit(resolved); err != nil {
		return fmt.Errorf("%s leads to %w", from, err)
	}
	target := to
	if from == to {
		target = resolved
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return err
	}
	if err := c.parents(target); err != nil {
		return err
	}
	if !info.IsDir() {
		return c.file(resolved, target, info)
	}
	return c.tree(ctx, resolved, target)
}

// permit returns an error for a real path that must not be copied.
func (c *collector) permit(resolved string) error {
	if below(resolved, []string{"/proc", "/sys", "/dev", c.exclude}) {
		return fmt.Errorf("%s: %w: it belongs to the kernel or the agent", resolved, errNotAllowed)
	}
	if !below(resolved, c.real) {
		return fmt.Errorf("%s: %w", resolved, errNotAllowed)
	}
	return nil
}

// tree takes a directory with all that is in it.
func (c *collector) tree(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p != from {
			return nil // gone meanwhile
		}
		if err != nil {
			return err
		}
		if err = ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if below(p, []string{"/proc", "/sys", "/dev", c.exclude}) {
			return fs.SkipDir
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		target := path.Join(to, strings.TrimPrefix(p, from))
		if info.Mode()&fs.ModeSymlink == 0 {
			n := len(c.programs)
			err = c.file(p, target, info)
			c.others = append(c.others, c.programs[n:]...)
			c.programs = c.programs[:n]
			return err
		}
		link, err := os.Readlink(p)
		if err != nil {
			return err
		}
		if err := c.add(target, entry{hdr: tar.Header{Typeflag: tar.TypeSymlink, Linkname: link}, from: p, info: info}); err != nil {
			return err
		}
		if from != to {
			return nil
		}
		// A link out of the tree works if what it leads to is a file that may be copied; else it stays dangling.
		if resolved, err := filepath.EvalSymlinks(p); err == nil && !below(resolved, []string{from}) && c.permit(resolved) == nil {
			if info, err := os.Lstat(resolved); err == nil && info.Mode().IsRegular() {
				return c.whole(p)
			}
		}
		return nil
	})
}

// file takes one file or directory that is no link.
func (c *collector) file(from, to string, info fs.FileInfo) error {
	e := entry{from: from, info: info}
	switch {
	case info.IsDir():
		e.hdr.Typeflag = tar.TypeDir
	case info.Mode().IsRegular():
		e.hdr.Typeflag = tar.TypeReg
		if c.bytes += info.Size(); c.bytes > c.maxBytes {
			return badImage("the files are larger than the %d bytes that are allowed", c.maxBytes)
		}
		c.programs = append(c.programs, program{real: from, main: from, at: place{from, to}})
	default:
		c.warnings = append(c.warnings, clip(from)+" was left out: it is a "+kind(info.Mode()))
		return nil
	}
	return c.add(to, e)
}

func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	default:
		return "device"
	}
}

// whole takes a path of this server as it is: the links on the way to it, their directories, and the file at the end.
// The caller has made sure that the file may be copied.
func (c *collector) whole(p string) error {
	if err := c.links(p); err != nil {
		return err
	}
	resolved, err := filepath.EvalSymlinks(p)
	if err != nil {
		return err
	}
	if have, ok := c.entries[resolved]; ok && !have.implied {
		return nil
	}
	return c.copyTo(resolved, resolved)
}

// copyTo takes a file or directory that is no link, and the directories above it inside.
func (c *collector) copyTo(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := c.parents(to); err != nil {
		return err
	}
	return c.file(from, to, info)
}

// links adds every symbolic link that is met on the way along p, and the directories that these are in.
func (c *collector) links(p string) error {
	done := "/"
	rest := strings.Split(strings.TrimPrefix(p, "/"), "/")
	for n := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		info, err := os.Lstat(next)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return &missingError{p, "there is no such file on this server"}
			}
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if n++; n > maxLinks {
			return &fs.PathError{Op: "capture", Path: p, Err: unix.ELOOP}
		}
		target, err := os.Readlink(next)
		if err != nil {
			return err
		}
		if err := c.parents(next); err != nil {
			return err
		}
		if err := c.add(next, entry{hdr: tar.Header{Typeflag: tar.TypeSymlink, Linkname: target}, from: next, info: info}); err != nil {
			return err
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return nil
}

// parents adds the directories above a path inside, with owner and mode of this server's where it has them.
func (c *collector) parents(p string) error {
	for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
		if e, ok := c.entries[dir]; ok {
			if e.hdr.Typeflag == tar.TypeReg {
				return badImage("%s: %s is a file inside", p, dir)
			}
			continue
		}
		e := entry{implied: true, hdr: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			e.info = info
		}
		if err := c.add(dir, e); err != nil {
			return err
		}
	}
	return nil
}

// add puts an entry at a path inside. A real one takes the place of an implied one; two real ones must be the same.
func (c *collector) add(to string, e entry) error {
	old, ok := c.entries[to]
	if ok && !old.implied {
		if e.implied || old.from == e.from || old.hdr.Typeflag == tar.TypeDir && e.hdr.Typeflag == tar.TypeDir {
			return nil
		}
		return badImage("%s inside would be both %s and %s", to, old.from, e.from)
	}
	if len(c.entries) >= c.maxFiles {
		return badImage("these are more than the %d files that are allowed", c.maxFiles)
	}
	c.entries[to] = e
	return nil
}

// skeleton adds what every program takes for granted.
func (c *collector) skeleton() {
	for dir, mode := range map[string]int64{
		"/dev": 0o755, "/etc": 0o755, "/proc": 0o555, "/root": 0o700, "/run": 0o755, "/sys": 0o555, "/tmp": 0o1777,
		"/usr": 0o755, "/var": 0o755, "/var/tmp": 0o1777,
	} {
		if _, ok := c.entries[dir]; !ok {
			c.entries[dir] = entry{hdr: tar.Header{Typeflag: tar.TypeDir, Mode: mode}, implied: true}
		}
	}
	// Programs are named by /bin and /lib even where these are links to /usr.
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		info, err := os.Lstat(dir)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		if target, err := os.Readlink(dir); err == nil {
			if _, ok := c.entries[dir]; !ok {
				c.entries[dir] = entry{hdr: tar.Header{Typeflag: tar.TypeSymlink, Linkname: target}, from: dir, info: info}
			}
			to := path.Join("/", target)
			if _, ok := c.entries[to]; !ok {
				c.entries[to] = entry{hdr: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}, implied: true}
			}
		}
	}
	for name, body := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"/etc/group":  "root:x:0:\nnogroup:x:65534:\n",
	} {
		if _, ok := c.entries[name]; !ok {
			c.entries[name] = entry{body: body, hdr: tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}}
		}
	}
}
