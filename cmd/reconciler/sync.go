package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"reconciler/reconcile"
)

func newSync(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Fetch and converge now, and wait for it",
		Long: `Looks at the repository now and waits until what runs is what its newest commit says. Failed steps that wait for their
next try are tried at once. Where an agent runs it does the work, with its own flags; else this program does, by the
flags given here, and needs --repo.`,
		Example:     "  reconciler sync --timeout 2m\n  reconciler sync --repo https://git.example.com/fleet.git",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 converged and healthy, 1 failed, 3 blocked by a guard, 4 an update was rolled back"},
	}
	a.set.addAll(cmd.Flags())
	a.set.hideListen(cmd.Flags())
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "wait `DURATION` at most (0: for ever)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runSync(cmd.Context(), timeout) }
	return cmd
}

// timeLimit returns ctx with a timeout, or without one for 0.
func timeLimit(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

func (a *app) runSync(ctx context.Context, timeout time.Duration) error {
	if err := needRoot("sync"); err != nil {
		return err
	}
	result, err := a.syncBy(ctx, timeout)
	if err != nil {
		return err
	}
	if err := a.print(result, func() error { a.printSync(result); return nil }); err != nil {
		return err
	}
	switch result.Outcome {
	case reconcile.SyncConverged:
		return nil
	case reconcile.SyncBlocked:
		return exitStatus(3)
	case reconcile.SyncRolledBack:
		return exitStatus(4)
	default:
		return exitStatus(1)
	}
}

// syncBy has the agent converge or, where none runs, does it here.
func (a *app) syncBy(ctx context.Context, timeout time.Duration) (reconcile.SyncResult, error) {
	client, err := a.agentClient(ctx)
	switch {
	case err == nil:
		return client.sync(ctx, timeout)
	case !errors.Is(err, errNoAgent):
		return reconcile.SyncResult{}, err
	case a.set.repo == "":
		return reconcile.SyncResult{}, withHint(a.needAgent("sync"), "start it with `reconciler agent`, or name the repository with --repo to converge without one")
	}
	log, err := a.logger()
	if err != nil {
		return reconcile.SyncResult{}, err
	}
	agent, err := a.newAgent("sync", log)
	if err != nil {
		return reconcile.SyncResult{}, err
	}
	ctx, cancel := timeLimit(ctx, timeout)
	defer cancel()
	return agent.SyncOnce(ctx)
}

func (a *app) printSync(r reconcile.SyncResult) {
	if r.Outcome == reconcile.SyncConverged {
		a.outf("%s at %s\n", a.paint(a.out, green, "converged"), shortCommit(r.Revision))
		return
	}
	text := string(r.Outcome)
	if r.Reason != "" && r.Reason != text {
		text += ": " + r.Reason
	}
	a.errf("%s %s: %s\n", a.paint(a.err, red, "sync:"), text, firstOf(r.Message, "no reason was given"))
	if r.Hint != "" {
		a.errf("%s %s\n", a.paint(a.err, cyan, "hint:"), r.Hint)
	}
}
