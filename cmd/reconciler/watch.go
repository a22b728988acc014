package main

import (
	"context"
	"time"
)

// watchInterval is how often a verb with --watch looks again.
const watchInterval = time.Second

// watch calls show at once and then at every interval, until it fails or ctx ends, which is how watching is meant to end. On
// a terminal each table takes the place of the one before.
func (a *app) watch(ctx context.Context, show func() error) error {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		if err := show(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// newScreen clears the terminal for the next table. Into a pipe tables follow each other.
func (a *app) newScreen() {
	if isTerminal(a.out) {
		a.outf("\x1b[H\x1b[2J") // ECMA-48: cursor to the top left, erase the page
	}
}
