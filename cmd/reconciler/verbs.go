package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"reconciler/manifest"
)

// ask calls the running agent, or fails with how to start it.
func (a *app) ask(ctx context.Context, verb string, call func(*agentClient) error) error {
	if err := needRoot(verb); err != nil {
		return err
	}
	client, err := a.agentClient(ctx)
	if errors.Is(err, errNoAgent) {
		return a.needAgent(verb)
	}
	if err != nil {
		return err
	}
	return call(client)
}

// done is what the verbs that ask for something say with -o json.
type done struct {
	Done string `json:"done"`
	What string `json:"what,omitempty"`
}

func (a *app) printDone(verb, what string) error {
	return a.print(done{Done: verb, What: what}, func() error {
		if what != "" {
			verb += " " + what
		}
		a.outln(verb)
		return nil
	})
}

func newApprove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "approve COMMIT",
		Short: "Let a commit through that a guard blocks",
		Long: `Lets a commit through on this node that a guard blocks. COMMIT is the one that status shows, in seven digits or more, or
a whole one that is yet to come. In a commit message "Reconciler-Allow: remove" does the same for a whole fleet.`,
		Example:     "  reconciler approve 1a2b3c4d5e6f",
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 approved, 1 not"},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), "approve", func(c *agentClient) error {
				commit, err := c.approve(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printDone("approved", commit)
			})
		},
	}
}

// newNameVerb returns a verb that asks the agent for something about one name.
func (a *app) newNameVerb(verb, past, short, long string, call func(*agentClient, context.Context, manifest.Name) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long,
		Example:     "  reconciler " + verb + " shop/web",
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 " + past + ", 1 not"},
	}
	namespace := namespaceFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := manifest.ParseName(args[0], *namespace)
		if err != nil {
			return err
		}
		return a.ask(cmd.Context(), verb, func(c *agentClient) error {
			if err := call(c, cmd.Context(), name); err != nil {
				return err
			}
			return a.print(done{Done: past, What: name.Short()}, func() error { a.outln(name.Short(), past); return nil })
		})
	}
	return cmd
}

func newRetry(a *app) *cobra.Command {
	return a.newNameVerb("retry", "is tried again", "End a container's backoff: what failed is tried again at once",
		"Ends a container's backoff or quarantine: what failed is tried again at once.", (*agentClient).retry)
}

func newRestart(a *app) *cobra.Command {
	return a.newNameVerb("restart", "is to be restarted", "Stop and start a container once",
		"Stops a container with its grace period and starts it again, with a fresh writable layer.", (*agentClient).restart)
}

// newNodeVerb returns a verb that asks the agent for something about the whole node.
func (a *app) newNodeVerb(verb, past, short, long string, call func(*agentClient, context.Context) error) *cobra.Command {
	return &cobra.Command{
		Use: verb, Short: short, Long: long,
		Example:     "  reconciler " + verb,
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 " + past + ", 1 not"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), verb, func(c *agentClient) error {
				if err := call(c, cmd.Context()); err != nil {
					return err
				}
				return a.printDone(past, "")
			})
		},
	}
}

func newSuspend(a *app) *cobra.Command {
	return a.newNodeVerb("suspend", "suspended", "Stop following the repository; crashed containers still restart",
		"Keeps this node at the commit in force until `reconciler resume`, over reboots too. Crashed containers still restart.",
		(*agentClient).suspend)
}

func newResume(a *app) *cobra.Command {
	return a.newNodeVerb("resume", "resumed", "Follow the repository again", "Ends `reconciler suspend`.", (*agentClient).resume)
}
