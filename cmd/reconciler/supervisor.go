package main

import (
	"github.com/spf13/cobra"

	"reconciler/runtime/linux"
	"reconciler/runtime/supervisor"
)

// newSupervisor returns the command that is the parent of all containers. People do not call it: the runtime does.
func newSupervisor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "supervisor",
		Short:  "The parent of this instance's containers; started by the agent",
		Hidden: true,
		Args:   argsError(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("supervisor"); err != nil {
				return err
			}
			log, err := a.logger()
			if err != nil {
				return err
			}
			return linux.RunSupervisor(cmd.Context(), supervisor.Config{
				StateDir: a.set.stateDir, RunDir: a.set.runDir, Instance: a.set.instance, Release: release(), Logger: log,
			})
		},
	}
}
