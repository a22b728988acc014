package image

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// libraries knows where this server's loader looks.
type libraries struct {
	etc  string   // where the loader's configuration is
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
	l.dirs = readConf(filepath.Join(l.etc, "ld.so.conf"), 0)
	if found, err := filepath.Glob(filepath.Join(l.etc, "ld-musl-*.path")); err == nil {
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
				pattern = filepath.Join(filepath.Dir(name), pattern)
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
