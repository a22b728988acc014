package failpoints

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Point is a mark in the source.
type Point struct {
	Name string
	At   string // file:line, below the root
	// Apart is why the walk over all points does not pass it, from a comment behind the mark that begins with "apart:".
	Apart string
}

// rooms are where the product changes disk and kernel. What only looks at a server, and what only tests use, has no marks.
var rooms = []string{"runtime", "reconcile"} //nolint:gochecknoglobals // a constant

// changing are the functions that change disk or kernel, as they are written in the source. Those that only make a directory
// where none is (MkdirAll) change nothing that anybody could find half done.
var changing = regexp.MustCompile(`^(` + strings.Join([]string{
	`os\.(Rename|Remove|RemoveAll|Mkdir|MkdirTemp|CreateTemp|Symlink|Link|WriteFile)`,
	`unix\.(Mount|Unmount|MoveMount|Mkfifo|Mknod|Rmdir|Fallocate|Ftruncate|Splice|Exec|IoctlLoopConfigure)`,
	`(f|p\.f|s\.file|os\.Stderr)\.Truncate`,
	`netlink\.(Link|Addr|Route|Neigh|Qdisc|Filter)(Add|Del|Replace|Set\w*)`,
	`(conn|lc|c\.lc)\.(Flush|Exec|Destroy|Set)`,
	`cgroups\.RemovePath`,
	`(startProcess|signalPidfd|order)`,
}, "|") + `)$`)

// Collect parses the product's source below root and returns every mark, sorted by name, and what is wrong with them: a
// name that is used twice or cannot be a file's, and a change of disk or kernel that has no mark before and behind it in
// its function. Where no mark belongs, a comment at the change or at its function says "no failpoint:" and why.
func Collect(root string) (points []Point, problems []string, err error) {
	for _, room := range rooms {
		err := filepath.WalkDir(filepath.Join(root, room), func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (strings.HasSuffix(d.Name(), "test") || d.Name() == "testdata" || d.Name() == "fake" || d.Name() == "failpoint"):
				return fs.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			found, wrong, err := collectFile(root, path)
			points, problems = append(points, found...), append(problems, wrong...)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	slices.SortFunc(points, func(a, b Point) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.At, b.At)) })
	for i, p := range points {
		if i > 0 && points[i-1].Name == p.Name {
			problems = append(problems, fmt.Sprintf("%s: the name %q is that of %s too", p.At, p.Name, points[i-1].At))
		}
		if p.Name == "" || strings.ContainsAny(p.Name, "/\n") {
			problems = append(problems, fmt.Sprintf("%s: %q cannot be a file's name", p.At, p.Name))
		}
	}
	return points, problems, nil
}

// file is a source file that is being looked through.
type file struct {
	root string
	set  *token.FileSet
	ast  *ast.File
	// notes are the comments, by the line that they end on.
	notes map[int]string
}

func collectFile(root, path string) (points []Point, problems []string, err error) {
	f := file{root: root, set: token.NewFileSet(), notes: map[int]string{}}
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	if f.ast, err = parser.ParseFile(f.set, path, source, parser.ParseComments|parser.SkipObjectResolution); err != nil {
		return nil, nil, err
	}
	for _, group := range f.ast.Comments {
		f.notes[f.set.Position(group.End()).Line] = group.Text()
	}
	for _, decl := range f.ast.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		found, wrong := f.function(fn)
		points, problems = append(points, found...), append(problems, wrong...)
	}
	return points, problems, nil
}

// function looks through one function.
func (f file) function(fn *ast.FuncDecl) (points []Point, problems []string) {
	var first, last token.Pos
	var changes []*ast.CallExpr
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch name := written(call.Fun); {
		case name == "failpoint.Here":
			p, wrong := f.point(call)
			points = append(points, p)
			problems = append(problems, wrong...)
			if first == token.NoPos {
				first = call.Pos()
			}
			last = call.Pos()
		case changing.MatchString(name):
			changes = append(changes, call)
		}
		return true
	})
	for _, call := range changes {
		if f.excused(fn, call) || first != token.NoPos && first < call.Pos() && call.Pos() < last {
			continue
		}
		problems = append(problems, fmt.Sprintf("%s: %s has no failpoint before and behind it in %s", f.at(call), written(call.Fun), fn.Name.Name))
	}
	return points, problems
}

func (f file) point(call *ast.CallExpr) (p Point, problems []string) {
	p.At = f.at(call)
	lit, ok := call.Args[0].(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return p, []string{p.At + ": the name is not written there"}
	}
	p.Name, _ = strconv.Unquote(lit.Value) // it was parsed
	if _, why, ok := strings.Cut(f.notes[f.set.Position(call.End()).Line], "apart:"); ok {
		p.Apart = strings.TrimSpace(why)
	}
	return p, nil
}

// excused says whether a comment tells why there is no mark: at the call, on the line above, or at the function.
func (f file) excused(fn *ast.FuncDecl, call *ast.CallExpr) bool {
	line := f.set.Position(call.Pos()).Line
	const words = "no failpoint:"
	return strings.Contains(f.notes[line], words) || strings.Contains(f.notes[line-1], words) ||
		fn.Doc != nil && strings.Contains(fn.Doc.Text(), words)
}

func (f file) at(n ast.Node) string {
	pos := f.set.Position(n.Pos())
	name, err := filepath.Rel(f.root, pos.Filename)
	if err != nil {
		name = pos.Filename
	}
	return fmt.Sprintf("%s:%d", name, pos.Line)
}

// written is how a function is named where it is called: pkg.Name, a.b.Name.
func written(fun ast.Expr) string {
	switch e := fun.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if of := written(e.X); of != "" {
			return of + "." + e.Sel.Name
		}
	}
	return ""
}
