package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/runtime"
)

type statsOptions struct {
	watch, allNamespaces bool
	namespace            string
}

func newStats(a *app) *cobra.Command {
	var opts statsOptions
	cmd := &cobra.Command{
		Use:   "stats [NAME]",
		Short: "What each running container uses: cpu, memory, disk, network, processes",
		Long: `Measures every running container for a second and prints what it uses: processor time in percent of one core, memory without the
caches that the kernel gives back, processes, bytes through its network interface and to and from disks since its start, and
what its writable layer holds. It needs no agent.`,
		Example:     "  reconciler stats -A\n  reconciler stats web --watch\n  reconciler stats -o json",
		Args:        argsError(cobra.MaximumNArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 measured, 1 not"},
	}
	cmd.Flags().BoolVarP(&opts.watch, "watch", "w", false, "go on every second, until interrupted")
	cmd.Flags().BoolVarP(&opts.allNamespaces, "all-namespaces", "A", false, "those of every namespace")
	cmd.Flags().StringVarP(&opts.namespace, "namespace", "n", manifest.DefaultNamespace, "those of this `NAMESPACE`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runStats(cmd.Context(), args, opts) }
	return cmd
}

// statsRow is what stats prints of one container.
type statsRow struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// CPUPercent is of one core, over the time since the measurement before.
	CPUPercent float64 `json:"cpuPercent"`
	CPUSeconds float64 `json:"cpuSeconds"` // since its start
	runtime.Stats
}

func (a *app) runStats(ctx context.Context, args []string, opts statsOptions) error {
	rt, err := a.openRuntime("stats", quiet())
	if err != nil {
		return err
	}
	meant := func(s runtime.Stats) bool { return opts.allNamespaces || s.Name.Namespace == opts.namespace }
	if len(args) == 1 {
		status, _, findErr := find(ctx, rt, args[0], opts.namespace)
		if findErr != nil {
			return findErr
		}
		if !running(status) {
			return withHint(fmt.Errorf("%s is not running: it is %s", args[0], status.State), "`reconciler describe %s` says why", args[0])
		}
		meant = func(s runtime.Stats) bool { return s.ID == status.ID }
	}
	before, err := rt.Stats(ctx)
	if err != nil {
		return err
	}
	measure := func() error {
		now, err := rt.Stats(ctx)
		if err != nil {
			return err
		}
		rows := statsRows(before, now, meant)
		before = now
		if opts.watch {
			a.newScreen()
		}
		return a.print(rows, func() error { return a.printStats(rows) })
	}
	select { // what is used is a difference
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(watchInterval):
	}
	if opts.watch {
		return a.watch(ctx, measure)
	}
	return measure()
}

// statsRows compares two measurements of what is meant. A container that was started in between is measured from its start.
func statsRows(before, now []runtime.Stats, meant func(runtime.Stats) bool) []statsRow {
	last := make(map[runtime.ID]runtime.Stats, len(before))
	for _, s := range before {
		last[s.ID] = s
	}
	rows := []statsRow{}
	for _, s := range now {
		if !meant(s) {
			continue
		}
		row := statsRow{Namespace: s.Name.Namespace, Name: s.Name.Name, CPUSeconds: s.CPU.Seconds(), Stats: s}
		if old, ok := last[s.ID]; ok && s.Time.After(old.Time) && s.CPU >= old.CPU {
			row.CPUPercent = 100 * float64(s.CPU-old.CPU) / float64(s.Time.Sub(old.Time))
		}
		rows = append(rows, row)
	}
	return rows
}

func (a *app) printStats(rows []statsRow) error {
	if len(rows) == 0 {
		a.errln("no containers run here")
		return nil
	}
	t := a.newTable("NAMESPACE", "NAME", "CPU", "MEMORY", "PIDS", "NET IN/OUT", "DISK READ/WRITTEN", "LAYER")
	for _, r := range rows {
		t.row(r.Namespace, r.Name, fmt.Sprintf("%.1f%%", r.CPUPercent), of(size(r.Memory), r.MemoryLimit, size), of(fmt.Sprint(r.Pids), r.PidsLimit, func(n int64) string { return fmt.Sprint(n) }),
			size(r.NetworkReceived)+" / "+size(r.NetworkSent), size(r.DiskRead)+" / "+size(r.DiskWritten), of(size(r.Disk), r.DiskLimit, size))
	}
	return t.write()
}

// of adds the limit to what is used, where there is one.
func of(used string, limit int64, text func(int64) string) string {
	if limit == 0 {
		return used
	}
	return used + " / " + text(limit)
}
