package main

import (
	"strings"
	"syscall"
	"testing"
	"unicode"

	"reconciler/reconcile/source/sourcetest"
)

// evil is what a stranger writes wherever a commit has a text: it clears a screen, forges a line, turns text around, and is
// markup.
const evil = "\x1b[2J\x07\nFORGED \u202eevil<img src=x>|`"

// tame fails for a text that would do to a terminal or log what a stranger wants.
func tame(t *testing.T, what, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "FORGED") {
			t.Errorf("%s: a forged line in\n%q", what, text)
		}
		if strings.ContainsFunc(strings.Trim(line, "\t\n"), func(r rune) bool { return unicode.IsControl(r) && r != '\t' || r == '\u202e' }) {
			t.Errorf("%s: raw control characters in %q", what, line)
		}
	}
}

// quotedYAML is a text as a double-quoted scalar, which can hold anything.
func quotedYAML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b.WriteString("\\" + string(r))
		case '\n':
			b.WriteString(`\n`)
		case '\x1b':
			b.WriteString(`\e`)
		case '\x07':
			b.WriteString(`\a`)
		case '\u202e':
			b.WriteString(`\u202e`)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// No verb, log or report prints what is in a commit as it is: file names, subjects, authors, values of manifests.
func TestHostileNamesAreNeverPrintedRaw(t *testing.T) {
	s := newServer(t)
	name := func(n string) string { return strings.ReplaceAll(evil, "/", "") + "/" + n + "\n.yaml" }
	with := func(text string) string { return busybox("a", forever, "env: {EVIL: "+quotedYAML(text)+"}") }
	repo := sourcetest.NewRepo(t)
	repo.CommitPush("first"+evil, sourcetest.Files{name("a"): with("first"), "b.yaml": busybox("b", forever)})
	agent := s.start("--repo", repo.Bare, "--log-level", "debug")
	s.must("sync", "--timeout", patience)
	check := func(args ...string) {
		t.Helper()
		r := s.do(args...)
		tame(t, strings.Join(args, " "), r.out)
		tame(t, strings.Join(args, " ")+" (stderr)", r.err)
	}
	all := func() {
		t.Helper()
		for _, args := range []string{
			"status", "status -o json", "status -o yaml", "ps -A", "ps -o wide", "ps -o json", "describe a", "describe a -o json", "plan", "plan -o json",
			"history", "history a", "history -o json", "events", "events -o json", "sync --timeout 20s", "image ls",
		} {
			check(strings.Fields(args)...)
		}
	}
	all()
	repo.CommitPush("second"+evil, sourcetest.Files{name("a"): with("second" + evil)})
	s.must("sync", "--timeout", patience)
	all()
	for _, broken := range []sourcetest.Files{
		{name("broken"): "apiVersion: reconciler/v1\nkind: " + quotedYAML(evil) + "\n"},
		{name("broken"): "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: " + quotedYAML(evil) + "}\nspec: {image: " + quotedYAML(evil) + ", " + quotedYAML(evil) + ": x}\n"},
		{name("broken"): sourcetest.Symlink + "/" + evil},
		{name("broken"): sourcetest.Symlink + strings.ReplaceAll(name("broken"), "/", "")},
		{name("broken"): busybox("b", forever)},
		{name("broken"): busybox("c", forever, "image: "+quotedYAML("x.example.com/"+evil))},
		{name("broken"): "\x1b[2J\x00"},
	} {
		repo.CommitPush("broken"+evil, broken)
		for _, args := range []string{"sync --timeout 20s", "status", "status -o json", "events"} {
			check(strings.Fields(args)...)
		}
		check("validate", repo.Work)
		check("diff", "HEAD~1..HEAD", "--repo", repo.Work)
		repo.CommitPush("undo", sourcetest.Files{name("broken"): sourcetest.Removed})
	}
	for _, format := range []string{"table", "json", "yaml", "markdown"} {
		check("diff", repo.Git("rev-list", "--max-parents=0", "HEAD")+"..HEAD", "--repo", repo.Work, "-o", format)
	}
	repo.Git("mv", strings.ReplaceAll(evil, "/", ""), "else"+strings.ReplaceAll(evil, "/", ""))
	repo.CommitPush("moved"+evil, nil)
	check("approve", evil)
	check("describe", strings.ReplaceAll(evil, "\n", "")) // a line of one's own making is no stranger's
	check("plan", "--path", evil)
	all()
	agent.stop(syscall.SIGTERM)
	tame(t, "log of the agent", agent.log.String())
}
