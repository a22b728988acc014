package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"reconciler/reconcile"
	"reconciler/reconcile/api"
)

// serve runs the agent and answers on its sockets until ctx ends or one of them fails.
func (a *app) serve(ctx context.Context, agent *reconcile.Agent, log *slog.Logger) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var parts sync.WaitGroup
	var mu sync.Mutex
	var failed error
	part := func(run func() error) {
		parts.Go(func() {
			err := run()
			mu.Lock()
			failed = errors.Join(failed, err)
			mu.Unlock()
			stop(err) // one that ends, ends all
		})
	}
	part(func() error { return agent.Run(ctx) })
	select {
	case <-ctx.Done():
	case <-agent.Ready(): // the state directory is ours from here on, and with it the run directory
		if err := a.listen(ctx, agent, part, log); err != nil {
			stop(err)
			parts.Wait()
			return err
		}
	}
	parts.Wait()
	if failed == nil {
		log.Info("agent stopped; containers keep running")
	}
	return failed
}

// listen opens the agent's sockets and has part serve each.
func (a *app) listen(ctx context.Context, agent *reconcile.Agent, part func(func() error), log *slog.Logger) error {
	server := api.NewServer(agent, api.Options{Version: version, TokenFile: a.set.listenTokenFile})
	local, err := api.Listen(a.set.runDir)
	if err != nil {
		return err
	}
	if a.set.listen != "" {
		tcp, err := net.Listen("tcp", a.set.listen)
		if err != nil {
			return errors.Join(fmt.Errorf("--listen %s: %w", a.set.listen, err), local.Close())
		}
		log.Info("listening", "address", tcp.Addr().String())
		part(func() error { return server.Serve(ctx, tcp, false) })
	}
	part(func() error { return server.Serve(ctx, local, true) })
	log.Info("agent ready", "socket", a.socket())
	return nil
}
