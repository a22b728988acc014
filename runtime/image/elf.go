package image

import (
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

// How a program finds its libraries, as ld.so(8) does it: DT_RPATH of the program or library that names them and of what
// loads that, up to the program (not if there is a DT_RUNPATH), DT_RUNPATH, the directories of /etc/ld.so.conf, the
// default directories; with $ORIGIN and $LIB replaced. LD_LIBRARY_PATH is not looked at. A library must have the
// program's class and machine.
//
// Programs below --allow-capture may be written by people who must not read everything on this server. So nothing that
// a program says is trusted further than this: what it names must be a shared object (or, for an interpreter, a
// program) and must really lie in a system directory or below --allow-capture.

// program is a file that is copied and may need others to run.
type program struct {
	real string // the file on this server, links followed
	main string // the program that loads it, or itself
	// at is the name that it runs or is loaded by: $ORIGIN is the directory of that.
	at place
	// rpath is the DT_RPATH of what loads it.
	rpath []place
}

// place is a path on this server, and what it is inside.
type place struct{ outside, inside string }

// needs looks into a file that is copied and adds what it needs to run.
func (c *collector) needs(p program) error {
	// A program loads a library once, whoever of its other libraries names it too.
	key := [2]string{p.main, p.real}
	if c.looked[key] {
		return nil
	}
	c.looked[key] = true
	f, info, err := openReal(p.real)
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
		return c.needsOfELF(p, f)
	case bytes.HasPrefix(head, []byte("#!")) && info.Mode().Perm()&0o111 != 0:
		return c.needsOfScript(p.real, head)
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
	rpath   []string // DT_RPATH, as it stands there
	runpath []string // DT_RUNPATH
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
	if o.runpath, err = f.DynString(elf.DT_RUNPATH); err != nil {
		return o, fmt.Errorf("%s: %w", p, err)
	}
	if o.rpath, err = f.DynString(elf.DT_RPATH); err != nil {
		return o, fmt.Errorf("%s: %w", p, err)
	}
	return o, nil
}

// places are the directories of a DT_RPATH or DT_RUNPATH for a file that is at.
func (o object) places(lists []string, at place) []place {
	lib := "lib"
	if o.class == elf.ELFCLASS64 {
		lib = "lib64"
	}
	expand := func(dir, of string) string {
		origin := path.Dir(of)
		dir = strings.NewReplacer("${ORIGIN}", origin, "$ORIGIN", origin, "${LIB}", lib, "$LIB", lib).Replace(dir)
		if !path.IsAbs(dir) || strings.Contains(dir, "$") {
			return ""
		}
		return path.Clean(dir)
	}
	var dirs []place
	for _, list := range lists {
		for dir := range strings.SplitSeq(list, ":") {
			if d := (place{expand(dir, at.outside), expand(dir, at.inside)}); d.outside != "" && d.inside != "" {
				dirs = append(dirs, d)
			}
		}
	}
	return dirs
}

// needsOfELF adds a program's loader and libraries.
func (c *collector) needsOfELF(p program, r io.ReaderAt) error {
	o, err := readELF(p.real, r)
	if err != nil || o.typ != elf.ET_EXEC && o.typ != elf.ET_DYN {
		return nil //nolint:nilerr // a broken or unlinked object is data like any other: what runs it will tell
	}
	if o.interp != "" {
		if !filepath.IsAbs(o.interp) || !c.shared(o.interp, o) {
			return &missingError{p.real, fmt.Sprintf("its loader %q is not a shared object in a system directory of this server", clip(o.interp))}
		}
		if err := c.whole(filepath.Clean(o.interp)); err != nil {
			return err
		}
	}
	dirs, inherited := o.places(o.runpath, p.at), p.rpath
	if len(o.runpath) == 0 {
		inherited = append(o.places(o.rpath, p.at), p.rpath...)
		dirs = inherited
	}
	for _, name := range o.needed {
		found := c.find(name, o, dirs)
		if found.outside == "" {
			// A plug-in's libraries may be there when its program loads it; a program's own must be found.
			if o.interp == "" {
				c.unfound[[2]string{p.real, name}] = true
				continue
			}
			return &missingError{p.real, fmt.Sprintf("the library %q that it needs is not in a system directory of this server", clip(name))}
		}
		c.loaded[[2]string{p.real, name}] = true
		if err := c.library(p.main, found, inherited); err != nil {
			return err
		}
	}
	return nil
}

// library takes a library to where the loader looks for it inside.
func (c *collector) library(main string, at place, rpath []place) error {
	resolved, err := filepath.EvalSymlinks(at.outside)
	if err != nil {
		return err
	}
	n := len(c.programs)
	if at.inside == at.outside {
		err = c.whole(at.outside)
	} else if _, there := c.entries[at.inside]; !there {
		err = c.copyTo(resolved, at.inside)
	}
	c.programs = append(c.programs[:n], program{real: resolved, main: main, at: at, rpath: rpath})
	return err
}

// find returns where a library for a program is, or nothing.
func (c *collector) find(name string, o object, rpath []place) place {
	if strings.Contains(name, "/") {
		if filepath.IsAbs(name) && c.shared(name, o) {
			name = filepath.Clean(name)
			return place{name, name}
		}
		return place{}
	}
	for _, dir := range rpath {
		if p := path.Join(dir.outside, name); c.shared(p, o) {
			return place{p, path.Join(dir.inside, name)}
		}
	}
	for _, dir := range slices.Concat(c.libs.conf(), c.libs.defaultDirs()) {
		p := path.Join(dir, name)
		if !c.shared(p, o) {
			continue
		}
		if !builtIn(dir) {
			c.cache()
		}
		return place{p, p}
	}
	return place{}
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
	from := filepath.Join(c.libs.etc, "ld.so.cache")
	info, err := os.Lstat(from)
	if _, ok := c.entries[name]; ok || err != nil || !info.Mode().IsRegular() {
		return
	}
	if err := c.file(from, name, info); err != nil {
		c.warnings = append(c.warnings, name+" was left out: "+clip(err.Error()))
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
