package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

// version is set by the linker: what git describe says of the commit that was built.
var version = unknownVersion

const unknownVersion = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv})
	stop()
	os.Exit(code)
}

// streams are a process's connections to its caller, so that tests can be the caller.
type streams struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
}

// run carries out one command line and returns its exit status.
func run(ctx context.Context, args []string, io streams) int {
	a := &app{streams: io}
	root := newRoot(a) //nolint:contextcheck // cobra hands the context to each verb
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		if exit.err != nil {
			a.printError(args, exit.err)
		}
		return exit.code
	}
	a.printError(args, err)
	if code, convErr := strconv.Atoi(cmd.Annotations[failAnnotation]); convErr == nil {
		return code
	}
	return 1
}
