package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"reconciler/runtime/supervisor"
)

type logsOptions struct {
	follow, previous, timestamps bool
	tail                         int
	since                        string
	stream, init                 string
}

func newLogs(a *app) *cobra.Command {
	var opts logsOptions
	cmd := &cobra.Command{
		Use:   "logs NAME [flags]",
		Short: "Print a container's output",
		Long: `Prints what a container wrote, its standard output on ours and its standard error on ours. It needs no agent.

Lines of earlier starts of the same container come first; --previous prints only those of the start before
the last one, or of another instance of the name, such as that of a failed update. --init prints what one of its
init containers wrote instead.`,
		Example: `  reconciler logs web -f --tail 20
  reconciler logs shop/web --since 10m --timestamps
  reconciler logs web --previous
  reconciler logs web --init migrate`,
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 printed, 1 no such container or its output cannot be read"},
	}
	cmd.Flags().BoolVarP(&opts.follow, "follow", "f", false, "go on as more is written, until interrupted")
	cmd.Flags().BoolVarP(&opts.previous, "previous", "p", false, "the start before the last, or the instance before this one")
	cmd.Flags().BoolVar(&opts.timestamps, "timestamps", false, "put the time before each line")
	cmd.Flags().IntVar(&opts.tail, "tail", -1, "only the last `N` lines (-1 is all)")
	cmd.Flags().StringVar(&opts.since, "since", "", "only what is not older than `D`, a duration such as 10m or a time such as 2026-01-02T15:04:05Z")
	cmd.Flags().StringVar(&opts.stream, "stream", "", "only this `STREAM`: stdout or stderr")
	cmd.Flags().StringVar(&opts.init, "init", "", "of this init container, by its `NAME`")
	namespace := namespaceFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.runLogs(cmd.Context(), args[0], *namespace, opts)
	}
	return cmd
}

func (a *app) runLogs(ctx context.Context, text, namespace string, opts logsOptions) error {
	read, err := opts.read(time.Now())
	if err != nil {
		return err
	}
	rt, err := a.openRuntime("logs", quiet())
	if err != nil {
		return err
	}
	status, others, err := find(ctx, rt, text, namespace)
	if err != nil {
		return err
	}
	if opts.previous {
		switch {
		case len(others) > 0:
			status = others[0]
		case status.Starts > 1 || opts.init != "":
			read.Previous = true
		default:
			return fmt.Errorf("%s: no start before the present one", text)
		}
	}
	p := newLogPrinter(a, opts.timestamps)
	output := rt.Logs(ctx, status.ID, read)
	if opts.init != "" {
		output = rt.InitLogs(ctx, status.ID, opts.init, read)
	}
	for entry, err := range output {
		if err != nil {
			return errors.Join(err, p.flush())
		}
		if err := p.print(entry); err != nil {
			return err
		}
	}
	return p.flush()
}

// read returns what the flags ask of the kept output.
func (o logsOptions) read(now time.Time) (supervisor.LogOptions, error) {
	read := supervisor.LogOptions{Follow: o.follow, Stream: supervisor.Stream(o.stream)}
	switch {
	case o.tail > 0:
		read.Tail = o.tail
	case o.tail == 0:
		read.Tail = -1 // none of what is there already
	}
	switch read.Stream {
	case "", supervisor.Stdout, supervisor.Stderr:
	default:
		return read, fmt.Errorf("--stream %q: want stdout or stderr", o.stream)
	}
	if o.since == "" {
		return read, nil
	}
	if d, err := time.ParseDuration(o.since); err == nil {
		read.Since = now.Add(-d)
		return read, nil
	}
	at, err := time.Parse(time.RFC3339, o.since)
	if err != nil {
		return read, fmt.Errorf("--since %q: want a duration such as 10m or a time such as 2026-01-02T15:04:05Z", o.since)
	}
	read.Since = at
	return read, nil
}

// logPrinter writes lines to the stream that they came from. Both are buffered until the kept output ends or waits.
type logPrinter struct {
	app        *app
	timestamps bool
	out, err   *bufio.Writer
	open       bool // the last entry was a part of a line
}

func newLogPrinter(a *app, timestamps bool) *logPrinter {
	return &logPrinter{app: a, timestamps: timestamps, out: bufio.NewWriter(a.out), err: bufio.NewWriter(a.err)}
}

func (p *logPrinter) print(e supervisor.LogEntry) error {
	w, other := p.out, p.err
	if e.Stream == supervisor.Stderr {
		w, other = other, w
	}
	// Lines of the two streams keep their order where both go to the same terminal.
	if other.Buffered() > 0 {
		if err := other.Flush(); err != nil {
			return err
		}
	}
	if p.timestamps && !p.open {
		_, _ = fmt.Fprintf(w, "%s ", e.Time.UTC().Format(time.RFC3339Nano))
	}
	if e.Lost > 0 {
		_, _ = fmt.Fprintf(w, "[reconciler: %d bytes could not be kept]", e.Lost)
	}
	_, _ = fmt.Fprintf(w, "%s", e.Line)
	p.open = e.Partial
	if !e.Partial {
		_, _ = fmt.Fprintln(w)
	}
	return w.Flush() // a bufio.Writer keeps the first error of the writes before
}

func (p *logPrinter) flush() error { return errors.Join(p.out.Flush(), p.err.Flush()) }
