package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// maxProblems bounds what one broken commit can make us keep and print.
const maxProblems = 200

// problems gathers what is wrong, each thing once: a manifest is decoded once for each way that overrides apply to it.
type problems struct {
	errors   []Problem
	warnings []Problem
	warned   map[string]bool // files that there are warnings of, those that are not told too
	seen     map[Problem]int // index into errors of a problem without its nodes
	nodes    map[int][]string
}

func newProblems() *problems {
	return &problems{warned: make(map[string]bool), seen: make(map[Problem]int), nodes: make(map[int][]string)}
}

// key leaves the field out: the same place has another path inside an override and in the merged spec.
func (p Problem) key() Problem { return Problem{Position: p.Position, Message: p.Message} }

// full reports whether there is no room for another error.
func (ps *problems) full() bool { return len(ps.errors) >= maxProblems }

func (ps *problems) add(p Problem) { ps.addOn(p, "") }

// addOn adds a problem that exists on one node; the same one on several nodes is told once.
func (ps *problems) addOn(p Problem, node string) {
	p.Message = visible(p.Message)
	i, ok := ps.seen[p.key()]
	if !ok {
		if ps.full() {
			return
		}
		i = len(ps.errors)
		ps.seen[p.key()] = i
		ps.errors = append(ps.errors, p)
	}
	if node != "" && !slices.Contains(ps.nodes[i], node) {
		ps.nodes[i] = append(ps.nodes[i], node)
	}
}

func (ps *problems) warn(p Problem) {
	ps.warned[p.Position.File] = true
	if len(ps.warnings) >= maxProblems {
		return
	}
	if p.Message = visible(p.Message); !slices.Contains(ps.warnings, p) {
		ps.warnings = append(ps.warnings, p)
	}
}

// err returns everything as one *multierror.Error, or nil.
func (ps *problems) err() error {
	if len(ps.errors) == 0 {
		return nil
	}
	out := slices.Clone(ps.errors)
	for i, nodes := range ps.nodes {
		out[i].Message += onNodes(nodes)
	}
	slices.SortStableFunc(out, compareProblems)
	all := &multierror.Error{ErrorFormat: formatProblems}
	for _, p := range out {
		all.Errors = append(all.Errors, p)
	}
	if ps.full() {
		all.Errors = append(all.Errors, fmt.Errorf("only the first %d problems are told", maxProblems))
	}
	return all
}

func onNodes(nodes []string) string {
	switch len(nodes) {
	case 0:
		return ""
	case 1:
		return " (on node " + nodes[0] + ")"
	case 2, 3:
		return " (on nodes " + strings.Join(nodes, ", ") + ")"
	default:
		return fmt.Sprintf(" (on nodes %s and %d more)", strings.Join(nodes[:2], ", "), len(nodes)-2)
	}
}

func compareProblems(a, b Problem) int {
	return cmp.Or(
		strings.Compare(a.Position.File, b.Position.File),
		cmp.Compare(a.Position.Line, b.Position.Line),
		cmp.Compare(a.Position.Column, b.Position.Column),
		strings.Compare(a.Field, b.Field),
		strings.Compare(a.Message, b.Message),
	)
}

// formatProblems prints one problem a line.
func formatProblems(errs []error) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Problems returns the problems that an error of Load holds, or nil.
func Problems(err error) []Problem {
	var all *multierror.Error
	if !errors.As(err, &all) {
		return nil
	}
	var out []Problem
	for _, e := range all.Errors {
		if p, ok := errors.AsType[Problem](e); ok {
			out = append(out, p)
		}
	}
	return out
}

// printable quotes s where it holds anything that a terminal would not show as it is. Different texts look different.
func printable(s string) string {
	if strings.HasPrefix(s, `"`) || strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) || strings.Contains(s, "\uFFFD") {
		return strconv.Quote(s)
	}
	return s
}

// visible escapes what a terminal would act upon: names in messages are a stranger's.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// quote shows a stranger's text inside a message: quoted, and never long.
func quote(s string) string { return strconv.Quote(clip(s)) }
