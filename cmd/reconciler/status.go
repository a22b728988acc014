package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"reconciler/reconcile/report"
)

func newStatus(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "status",
		Short:       "Source, revisions, sync, health and guards of this node as a whole",
		Example:     "  reconciler status\n  reconciler status -o json | jq .sync",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 Synced and Healthy, 1 otherwise"},
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runStatus(cmd.Context()) }
	return cmd
}

func (a *app) runStatus(ctx context.Context) error {
	look, err := a.look(ctx, "status")
	if err != nil {
		return err
	}
	s, err := look.status(ctx)
	if err != nil {
		return err
	}
	if err := a.print(s, func() error { a.printStatus(s, look.live(), time.Now()); return nil }); err != nil {
		return err
	}
	if s.Sync != report.Synced || s.Health != report.Healthy {
		return exitStatus(1)
	}
	return nil
}

func (a *app) printStatus(s report.Status, live bool, now time.Time) {
	line := func(name, value string) {
		if value != "" {
			a.outf("%-12s %s\n", name+":", value)
		}
	}
	node := s.Node
	if s.Instance != "" && s.Instance != defaultInstance {
		node += " (instance " + s.Instance + ")"
	}
	line("node", node)
	line("source", sourceText(s.Source))
	line("sync", a.paint(a.out, stateColour(s.Sync), s.Sync))
	line("health", a.paint(a.out, stateColour(s.Health), s.Health))
	line("reason", s.Reason)
	line("message", s.Message)
	line("fetched", revisionText(s.Fetched, now))
	line("accepted", revisionText(s.Accepted, now))
	line("applied", revisionText(s.Applied, now))
	line("containers", fmt.Sprintf("%d desired, %d running, %d healthy", s.Containers.Desired, s.Containers.Running, s.Containers.Healthy))
	if s.LastFetch.Time != nil {
		result := "ok"
		if !s.LastFetch.OK {
			result = s.LastFetch.Error
		}
		line("last fetch", age(now, *s.LastFetch.Time)+" ago: "+result)
	}
	if s.NextFetch != nil {
		line("next fetch", "in "+roughly(s.NextFetch.Sub(now)))
	}
	for _, w := range s.Warnings {
		line("warning", w)
	}
	if !live {
		line("agent", a.paint(a.out, yellow, "not running: nothing is fetched, restarted or repaired"))
	}
}

func sourceText(s report.Source) string {
	if s.URL == "" {
		return ""
	}
	text := s.URL
	if s.Branch != "" {
		text += " branch " + s.Branch
	}
	if s.Path != "" && s.Path != "." {
		text += " path " + s.Path
	}
	return text
}

func revisionText(r *report.Revision, now time.Time) string {
	if r == nil {
		return "none"
	}
	text := shortCommit(r.Commit)
	if r.Subject != "" {
		text += fmt.Sprintf(" %q", r.Subject)
	}
	if r.Author != "" {
		text += " by " + r.Author
	}
	if r.Time != nil {
		text += ", " + age(now, *r.Time) + " ago"
	}
	return text
}
