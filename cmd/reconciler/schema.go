package main

import (
	"github.com/spf13/cobra"

	"reconciler/manifest"
)

func newSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "schema",
		Short:       "Print the JSON Schema of manifests, for editors",
		Long:        "Prints the JSON Schema of manifests. Editors take it from a comment in the first line of a file:\n# yaml-language-server: $schema=PATH-OR-URL",
		Example:     "  reconciler schema > reconciler.schema.json",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0", bareAnnotation: "yes"},
		RunE: func(*cobra.Command, []string) error {
			_, err := a.out.Write(manifest.Schema())
			return err
		},
	}
}
