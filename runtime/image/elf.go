package image

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// How a program finds its libraries, as ld.so(8) does it: DT_RPATH (if there is no DT_RUNPATH), DT_RUNPATH, the
// directories of /etc/ld.so.conf, the default directories; with $ORIGIN and $LIB replaced. LD_LIBRARY_PATH is not
// looked at. A library must have the program's class and machine.
//
// Programs below --allow-capture may be written by people who must not read everything on this server. So nothing that
// a program says is trusted further than this: what it names must be a shared object (or, for an interpreter, a
// program) and must really lie in a system directory or below --allow-capture.

// libraries knows where this server's loader looks.
type libraries struct {
	dirs []string // of ld.so.conf
	read bool
}

// defaultDirs are what loaders search without being told to, for all the architectures of Debian's multiarch.
func (l *libraries) defaultDirs() []string {
	dirs := []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"}
	for _, pattern := range []string{"/lib/*-linux-*", "/usr/lib/*-linux-*"} {
		found, err := filepath.Glob(pattern)
		if err == nil {
			dirs = append(dirs, found...)
		}
	}
	return dirs
}

// conf returns the directories that /etc/ld.so.conf and, for musl, /etc/ld-musl-*.path name.
func (l *libraries) conf() []string {
	if l.read {
		return l.dirs
	}
	l.read = true
	l.dirs = readConf("/etc/ld.so.conf", 0)
	if found, err := filepath.Glob("/etc/ld-musl-*.path"); err == nil {
		for _, p := range found {
			if b, err := os.ReadFile(p); err == nil {
				l.dirs = append(l.dirs, strings.FieldsFunc(string(b), func(r rune) bool { return r == ':' || r == '\n' })...)
			}
		}
	}
	l.dirs = slices.DeleteFunc(l.dirs, func(d string) bool { return !filepath.IsAbs(d) })
	return l.dirs
}

func readConf(name string, depth int) []string {
	f, err := os.Open(name)
	if err != nil || depth > 4 {
		return nil
	}
	defer func() { _ = f.Close() }()
	var dirs []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		if pattern, ok := strings.CutPrefix(line, "include"); ok {
			pattern = strings.TrimSpace(pattern)
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join("/etc", pattern)
			}
			found, err := filepath.Glob(pattern)
			if err == nil {
				for _, p := range found {
					dirs = append(dirs, readConf(p, depth+1)...)
				}
			}
		} else if line != "" {
			dirs = append(dirs, line)
		}
	}
	return dirs
}

// trusted reports whether a real path lies where this server keeps its libraries.
func (l *libraries) trusted(resolved string) bool {
	for _, dir := range append(l.defaultDirs(), l.conf()...) {
		if r, err := filepath.EvalSymlinks(dir); err == nil && r != "/" && below(resolved, []string{r}) {
			return true
		}
	}
	return false
}

// needs looks into a file that is copied and adds what it needs to run.
func (c *collector) needs(program string) error {
	if c.looked[program] {
		return nil
	}
	c.looked[program] = true
	f, info, err := openReal(program)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 256)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return c.needsOfELF(program, f)
	case bytes.HasPrefix(head, []byte("#!")) && info.Mode().Perm()&0o111 != 0:
		return c.needsOfScript(program, head)
	}
	return nil
}

// object is what matters of an ELF file.
type object struct {
	class   elf.Class
	machine elf.Machine
	typ     elf.Type
	interp  string
	needed  []string
	rpath   []string // with $ORIGIN replaced
	dynamic bool
}

// readELF reads an ELF file's headers. A broken one gives an error; debug/elf may also panic on hostile input.
func readELF(p string, r io.ReaderAt) (o object, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%s: not a valid ELF file", p)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return o, fmt.Errorf("%s: %w", p, err)
	}
	o.class, o.machine, o.typ = f.Class, f.Machine, f.Type
	for _, prog := range f.Progs {
		switch prog.Type {
		case elf.PT_INTERP:
			var b []byte
			if b, err = io.ReadAll(io.LimitReader(prog.Open(), 4096)); err != nil {
				return o, fmt.Errorf("%s: %w", p, err)
			}
			o.interp = string(bytes.TrimRight(b, "\x00"))
		case elf.PT_DYNAMIC:
			o.dynamic = true
		}
	}
	if !o.dynamic {
		return o, nil
	}
	if o.needed, err = f.DynString(elf.DT_NEEDED); err != nil {
		return o, fmt.Errorf("%s: %w", p, err)
	}
	paths, err := f.DynString(elf.DT_RUNPATH)
	if err == nil && len(paths) == 0 {
		paths, err = f.DynString(elf.DT_RPATH)
	}
	if err != nil {
		return o, fmt.Errorf("%s: %w", p, err)
	}
	lib := "lib"
	if o.class == elf.ELFCLASS64 {
		lib = "lib64"
	}
	origin := filepath.Dir(p)
	replace := strings.NewReplacer("${ORIGIN}", origin, "$ORIGIN", origin, "${LIB}", lib, "$LIB", lib)
	for _, list := range paths {
		for dir := range strings.SplitSeq(list, ":") {
			if dir = replace.Replace(dir); filepath.IsAbs(dir) && !strings.Contains(dir, "$") {
				o.rpath = append(o.rpath, filepath.Clean(dir))
			}
		}
	}
	return o, nil
}

