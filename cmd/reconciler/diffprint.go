package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"reconciler/manifest"
	"reconciler/reconcile/fleet"
	"reconciler/reconcile/plan"
)

// printDiff writes a diff in the format that was asked for.
func (a *app) printDiff(r fleet.Diff) error {
	if a.set.output == "markdown" {
		_, err := io.WriteString(a.out, diffMarkdown(r))
		return err
	}
	return a.print(r, func() error {
		a.outf("%s..%s on %s\n", shortCommit(r.Base.Commit), shortCommit(r.Head.Commit), count(len(r.Nodes), "node"))
		for _, b := range r.Blocked {
			a.outf("%s on %s: %s: %s\n", a.paint(a.out, yellow, "blocked"), nodesText(b.Nodes), b.Reason, b.Message)
		}
		if len(r.Changes) == 0 && len(r.Blocked) == 0 {
			a.outln("nothing would change")
		}
		for _, c := range r.Changes {
			a.outf("%s %s\n", c.Name.Short(), a.paint(a.out, opColour(c.Op), changeText(c)))
			if a.set.output == "wide" || len(c.Nodes) < 4 {
				a.outf("    nodes: %s\n", strings.Join(c.Nodes, ", "))
			}
			if len(c.Changes) == 0 && c.Reason != "" {
				a.outf("    %s\n", c.Reason)
			}
			for _, f := range c.Changes {
				a.outf("    %s: %s -> %s\n", f.Field, firstOf(f.From, "(none)"), firstOf(f.To, "(none)"))
			}
		}
		return nil
	})
}

// changeText is the change in a sentence: "replaced on 380 of 400".
func changeText(c fleet.Change) string {
	return fmt.Sprintf("%s on %d of %d", pastTense(c.Op), len(c.Nodes), max(c.Of, len(c.Nodes)))
}

func pastTense(op plan.Op) string {
	switch op {
	case plan.OpCreate:
		return "created"
	case plan.OpReplace:
		return "replaced"
	case plan.OpUpdate:
		return "updated in place"
	case plan.OpRestart:
		return "restarted"
	case plan.OpRemove:
		return "removed"
	default:
		return string(op)
	}
}

func opColour(op plan.Op) string {
	switch op {
	case plan.OpCreate:
		return green
	case plan.OpRemove:
		return red
	default:
		return yellow
	}
}

// nodesText names a few nodes and counts the rest.
func nodesText(nodes []string) string {
	if len(nodes) <= 3 {
		return strings.Join(nodes, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(nodes[:2], ", "), len(nodes)-2)
}

// diffMarkdown is a comment for a pull request.
func diffMarkdown(r fleet.Diff) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### What `%s..%s` changes on %s\n\n", shortCommit(r.Base.Commit), shortCommit(r.Head.Commit), count(len(r.Nodes), "node"))
	for _, block := range r.Blocked {
		fmt.Fprintf(&b, "> **Blocked** on %s (%s): %s\n\n", nodesText(block.Nodes), block.Reason, escapeMarkdown(block.Message))
	}
	if len(r.Changes) == 0 {
		if len(r.Blocked) == 0 {
			b.WriteString("Nothing would change.\n")
		}
		return b.String()
	}
	b.WriteString("| container | what | nodes | why |\n|---|---|---|---|\n")
	for _, c := range r.Changes {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", c.Name.Short(), changeText(c), escapeMarkdown(nodesText(c.Nodes)), escapeMarkdown(changeWhy(c)))
	}
	if slices.ContainsFunc(r.Changes, func(c fleet.Change) bool { return len(c.Changes) > 0 }) {
		b.WriteString("\n<details><summary>Fields</summary>\n\n")
		for _, c := range r.Changes {
			writeFields(&b, c.Name, c.Changes)
		}
		b.WriteString("</details>\n")
	}
	return b.String()
}

// changeWhy is the reason, or the fields that changed.
func changeWhy(c fleet.Change) string {
	if len(c.Changes) == 0 {
		return c.Reason
	}
	var fields []string
	for _, f := range c.Changes {
		fields = append(fields, f.Field)
	}
	return strings.Join(fields, ", ")
}

func writeFields(b *strings.Builder, name manifest.Name, changes []manifest.Change) {
	if len(changes) == 0 {
		return
	}
	fmt.Fprintf(b, "`%s`\n\n| field | from | to |\n|---|---|---|\n", name.Short())
	for _, f := range changes {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", f.Field, escapeMarkdown(f.From), escapeMarkdown(f.To))
	}
	b.WriteString("\n")
}

// escapeMarkdown makes a text safe inside a table cell: what a manifest says must not become markup in a comment.
func escapeMarkdown(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "|", `\|`, "\r", "", "\n", "<br>", "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "@", "@\u200b").Replace(s)
}
