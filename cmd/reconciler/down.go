package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"reconciler/reconcile"
	"reconciler/reconcile/api"
	"reconciler/reconcile/journal"
)

type downOptions struct{ volumes, yes bool }

func newDown(a *app) *cobra.Command {
	var opts downOptions
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Suspend the agent, and stop and remove every container of this instance",
		Long: `Suspends a running agent, stops and removes every container of this instance, and ends the supervisor. Images stay, and
volumes too unless --volumes is given. ` + "`reconciler resume`" + ` brings it all back.`,
		Example:     "  reconciler down\n  reconciler down --volumes --yes",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 nothing of this instance runs, 1 something may"},
	}
	cmd.Flags().BoolVar(&opts.volumes, "volumes", false, "remove the volumes and all that is in them, too")
	cmd.Flags().BoolVar(&opts.yes, "yes", false, "do not ask")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runDown(cmd.Context(), opts) }
	return cmd
}

func (a *app) runDown(ctx context.Context, opts downOptions) error {
	rt, err := a.openRuntime("down", quiet())
	if err != nil {
		return err
	}
	if opts.volumes && !opts.yes {
		volumes, listErr := rt.Volumes(ctx)
		if listErr != nil {
			return listErr
		}
		if len(volumes) > 0 {
			if no := a.confirm(fmt.Sprintf("remove %s and all that is in them?", count(len(volumes), "volume"))); no != nil {
				return no
			}
		}
	}
	client, err := a.agentClient(ctx)
	switch {
	case err == nil:
		if err = client.down(ctx); err != nil {
			return err
		}
	case !errors.Is(err, errNoAgent):
		return err
	default:
		// A sync without an agent, or an agent that is just starting, would make anew what is taken away.
		held, lockErr := journal.Lock(a.set.stateDir)
		if lockErr == nil {
			defer func() { _ = held.Close() }()
			lockErr = api.Clear(a.set.runDir)
		}
		if lockErr != nil && !errors.Is(lockErr, fs.ErrNotExist) { // without a state directory there is nobody
			return withHint(lockErr, "wait until that one has ended, or stop it")
		}
	}
	list, err := rt.List(ctx)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	err = reconcile.StopAll(ctx, rt, func(name, what string) {
		mu.Lock()
		defer mu.Unlock()
		a.errf("warning: %s: %s\n", name, what)
	})
	if err != nil {
		return err
	}
	if err := rt.Down(ctx, opts.volumes); err != nil {
		return err
	}
	return a.printDone("removed", count(len(list), "container"))
}

// confirm asks on the terminal. Without one the answer is no.
func (a *app) confirm(question string) error {
	if !isTerminal(a.in) {
		return withHint(errors.New("down: "+question+" nobody is here to answer"), "add --yes")
	}
	a.errf("%s [y/N] ", question)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return errors.New("down: not confirmed, nothing was done")
	}
	return nil
}
