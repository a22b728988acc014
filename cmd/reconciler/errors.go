package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"reconciler/manifest"
	"reconciler/reconcile/api"
	"reconciler/reconcile/source"
	"reconciler/runtime"
)

// exitError ends the program with a status of its own. Without err nothing is printed: the verb said it all.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitStatus returns an error that ends the program with code and prints nothing.
func exitStatus(code int) error { return &exitError{code: code} }

// hintError adds what a person can do to an error of the command line itself.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }
func (e *hintError) Unwrap() error { return e.err }

// withHint adds a hint to err.
func withHint(err error, format string, args ...any) error {
	return &hintError{err: err, hint: fmt.Sprintf(format, args...)}
}

// hintOf returns what a person can do about err, or "".
func hintOf(err error) string {
	if h, ok := errors.AsType[*hintError](err); ok {
		return h.hint
	}
	// Errors of other rooms carry theirs in a field of their own type, behind this method.
	var hinter interface{ Hint() string }
	var answer *api.Error
	switch {
	case errors.As(err, &answer):
		return answer.Hint
	case errors.As(err, &hinter):
		return hinter.Hint()
	case source.Hint(err) != "":
		return source.Hint(err)
	default:
		return cmp.Or(runtime.HintOf(err), hintOfDisk(err))
	}
}

// hintOfDisk says what a person can do about a disk that takes nothing.
func hintOfDisk(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "the disk is read-only, perhaps because of errors on it: see `dmesg`, and mount it writable again"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "free space on the disk, and inodes (`df -i`), such as with `reconciler image prune`"
	case errors.Is(err, unix.EIO):
		return "the disk has errors: see `dmesg`"
	}
	return ""
}

// errorReport is what -o json says of an error.
type errorReport struct {
	Error errorBody `json:"error"`
}

type errorBody struct {
	Message  string             `json:"message"`
	Reason   string             `json:"reason,omitempty"`
	Hint     string             `json:"hint,omitempty"`
	Problems []manifest.Problem `json:"problems,omitempty"`
}

// printError tells the caller why a verb failed, in the format that was asked for.
func (a *app) printError(args []string, err error) {
	hint := hintOf(err)
	problems := problemsOf(err)
	if a.wantsJSON(args) {
		body := errorBody{Message: err.Error(), Hint: hint, Problems: problems}
		if e, ok := errors.AsType[*runtime.Error](err); ok {
			body.Reason = e.Reason
		} else if e, ok := errors.AsType[*api.Error](err); ok {
			body.Reason = e.Reason
		}
		if len(problems) > 0 {
			body.Message = summary(problems)
		}
		enc := json.NewEncoder(a.err)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		_ = enc.Encode(errorReport{Error: body})
		return
	}
	if len(problems) > 0 {
		for _, p := range problems {
			a.errln(p.Error())
		}
		a.errf("%s %s\n", a.paint(a.err, red, "error:"), summary(problems))
	} else {
		for i, line := range errorLines(err) {
			if i == 0 {
				line = a.paint(a.err, red, "error:") + " " + plain(line)
			}
			a.errln(line)
		}
	}
	if hint != "" {
		a.errf("%s %s\n", a.paint(a.err, cyan, "hint:"), hint)
	}
}

// errorLines returns what to print of err: one line, or one for each error gathered in it.
func errorLines(err error) []string {
	if many, ok := err.(*multierror.Error); ok { //nolint:errorlint // wrapped, the words around it count
		lines := make([]string, 0, len(many.Errors))
		for _, e := range many.Errors {
			lines = append(lines, e.Error())
		}
		return lines
	}
	return []string{err.Error()}
}

// problemsOf returns the problems of manifests that err gathers, in the order of the files.
func problemsOf(err error) []manifest.Problem {
	if problems := manifest.Problems(err); problems != nil {
		return problems
	}
	if p, ok := errors.AsType[manifest.Problem](err); ok {
		return []manifest.Problem{p}
	}
	return nil
}

// gathered returns problems as one error.
func gathered(problems []manifest.Problem) error {
	var all *multierror.Error
	for _, p := range problems {
		all = multierror.Append(all, p)
	}
	return all
}

// summary counts problems and the files that they are in.
func summary(problems []manifest.Problem) string {
	var files []string
	for _, p := range problems {
		if !slices.Contains(files, p.Position.File) {
			files = append(files, p.Position.File)
		}
	}
	return fmt.Sprintf("%s in %s", count(len(problems), "problem"), count(len(files), "file"))
}

// count returns "1 file", "2 files".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// needRoot fails with what to do where the verb needs root and has it not.
func needRoot(verb string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return withHint(fmt.Errorf("%s: root is needed: it makes or looks into containers and their state, which belong to root", verb),
		"run it with sudo; `reconciler validate` and `reconciler diff` need no root")
}

// wantsJSON reports whether errors are to be printed as JSON. The flags may not have been parsed: a wrong flag is an
// error too.
func (a *app) wantsJSON(args []string) bool {
	if a.set.output == "json" {
		return true
	}
	for i, arg := range args {
		switch {
		case arg == "--":
			return false
		case arg == "-ojson", arg == "-o=json", arg == "--output=json":
			return true
		case (arg == "-o" || arg == "--output") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

// nearest returns the candidate that differs least from word, or "" where none is close.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", 3
	for _, c := range candidates {
		d := distance(word, c)
		closer := d < bestDistance || d == bestDistance && len(c) == len(word) && len(best) != len(word)
		if closer || (strings.HasPrefix(c, word) && len(word) > 2 && best == "") {
			best, bestDistance = c, min(d, bestDistance)
		}
	}
	return best
}

// distance is the number of insertions, deletions, substitutions and exchanges of neighbours that make b of a (optimal string
// alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