// needsOfELF adds a program's loader and libraries.
func (c *collector) needsOfELF(program string, r io.ReaderAt) error {
	o, err := readELF(program, r)
	if err != nil || o.typ != elf.ET_EXEC && o.typ != elf.ET_DYN {
		return nil //nolint:nilerr // a broken or unlinked object is data like any other: what runs it will tell
	}
	if o.interp != "" {
		if !filepath.IsAbs(o.interp) || !c.shared(o.interp, o) {
			return &missingError{program, fmt.Sprintf("its loader %q is not a shared object in a system directory of this server", clip(o.interp))}
		}
		if err := c.whole(filepath.Clean(o.interp)); err != nil {
			return err
		}
	}
	for _, name := range o.needed {
		found := c.find(name, o)
		if found == "" {
			// A plug-in's libraries may be there when its program loads it; a program's own must be found.
			if o.interp == "" {
				c.warnings = append(c.warnings, fmt.Sprintf("%s: the library %q that it names was not found", program, clip(name)))
				continue
			}
			return &missingError{program, fmt.Sprintf("the library %q that it needs is not in a system directory of this server", clip(name))}
		}
		if err := c.whole(found); err != nil {
			return err
		}
	}
	return nil
}

// find returns the path of a library for a program, or "".
func (c *collector) find(name string, o object) string {
	if strings.Contains(name, "/") {
		if filepath.IsAbs(name) && c.shared(name, o) {
			return filepath.Clean(name)
		}
		return ""
	}
	for i, dir := range slices.Concat(o.rpath, c.libs.conf(), c.libs.defaultDirs()) {
		p := path.Join(dir, name)
		if !c.shared(p, o) {
			continue
		}
		if i >= len(o.rpath) && !builtIn(dir) {
			c.cache()
		}
		return p
	}
	return ""
}

// builtIn reports whether a loader searches a directory without being told to by its cache.
func builtIn(dir string) bool {
	switch dir {
	case "/lib", "/usr/lib", "/lib64", "/usr/lib64":
		return true
	}
	parent := path.Dir(dir)
	return (parent == "/lib" || parent == "/usr/lib") && strings.Contains(path.Base(dir), "-linux-")
}

// cache adds the loader's cache, without which the directories of ld.so.conf are not searched.
func (c *collector) cache() {
	const name = "/etc/ld.so.cache"
	info, err := os.Lstat(name)
	if _, ok := c.entries[name]; ok || err != nil || !info.Mode().IsRegular() {
		return
	}
	if err := c.file(name, name, info); err != nil {
		c.warnings = append(c.warnings, name+" was left out: "+err.Error())
	}
}

// shared reports whether p is a shared object for the same machine that may be copied because a program needs it.
func (c *collector) shared(p string, like object) bool {
	resolved, err := filepath.EvalSymlinks(p)
	if err != nil || !c.libs.trusted(resolved) && c.permit(resolved) != nil {
		return false
	}
	f, _, err := openReal(resolved)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	o, err := readELF(resolved, f)
	return err == nil && o.typ == elf.ET_DYN && o.class == like.class && o.machine == like.machine
}

// programDirs are where interpreters of scripts may lie.
func programDirs() []string { return strings.Split(DefaultPath, ":") }

// needsOfScript adds a script's interpreter, and for /usr/bin/env the program that it runs.
func (c *collector) needsOfScript(script string, head []byte) error {
	line, _, _ := bytes.Cut(head[2:], []byte{'\n'})
	words := strings.Fields(string(line))
	if len(words) == 0 || !filepath.IsAbs(words[0]) {
		return nil
	}
	if !c.interpreter(words[0]) {
		return &missingError{script, fmt.Sprintf("its interpreter %q is not a program in a system directory of this server", clip(words[0]))}
	}
	if err := c.whole(filepath.Clean(words[0])); err != nil {
		return err
	}
	if path.Base(words[0]) != "env" {
		return nil
	}
	for _, word := range words[1:] {
		if strings.HasPrefix(word, "-") || strings.Contains(word, "=") {
			continue
		}
		if strings.Contains(word, "/") {
			return nil
		}
		for _, dir := range programDirs() {
			if p := path.Join(dir, word); c.interpreter(p) {
				return c.whole(p)
			}
		}
		return &missingError{script, fmt.Sprintf("its interpreter %q is not a program in a system directory of this server", clip(word))}
	}
	return nil
}

// interpreter reports whether p is a program that may be copied because a script names it.
func (c *collector) interpreter(p string) bool {
	resolved, err := filepath.EvalSymlinks(p)
	if err != nil {
		return false
	}
	info, err := os.Lstat(resolved)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return false
	}
	if c.permit(resolved) == nil {
		return true
	}
	// Interpreters like perl's and java's lie below /usr/lib.
	return c.libs.trusted(resolved) || slices.ContainsFunc(programDirs(), func(dir string) bool {
		r, err := filepath.EvalSymlinks(dir)
		return err == nil && below(resolved, []string{r})
	})
}
