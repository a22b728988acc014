package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
)

func newHistory(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "history [NAME]",
		Short:       "Commits that this node dealt with: who, what was done, how it went",
		Example:     "  reconciler history\n  reconciler history shop/web -o json",
		Args:        argsError(cobra.MaximumNArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 listed, 1 not"},
	}
	namespace := namespaceFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var name *manifest.Name
		if len(args) == 1 {
			parsed, err := manifest.ParseName(args[0], *namespace)
			if err != nil {
				return err
			}
			name = &parsed
		}
		return a.runHistory(cmd.Context(), name)
	}
	return cmd
}

func (a *app) runHistory(ctx context.Context, name *manifest.Name) error {
	look, err := a.look(ctx, "history")
	if err != nil {
		return err
	}
	entries, err := look.history(ctx, name)
	if err != nil {
		return err
	}
	return a.print(entries, func() error {
		switch {
		case len(entries) > 0:
			a.printHistory(entries, time.Now())
		case name != nil:
			a.errf("no commit that is remembered here was about %s; `reconciler history` lists them all\n", name.Short())
		default:
			a.errln("no commit was dealt with here yet")
		}
		return nil
	})
}

// printOutput prints the end of what a Job wrote, whatever it was.
func (a *app) printOutput(indent, output string) {
	for line := range strings.Lines(output) {
		a.outf("%s%s\n", indent, plain(strings.TrimSuffix(line, "\n")))
	}
}

func (a *app) printHistory(entries []journal.Entry, now time.Time) {
	for _, e := range entries {
		a.outf("%s  %s  %s ago", shortCommit(e.Revision), a.paint(a.out, stateColour(e.Result), e.Result), age(now, e.Time))
		if e.Author != "" {
			a.outf("  %s", e.Author)
		}
		if e.Subject != "" {
			a.outf("  %q", e.Subject)
		}
		a.outln()
		if e.Message != "" {
			a.outf("    %s\n", e.Message)
		}
		for _, s := range e.Steps {
			a.outf("    %-8s %-24s %-10s %s", s.Op, s.Name.Short(), s.Result, s.Reason)
			if s.ExitCode != nil {
				a.outf(" exit code %d", *s.ExitCode)
			}
			if s.DurationMs > 0 {
				a.outf(" (%v)", time.Duration(s.DurationMs)*time.Millisecond)
			}
			a.outln()
			if s.Error != "" {
				a.outf("             %s\n", a.paint(a.out, red, s.Error))
			}
			a.printOutput("             | ", s.Output)
		}
	}
}
