package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
)

// IgnoreFile names the files that say, in the syntax of gitignore, which YAML files are not manifests. One may stand
// in the root of the repository and in every directory below.
const IgnoreFile = ".reconcilerignore"

// maxPatterns bounds them: each file is compared with each pattern.
const maxPatterns = 1000

// file is one YAML file of the tree.
type file struct {
	name  string  // in the repository
	key   string  // of its content; see Keyed
	kept  *kept   // what the same content came to before; nil: it is to be decoded
	data  []byte  // nil where kept is there
	early *parsed // what data came to; nil: it is not parsed yet
}

// walker gathers the YAML files of a tree.
type walker struct {
	tree     fs.FS
	cache    *Cache
	problems *problems
	patterns []gitignore.Pattern
	files    []file
	first    *headStart // nil: nothing was read
	total    int
	full     bool
}

// files returns the YAML files below dir, in the order of their names.
func files(tree fs.FS, dir string, cache *Cache, ps *problems) []file {
	w := &walker{tree: tree, cache: cache, problems: ps}
	if dir == "" {
		dir = "."
	}
	if !fs.ValidPath(dir) {
		ps.add(Problem{Position: Position{File: dir}, Message: "want a path inside the repository, relative to its root and without . or .."})
		return nil
	}
	// The ignore files of the directories above hold here too, as git's do.
	for i := range dir {
		if dir != "." && (i == 0 || dir[i] == '/') {
			w.readIgnore(path.Clean("./" + dir[:i]))
		}
	}
	w.directory(dir)
	if w.first != nil {
		w.first.end(w.files)
	}
	return w.files
}

func (w *walker) fail(name string, err error) { w.problems.add(unreadable(name, err)) }

// unreadable says why a file or directory cannot be read.
func unreadable(name string, err error) Problem {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err
	}
	what := "cannot be read: " + err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		what = "does not exist in the repository"
	}
	return Problem{Position: Position{File: name}, Message: what}
}

func (w *walker) directory(dir string) {
	entries, err := fs.ReadDir(w.tree, dir)
	if err != nil {
		w.fail(dir, err)
		return
	}
	w.readIgnore(dir)
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || w.full {
			continue
		}
		isYAML := slices.Contains([]string{".yaml", ".yml"}, path.Ext(e.Name()))
		if !e.IsDir() && !isYAML {
			continue
		}
		if len(w.patterns) > 0 && gitignore.NewMatcher(w.patterns).Match(strings.Split(name, "/"), e.IsDir()) {
			continue
		}
		if e.IsDir() {
			w.directory(name)
		} else {
			w.file(name, keyOf(e))
		}
	}
}

func (w *walker) file(name, key string) {
	f := file{name: name, key: key, kept: w.cache.find(name, key)}
	if f.kept != nil {
		w.total += f.kept.size
	} else {
		data, err := readBounded(w.tree, name)
		if err != nil {
			w.fail(name, err)
			return
		}
		f.data = data
		w.total += len(data)
	}
	if w.total > maxTotalSize {
		w.full = true
		w.problems.add(Problem{Position: Position{File: name}, Message: fmt.Sprintf("the YAML files of the repository are larger than %s together", Bytes(maxTotalSize))})
		return
	}
	w.files = append(w.files, f)
	if f.kept == nil {
		if w.first == nil {
			w.first = newHeadStart()
		}
		w.first.take(fileData{len(w.files) - 1, f.data})
	}
}

func (w *walker) readIgnore(dir string) {
	data, err := readBounded(w.tree, path.Join(dir, IgnoreFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		w.fail(path.Join(dir, IgnoreFile), err)
		return
	}
	var domain []string
	if dir != "." {
		domain = strings.Split(dir, "/")
	}
	for line := range bytes.Lines(data) {
		text := strings.TrimRight(string(line), "\r\n")
		if text = trimSpaces(text); text != "" && !strings.HasPrefix(text, "#") {
			if len(w.patterns) == maxPatterns {
				w.problems.add(Problem{Position: Position{File: path.Join(dir, IgnoreFile)}, Message: fmt.Sprintf("holds more than %d patterns, with those of other directories", maxPatterns)})
				return
			}
			w.patterns = append(w.patterns, gitignore.ParsePattern(text, domain))
		}
	}
}

// trimSpaces drops spaces at the end of a pattern unless they are escaped.
func trimSpaces(s string) string {
	for strings.HasSuffix(s, " ") && !strings.HasSuffix(s, `\ `) {
		s = s[:len(s)-1]
	}
	return s
}

// errTooLarge is wrapped by the error of a file that is over its limit.
var errTooLarge = errors.New("too large")

// readBounded reads a regular file of at most maxFileSize.
func readBounded(tree fs.FS, name string) ([]byte, error) {
	f, err := tree.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if info.Size() > maxFileSize {
		return nil, fmt.Errorf("%w: %s, the limit is %s", errTooLarge, Bytes(info.Size()), Bytes(maxFileSize))
	}
	data := bytes.NewBuffer(make([]byte, 0, max(info.Size(), 0)+bytes.MinRead)) // so that it never grows
	if _, err := data.ReadFrom(io.LimitReader(f, maxFileSize+1)); err != nil {
		return nil, err
	}
	if data.Len() > maxFileSize {
		return nil, fmt.Errorf("%w: the limit is %s", errTooLarge, Bytes(maxFileSize))
	}
	return data.Bytes(), nil
}

// resolvePath returns the path in the repository of ref, which stands in the manifest file.
func resolvePath(file, ref string) (string, error) {
	switch {
	case ref == "":
		return "", errors.New("want a path relative to this file")
	case strings.HasPrefix(ref, "/"):
		return "", fmt.Errorf("want a path relative to this file, not the absolute %s", quote(ref))
	case strings.ContainsAny(ref, "\\"):
		return "", fmt.Errorf("want / between the parts of a path, not %s", quote(ref))
	}
	full := path.Join(path.Dir(file), ref)
	if full == ".." || strings.HasPrefix(full, "../") {
		return "", fmt.Errorf("%s leads out of the repository", quote(ref))
	}
	return full, nil
}
