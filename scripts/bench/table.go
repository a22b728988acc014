package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// facts say where and of what a table was made.
type facts struct {
	date, commit, machine, kernel, disk string
	versions                            []string
	runs                                int
	containers                          int
	took                                string
}

// The generated part of the page lies between these lines.
const (
	begin = "<!-- begin: written by make bench -->"
	end   = "<!-- end: written by make bench -->"
)

// page returns the page with another generated part. What people wrote around it stays.
func page(old, generated string) (string, error) {
	before, rest, ok := strings.Cut(old, begin)
	if !ok {
		return "", fmt.Errorf("no line %q", begin)
	}
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		return "", fmt.Errorf("no line %q", end)
	}
	return before + begin + "\n" + generated + end + after, nil
}

// report returns the generated part: where it was made, the table of ratios, how cost grows, what could not be measured.
func report(f *figures, at facts, ratios, growing []row, sizes []int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Commit %s, %s. Median of %d runs, each ratio taken within its run; in brackets the lowest and the highest. %d containers; it took %s.\n\n",
		at.commit, at.date, at.runs, at.containers, at.took)
	fmt.Fprintf(&b, "%s, Linux %s, all data on %s. %s.\n\n", at.machine, at.kernel, at.disk, strings.Join(at.versions, ", "))
	b.WriteString(table(f, ratios))
	if s := growth(f, growing, sizes); s != "" {
		b.WriteString("\n" + s)
	}
	if len(f.Failed) > 0 {
		b.WriteString("\nNot measured as meant:\n\n")
		for _, who := range sortedKeys(f.Failed) {
			fmt.Fprintf(&b, "* %s: %s\n", who, oneLine(f.Failed[who]))
		}
	}
	return b.String()
}

// table returns the rows of which something was measured: ours beside each peer.
func table(f *figures, rows []row) string {
	var b strings.Builder
	b.WriteString("| what | ours | beside | theirs | ours / theirs | wanted | |\n|---|--:|---|--:|--:|--:|---|\n")
	for _, r := range rows {
		mine := f.of(r.key, ours)
		if len(f.Values[r.key]) == 0 {
			continue
		}
		what := r.what
		if r.most != nil {
			fmt.Fprintf(&b, "| %s | %s | | | | %s %s | %s |\n", what, written(mine, r.unit), number(*r.most), r.unit, verdict(mine, *r.most))
			what = ""
		}
		for _, p := range r.peers {
			theirs, ratios := f.of(r.key, p.who), f.ratios(r.key, p.who)
			if len(theirs) == 0 && (f.Failed[p.who] == "" || p.most == 0) {
				continue // not asked for; what failed and is to be beaten shows as a gap
			}
			ratio, wanted, reached := "–", "", ""
			if len(ratios) > 0 {
				ratio = fmt.Sprintf("**%s** (%s–%s)", number(median(ratios)), number(slices.Min(ratios)), number(slices.Max(ratios)))
			}
			if p.most > 0 {
				wanted, reached = number(p.most), verdict(ratios, p.most)
			}
			left := ""
			if what != "" {
				left = written(mine, r.unit)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", what, left, cmp.Or(p.what, p.who), written(theirs, r.unit), ratio, wanted, reached)
			what = ""
		}
		if what != "" { // no peer, no limit
			fmt.Fprintf(&b, "| %s | %s | | | | | |\n", what, written(mine, r.unit))
		}
	}
	return b.String()
}

// growth returns what has to stay linear, with a column for each size; nothing where nothing was measured.
func growth(f *figures, rows []row, sizes []int) string {
	var b strings.Builder
	for _, r := range rows {
		if len(f.Values[r.key]) == 0 {
			continue
		}
		at := sizes
		if r.id == "manifests" {
			at = manifestSizes
		}
		if b.Len() == 0 {
			b.WriteString("| what grows | few | more | many |\n|---|--:|--:|--:|\n")
		}
		fmt.Fprintf(&b, "| %s |", r.what)
		for _, n := range at {
			fmt.Fprintf(&b, " %d: %s |", n, written(f.of(r.key, sized(n)), r.unit))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// sized is who a figure for that many is kept under.
func sized(n int) string { return fmt.Sprintf("%s, %d", ours, n) }

func written(all []float64, u unit) string {
	if len(all) == 0 {
		return "–"
	}
	return number(median(all)) + " " + string(u)
}

func verdict(all []float64, most float64) string {
	switch {
	case len(all) == 0:
		return "–"
	case median(all) <= most:
		return "yes"
	}
	return "**no**"
}

// number has three digits that count.
func number(v float64) string {
	switch {
	case v == 0 || v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
