package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/console"
	"github.com/spf13/cobra"

	"reconciler/runtime/supervisor"
)

type execOptions struct {
	interactive, tty bool
	env              []string
	workdir, user    string
}

func newExec(a *app) *cobra.Command {
	var opts execOptions
	cmd := &cobra.Command{
		Use:   "exec [flags] NAME -- COMMAND [ARG…]",
		Short: "Run a command inside a running container",
		Example: `  reconciler exec web -- /bin/busybox ps
  reconciler exec -it shop/web -- sh
  tar c . | reconciler exec -i web -- tar x -C /data`,
		Args: argsError(cobra.MinimumNArgs(2)),
		Annotations: map[string]string{
			exitAnnotation: "the command's, 128 + its number for a signal; 125 where reconciler itself failed", failAnnotation: "125",
		},
	}
	cmd.Flags().BoolVarP(&opts.interactive, "interactive", "i", false, "pass our standard input on")
	cmd.Flags().BoolVarP(&opts.tty, "tty", "t", false, "give the command a terminal")
	cmd.Flags().StringArrayVarP(&opts.env, "env", "e", nil, "set a variable, `NAME=VALUE` (may be repeated)")
	cmd.Flags().StringVarP(&opts.workdir, "workdir", "w", "", "`DIR` inside to run it in (default the container's)")
	cmd.Flags().StringVarP(&opts.user, "user", "u", "", "`UID[:GID]` to run it as, in numbers (default the container's)")
	namespace := namespaceFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dash := cmd.ArgsLenAtDash(); dash >= 0 && dash != 1 {
			return withHint(fmt.Errorf("exec: want one NAME before --, not %d", dash), "usage: %s", cmd.UseLine())
		}
		return a.runExec(cmd.Context(), args[0], *namespace, args[1:], opts)
	}
	return cmd
}

func (a *app) runExec(ctx context.Context, text, namespace string, command []string, opts execOptions) error {
	rt, err := a.openRuntime("exec", quiet())
	if err != nil {
		return err
	}
	status, _, err := find(ctx, rt, text, namespace)
	if err != nil {
		return err
	}
	if !running(status) {
		return withHint(fmt.Errorf("%s is not running: it is %s", text, status.State), "`reconciler describe %s` says why", text)
	}
	req := supervisor.ExecRequest{
		ID: status.ID, Args: command, Env: opts.env, Cwd: opts.workdir, User: opts.user, TTY: opts.tty,
	}
	code, err := a.exec(ctx, rt, req, opts)
	if err != nil {
		return err
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

// execer is what exec needs of the runtime.
type execer interface {
	ExecStream(ctx context.Context, req supervisor.ExecRequest, stdin io.Reader, stdout, stderr io.Writer) (int, error)
}

// exec runs the command with our streams, and with our terminal where it is to have one.
func (a *app) exec(ctx context.Context, rt execer, req supervisor.ExecRequest, opts execOptions) (int, error) {
	var stdin io.Reader
	if opts.interactive {
		stdin = a.in
	}
	if !opts.tty {
		return rt.ExecStream(ctx, req, stdin, a.out, a.err)
	}
	file, ok := a.in.(*os.File)
	if !ok {
		return 0, errors.New("--tty: standard input is not a terminal")
	}
	terminal, err := console.ConsoleFromFile(file)
	if err != nil {
		return 0, withHint(errors.New("--tty: standard input is not a terminal"), "leave -t out")
	}
	if err := terminal.SetRaw(); err != nil {
		return 0, fmt.Errorf("--tty: set the terminal to raw: %w", err)
	}
	defer func() { _ = terminal.Reset() }()
	size := terminalSize(terminal)
	req.Width, req.Height = size.Width, size.Height
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	req.Resize = resizes(ctx, terminal)
	return rt.ExecStream(ctx, req, stdin, a.out, a.err)
}

func terminalSize(c console.Console) supervisor.Size {
	size, err := c.Size()
	if err != nil {
		return supervisor.Size{}
	}
	return supervisor.Size{Width: size.Width, Height: size.Height}
}

// resizes tells the terminal's size each time that it changes, until ctx ends.
func resizes(ctx context.Context, c console.Console) <-chan supervisor.Size {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	sizes := make(chan supervisor.Size)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				select {
				case sizes <- terminalSize(c):
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return sizes
}
