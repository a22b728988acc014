package main

import (
	"github.com/spf13/cobra"

	"reconciler/runtime/linux"
)

func newDoctor(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "doctor",
		Short:       "Say what this server has and lacks, each with its remedy",
		Example:     "  reconciler doctor",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 all that is needed is there, 1 something needed is missing"},
	}
	a.set.addRegistry(cmd.Flags())
	a.set.addAllow(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := a.runtimeConfig(quiet())
		if err != nil {
			return err
		}
		checks := linux.Doctor(cmd.Context(), cfg)
		if err := a.print(checks, func() error { return a.printChecks(checks) }); err != nil {
			return err
		}
		for _, c := range checks {
			if c.Needed && !c.OK {
				return exitStatus(1)
			}
		}
		return nil
	}
	return cmd
}

func (a *app) printChecks(checks []linux.Check) error {
	t := a.newTable("CHECK", "RESULT", "DETAIL")
	for _, c := range checks {
		result := "ok"
		switch {
		case !c.OK && c.Needed:
			result = "missing"
		case !c.OK:
			result = "warning"
		}
		t.row(c.Name, result, c.Detail)
	}
	if err := t.write(); err != nil {
		return err
	}
	for _, c := range checks {
		if !c.OK && c.Remedy != "" {
			a.outf("%s %s: %s\n", a.paint(a.out, cyan, "hint:"), c.Name, c.Remedy)
		}
	}
	return nil
}
