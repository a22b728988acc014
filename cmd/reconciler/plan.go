package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"reconciler/reconcile/report"
)

type planOptions struct {
	detailed bool
	timeout  time.Duration
}

func newPlan(a *app) *cobra.Command {
	var opts planOptions
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "What would change here and why; changes nothing",
		Long: `Says what the newest commit that can be used would change on this server, and why. It changes nothing. Where an agent
runs it answers, from what it last fetched; else the repository of --repo is looked at.`,
		Example: "  reconciler plan\n  reconciler plan --repo https://git.example.com/fleet.git --detailed-exitcode",
		Args:    argsError(cobra.NoArgs),
		Annotations: map[string]string{
			exitAnnotation: "0; with --detailed-exitcode: 0 nothing would change, 2 something would, 1 error",
		},
	}
	a.set.addAll(cmd.Flags())
	a.set.hideListen(cmd.Flags())
	cmd.Flags().BoolVar(&opts.detailed, "detailed-exitcode", false, "exit with 2 if something would change")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", time.Minute, "wait `DURATION` at most for the repository (0: for ever)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := timeLimit(cmd.Context(), opts.timeout)
		defer cancel()
		err := a.runPlan(ctx, opts)
		if errors.Is(err, context.DeadlineExceeded) {
			return withHint(fmt.Errorf("plan: not ready after %v: %w", opts.timeout, err), "give it longer with --timeout")
		}
		return err
	}
	return cmd
}

func (a *app) runPlan(ctx context.Context, opts planOptions) error {
	if err := needRoot("plan"); err != nil {
		return err
	}
	p, err := a.planBy(ctx)
	if err != nil {
		return err
	}
	if err := a.print(p, func() error { a.printPlan(p); return nil }); err != nil {
		return err
	}
	if opts.detailed && (len(p.Steps) > 0 || p.Blocked != nil) {
		return exitStatus(2)
	}
	return nil
}

// planBy asks the agent or, where none runs, looks by itself.
func (a *app) planBy(ctx context.Context) (report.Plan, error) {
	client, err := a.agentClient(ctx)
	switch {
	case err == nil:
		return client.plan(ctx)
	case !errors.Is(err, errNoAgent):
		return report.Plan{}, err
	case a.set.repo == "":
		return report.Plan{}, withHint(a.needAgent("plan"), "start it with `reconciler agent`, or name the repository with --repo")
	}
	return a.planAlone(ctx)
}

func (a *app) printPlan(p report.Plan) {
	if p.Blocked != nil {
		a.outf("%s (%s): %s\n", a.paint(a.out, yellow, "blocked"), p.Blocked.Reason, p.Blocked.Message)
	}
	for _, s := range p.Steps {
		a.outf("%s %s: %s\n", a.paint(a.out, opColour(s.Op), fmt.Sprintf("%-8s", s.Op)), s.Name.Short(), s.Reason)
		for _, c := range s.Changes {
			a.outf("           %s: %s -> %s\n", c.Field, firstOf(c.From, "(none)"), firstOf(c.To, "(none)"))
		}
		for _, after := range s.After {
			a.outf("           after %s\n", after.Short())
		}
	}
	for _, h := range p.Held {
		a.outf("%s %s: %s: %s\n", a.paint(a.out, yellow, "held    "), h.Name.Short(), h.Reason, h.Message)
	}
	if len(p.Steps) == 0 && p.Blocked == nil {
		a.outln("nothing to do")
	}
}
