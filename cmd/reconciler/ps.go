package main

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile/report"
)

type psOptions struct {
	all, allNamespaces, watch bool
	namespace                 string
}

func newPs(a *app) *cobra.Command {
	var opts psOptions
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List the containers that are meant to be here or still are",
		Long: `Lists one row for each name that is meant to be here or still is. It needs no agent: without one it shows what runs, and
what the last accepted commit asked for.`,
		Example:     "  reconciler ps -A\n  reconciler ps -n shop -o wide\n  reconciler ps -A -o json",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 listed, 1 not"},
	}
	cmd.Flags().BoolVar(&opts.all, "all", false, "also a name's other instances, such as that of a failed update")
	cmd.Flags().BoolVarP(&opts.allNamespaces, "all-namespaces", "A", false, "those of every namespace")
	cmd.Flags().StringVarP(&opts.namespace, "namespace", "n", manifest.DefaultNamespace, "those of this `NAMESPACE`")
	cmd.Flags().BoolVarP(&opts.watch, "watch", "w", false, "list them again whenever something changes, until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runPs(cmd.Context(), opts)
	}
	return cmd
}

func (a *app) runPs(ctx context.Context, opts psOptions) error {
	if !opts.watch {
		shown, all, err := a.psRows(ctx, opts)
		if err != nil {
			return err
		}
		return a.printPs(shown, all, opts)
	}
	var before []report.Row
	first := true
	return a.watch(ctx, func() error {
		shown, all, err := a.psRows(ctx, opts)
		if err != nil {
			return err
		}
		// A terminal is drawn anew for the ages in it.
		if !first && !isTerminal(a.out) && reflect.DeepEqual(shown, before) {
			return nil
		}
		first, before = false, shown
		a.newScreen()
		return a.printPs(shown, all, opts)
	})
}

// psRows returns the rows that are asked for, and how many there are in all.
func (a *app) psRows(ctx context.Context, opts psOptions) (shown []report.Row, all int, err error) {
	look, err := a.look(ctx, "ps") // each time, for the agent may come or go meanwhile
	if err != nil {
		return nil, 0, err
	}
	rows, err := look.rows(ctx, opts.all)
	shown = []report.Row{}
	for _, r := range rows {
		if opts.allNamespaces || r.Namespace == opts.namespace {
			shown = append(shown, r)
		}
	}
	return shown, len(rows), err
}

func (a *app) printPs(shown []report.Row, all int, opts psOptions) error {
	return a.print(shown, func() error {
		if len(shown) == 0 {
			a.errln(nothingHere(opts, all))
			return nil
		}
		return a.printRows(shown, time.Now())
	})
}

// nothingHere says why the table is empty, as kubectl does.
func nothingHere(opts psOptions, elsewhere int) string {
	switch {
	case opts.allNamespaces:
		return "no containers here"
	case elsewhere > 0:
		return fmt.Sprintf("no containers in namespace %s; -A lists the %d of other namespaces", opts.namespace, elsewhere)
	default:
		return "no containers in namespace " + opts.namespace
	}
}

func (a *app) printRows(rows []report.Row, now time.Time) error {
	head := []string{"NAMESPACE", "NAME", "STATE", "HEALTH", "RESTARTS", "AGE", "IMAGE", "REASON"}
	if a.set.output == "wide" {
		head = append(head[:len(head)-1], "IP", "PORTS", "PID", "ID", "REVISION", "DIGEST", "REASON")
	}
	t := a.newTable(head...)
	for _, r := range rows {
		since := ""
		if r.StartedAt != nil {
			since = age(now, *r.StartedAt)
		}
		cells := []string{r.Namespace, r.Name, r.State, r.Health, fmt.Sprint(r.Restarts), since, r.Image}
		if a.set.output == "wide" {
			pid := ""
			if r.Pid != 0 {
				pid = fmt.Sprint(r.Pid)
			}
			cells = append(cells, r.IP, strings.Join(r.Ports, ","), pid, r.ID, shortCommit(r.Revision), shortDigest(r.Digest))
		}
		t.row(append(cells, reasonText(r, now, a.set.output == "wide"))...)
	}
	return t.write()
}

// reasonText is the reason in a word, when it is tried again, and in wide tables the whole message.
func reasonText(r report.Row, now time.Time, wide bool) string {
	var parts []string
	if r.Reason != "" {
		parts = append(parts, r.Reason)
	}
	if r.NextRetryAt != nil {
		parts = append(parts, "retry in "+roughly(r.NextRetryAt.Sub(now)))
	}
	if r.NextRunAt != nil {
		parts = append(parts, "next run in "+roughly(r.NextRunAt.Sub(now)))
	}
	if wide && r.Message != "" {
		parts = append(parts, strings.ReplaceAll(r.Message, "\n", " "))
	}
	return strings.Join(parts, ", ")
}
