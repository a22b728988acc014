package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/idrange"
)

func newDescribe(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "describe NAME",
		Short:       "One container: its commit, author, file and line, what happened, why it is as it is",
		Example:     "  reconciler describe shop/web\n  reconciler describe web -n shop -o json",
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 described, 1 nothing of that name is here or meant to be"},
	}
	namespace := namespaceFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := manifest.ParseName(args[0], *namespace)
		if err != nil {
			return err
		}
		return a.runDescribe(cmd.Context(), name)
	}
	return cmd
}

func (a *app) runDescribe(ctx context.Context, name manifest.Name) error {
	look, err := a.look(ctx, "describe")
	if err != nil {
		return err
	}
	d, err := look.describe(ctx, name)
	if err != nil {
		return err
	}
	return a.print(d, func() error { return a.printDescription(d, time.Now()) })
}

func (a *app) printDescription(d report.Description, now time.Time) error {
	line := func(name, value string) {
		if value != "" {
			a.outf("%-14s %s\n", name+":", value)
		}
	}
	line("name", d.FullName().String())
	line("kind", d.Kind)
	line("state", a.paint(a.out, stateColour(d.State), d.State))
	line("health", a.paint(a.out, stateColour(d.Health), d.Health))
	line("reason", a.paint(a.out, stateColour(d.Reason), d.Reason))
	line("message", d.Message)
	line("hint", d.Hint)
	if d.NextRetryAt != nil {
		line("next try", "in "+roughly(d.NextRetryAt.Sub(now)))
	}
	if d.Source != nil {
		line("manifest", d.Source.String())
	}
	if d.DesiredCommit != nil {
		line("commit", revisionText(d.DesiredCommit, now))
	} else {
		line("commit", "not in the accepted commit: it is to go")
	}
	if d.MadeFrom != nil {
		line("made from", revisionText(d.MadeFrom, now))
	}
	line("image", d.Image)
	line("image digest", d.ImageDigest)
	a.describeProcess(d, now, line)
	line("labels", pairs(d.Labels))
	line("annotations", pairs(d.Annotations))
	for _, w := range d.Warnings {
		line("warning", w)
	}
	if d.Pending != nil {
		line("to do", string(d.Pending.Op)+": "+d.Pending.Reason)
	}
	if w := d.Working; w != nil {
		text := fmt.Sprintf("%s, %s", w.Op, w.Phase)
		if w.What != "" {
			text += ": " + w.What
		}
		if w.Total > 0 {
			text += fmt.Sprintf(" (%s of %s)", size(w.Done), size(w.Total))
		}
		line("in progress", text)
	}
	if d.NextRunAt != nil {
		line("next run", d.NextRunAt.Format(time.RFC3339)+", in "+roughly(d.NextRunAt.Sub(now)))
	}
	for _, r := range d.Runs {
		line("run", runText(r, now))
		a.printOutput("               | ", r.Output)
	}
	for _, o := range d.Others {
		line("other", fmt.Sprintf("%s %s %s", o.ID, o.State, o.Message))
	}
	if d.Spec != nil {
		a.outln("spec:")
		var b strings.Builder
		if err := writeYAML(&b, d.Spec); err != nil {
			return err
		}
		for text := range strings.Lines(b.String()) {
			a.outf("  %s", text)
		}
	}
	if len(d.Events) == 0 {
		return nil
	}
	a.outln("events:")
	for _, e := range d.Events {
		a.printEvent("  ", e, false)
	}
	return nil
}

// runText says in a line how a run of a Job went.
func runText(r report.JobRun, now time.Time) string {
	words := []string{cmp.Or(r.Result, "not ended")}
	if r.ScheduledAt != nil {
		words = append(words, "due "+r.ScheduledAt.Format(time.RFC3339))
	}
	if r.ExitCode != nil {
		words = append(words, fmt.Sprintf("exit code %d", *r.ExitCode))
	}
	if r.Attempts > 1 {
		words = append(words, count(r.Attempts, "attempt"))
	}
	if r.DurationMs > 0 {
		words = append(words, fmt.Sprintf("took %v", time.Duration(r.DurationMs)*time.Millisecond))
	}
	if r.FinishedAt != nil {
		words = append(words, age(now, *r.FinishedAt)+" ago")
	}
	if r.Message != "" {
		words = append(words, r.Message)
	}
	return strings.Join(words, ", ")
}

func (a *app) describeProcess(d report.Description, now time.Time, line func(name, value string)) {
	line("id", d.ID)
	if d.Pid != 0 {
		line("pid", fmt.Sprint(d.Pid))
	}
	line("host name", d.Hostname)
	line("address", d.IP)
	line("IPv6 address", d.IPv6)
	line("MAC address", d.MAC)
	line("ports", strings.Join(d.Ports, ", "))
	if d.Pid != 0 {
		line("user ids", userIDs(d.FirstID))
	}
	if d.StartedAt != nil {
		line("started", d.StartedAt.Format(time.RFC3339)+", "+age(now, *d.StartedAt)+" ago")
	}
	if d.FinishedAt != nil && d.Pid == 0 {
		line("finished", d.FinishedAt.Format(time.RFC3339)+", "+age(now, *d.FinishedAt)+" ago")
	}
	if d.ExitCode != nil {
		line("exit code", fmt.Sprint(*d.ExitCode))
	}
	if d.OOMKilled {
		line("oom killed", "yes")
	}
	if d.Pid != 0 {
		line("ready", yesOrNo(d.Ready))
	}
	if d.ID != "" {
		line("restarts", fmt.Sprint(d.Restarts))
	}
	line("limits", limitsText(d.Limits))
	if d.Requests != nil {
		line("requests", requestsText(*d.Requests))
	}
}

func yesOrNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func limitsText(l runtime.Resources) string {
	var words []string
	for _, limit := range []struct {
		name string
		n    int64
		text string
	}{
		{"cpu", l.CPUMillis, manifest.MilliCPU(l.CPUMillis).String()},
		{"memory", l.Memory, manifest.Bytes(l.Memory).String()},
		{"pids", l.Pids, fmt.Sprint(l.Pids)},
		{"disk", l.Disk, manifest.Bytes(l.Disk).String()},
		{"ingress", l.Ingress, manifest.BitRate(l.Ingress).String()},
		{"egress", l.Egress, manifest.BitRate(l.Egress).String()},
	} {
		if limit.n > 0 {
			words = append(words, limit.name+" "+limit.text)
		}
	}
	return strings.Join(words, ", ")
}

func requestsText(r manifest.Requests) string {
	var words []string
	if r.CPU != nil {
		words = append(words, "cpu "+r.CPU.String())
	}
	if r.Memory != nil {
		words = append(words, "memory "+r.Memory.String())
	}
	return strings.Join(words, ", ")
}

func userIDs(first uint32) string {
	if first == 0 {
		return "the server's"
	}
	return fmt.Sprintf("%d to %d are 0 to %d inside", first, first+idrange.Size-1, idrange.Size-1)
}

func pairs(m map[string]string) string {
	var list []string
	for _, k := range sortedKeys(m) {
		list = append(list, k+"="+m[k])
	}
	return strings.Join(list, ", ")
}
