package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"
)

// formats are the values of --output.
func formats() []string { return []string{"table", "wide", "json", "yaml"} }

// colours of the terminal, as ECMA-48 numbers them.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// isTerminal reports whether w is one.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// paint colours text for w if that is a terminal and nobody asked for no colour.
func (a *app) paint(w io.Writer, colour, text string) string {
	if a.set.noColor || a.getenv("NO_COLOR") != "" || colour == "" || text == "" || !isTerminal(w) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// stateColour is how a word of state, health, sync or result is painted.
func stateColour(word string) string {
	switch word {
	case "Running", "Healthy", "Synced", "Completed", "Applied", "ok":
		return green
	case "Degraded", "Failed", "Rejected", "RolledBack", "CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull",
		"OOMKilled", "CreateContainerError", "missing":
		return red
	case "Pending", "Pulling", "Created", "Progressing", "OutOfSync", "Blocked", "Suspended", "Removing", "warning":
		return yellow
	default:
		return ""
	}
}

// What a verb says to people goes through these four. That a pipe's other end is gone is no error of ours.
func (a *app) outf(format string, args ...any) { _, _ = fmt.Fprintf(a.out, format, args...) }
func (a *app) outln(args ...any)               { _, _ = fmt.Fprintln(a.out, args...) }
func (a *app) errf(format string, args ...any) { _, _ = fmt.Fprintf(a.err, format, args...) }
func (a *app) errln(args ...any)               { _, _ = fmt.Fprintln(a.err, args...) }

// print writes value as JSON or YAML where that was asked for; else it calls text.
func (a *app) print(value any, text func() error) error {
	switch a.set.output {
	case "json":
		return writeJSON(a.out, value)
	case "yaml":
		return writeYAML(a.out, value)
	default:
		return text()
	}
}

func writeJSON(w io.Writer, value any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		return err
	}
	_, err := turners().WriteString(w, buf.String())
	return err
}

// writeYAML writes value as YAML with the names and the order that its JSON has.
func writeYAML(w io.Writer, value any) error {
	var buf bytes.Buffer
	if err := writeJSON(&buf, value); err != nil {
		return err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(buf.Bytes(), &doc); err != nil { // JSON is YAML
		return err
	}
	blockStyle(&doc)
	buf.Reset()
	enc := yaml.NewEncoder(&buf)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&doc), enc.Close()); err != nil {
		return err
	}
	_, err := turners().WriteString(w, buf.String())
	return err
}

// turners are the marks that turn the text around them (CVE-2021-42574), as JSON and double-quoted YAML escape them.
func turners() *strings.Replacer {
	var pairs []string
	for _, r := range "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069" {
		pairs = append(pairs, string(r), fmt.Sprintf(`\u%04x`, r))
	}
	return strings.NewReplacer(pairs...)
}

// plain escapes what a terminal would act upon, such as in a name that the user of a verb gave it.
func plain(s string) string {
	var b strings.Builder
	for _, r := range s {
		if strconv.IsPrint(r) || r == '\n' || r == '\t' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// blockStyle takes away the braces and quotes that a node was read with. Empty lists and mappings keep theirs, and so does
// what is to be escaped.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	if turners().Replace(n.Value) != n.Value {
		n.Style = yaml.DoubleQuotedStyle
	}
	if len(n.Content) == 0 && n.Kind != yaml.ScalarNode {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// table gathers rows and writes them in columns.
type table struct {
	app  *app
	head []string
	rows [][]string
}

// newTable returns a table with these headings.
func (a *app) newTable(head ...string) *table { return &table{app: a, head: head} }

// row adds a row; an empty cell shows as a dash.
func (t *table) row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// write prints the table. Colours do not count as width; the last column is not padded.
func (t *table) write() error {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	line := func(row []string, colour func(string) string) {
		for i, cell := range row {
			b.WriteString(t.app.paint(t.app.out, colour(cell), cell))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+3))
			}
		}
		b.WriteByte('\n')
	}
	line(t.head, func(string) string { return "" })
	for _, row := range t.rows {
		line(row, stateColour)
	}
	_, err := io.WriteString(t.app.out, b.String())
	return err
}

// age is how long ago t was, as kubectl writes it.
func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return roughly(now.Sub(t))
}

// roughly writes a duration in its two largest units.
func roughly(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 3*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}

// size writes bytes as manifests do.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%dB", n)
	}
	value, suffix := float64(n), ""
	for _, suffix = range []string{"Ki", "Mi", "Gi", "Ti"} {
		value /= unit
		if value < unit {
			break
		}
	}
	return fmt.Sprintf("%.4g%s", value, suffix)
}

// shortDigest cuts the digest to what a person compares.
func shortDigest(d string) string {
	if hash, ok := strings.CutPrefix(d, "sha256:"); ok && len(hash) > 12 {
		return hash[:12]
	}
	return d
}

// shortCommit cuts a commit as git does.
func shortCommit(c string) string {
	if hash, ok := strings.CutPrefix(c, "dir:"); ok {
		return "dir:" + shortCommit(hash)
	}
	if len(c) > 12 {
		return c[:12]
	}
	return c
}
