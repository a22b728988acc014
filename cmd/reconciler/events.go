package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile/report"
)

type eventsOptions struct {
	follow bool
	tail   int
}

func newEvents(a *app) *cobra.Command {
	var opts eventsOptions
	cmd := &cobra.Command{
		Use:         "events [NAME] [flags]",
		Short:       "What happened on this node, oldest first",
		Long:        "Prints what happened on this node, oldest first. With -f it goes on as more happens, which needs a running agent;\n-o json prints one object a line then.",
		Example:     "  reconciler events -f\n  reconciler events shop/web --tail 20",
		Args:        argsError(cobra.MaximumNArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 printed, 1 not"},
	}
	cmd.Flags().BoolVarP(&opts.follow, "follow", "f", false, "go on as more happens, until interrupted")
	cmd.Flags().IntVar(&opts.tail, "tail", -1, "only the last `N` (-1 is all that are kept)")
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
		return a.runEvents(cmd.Context(), name, opts)
	}
	return cmd
}

func (a *app) runEvents(ctx context.Context, name *manifest.Name, opts eventsOptions) error {
	look, err := a.look(ctx, "events")
	if err != nil {
		return err
	}
	if opts.follow {
		skip, countErr := a.skipAllBut(ctx, look, name, opts.tail)
		if countErr != nil {
			return countErr
		}
		return look.events(ctx, name, true, func(e report.Event) error {
			if skip > 0 {
				skip--
				return nil
			}
			return a.streamEvent(e)
		})
	}
	events := []report.Event{}
	err = look.events(ctx, name, false, func(e report.Event) error {
		events = append(events, e)
		return nil
	})
	if err != nil {
		return err
	}
	if opts.tail >= 0 {
		events = events[max(0, len(events)-opts.tail):]
	}
	return a.print(events, func() error {
		if len(events) == 0 && name != nil {
			a.errf("nothing that is remembered here happened to %s; `reconciler events` lists all\n", name.Short())
		}
		for _, e := range events {
			a.printEvent("", e, true)
		}
		return nil
	})
}

// skipAllBut returns how many events of the past to leave out so that tail are left; -1 is all.
func (a *app) skipAllBut(ctx context.Context, look looker, name *manifest.Name, tail int) (int, error) {
	if tail < 0 {
		return 0, nil
	}
	past := 0
	err := look.events(ctx, name, false, func(report.Event) error { past++; return nil })
	return max(0, past-tail), err
}

// streamEvent prints one of an endless list: JSON takes a line each.
func (a *app) streamEvent(e report.Event) error {
	switch a.set.output {
	case "json":
		return json.NewEncoder(a.out).Encode(e)
	case "yaml":
		a.outln("---")
		return writeYAML(a.out, e)
	default:
		a.printEvent("", e, true)
		return nil
	}
}

func (a *app) printEvent(indent string, e report.Event, withName bool) {
	colour := ""
	if e.Type == report.EventWarning {
		colour = yellow
	}
	about := ""
	if withName {
		about = fmt.Sprintf("%-20s ", "-")
		if e.Name != nil {
			about = fmt.Sprintf("%-20s ", e.Name.Short())
		}
	}
	a.outln(strings.TrimRight(fmt.Sprintf("%s%s  %s%s %s", indent, e.Time.UTC().Format(time.RFC3339), about, a.paint(a.out, colour, e.Reason), e.Message), " "))
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
