package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"

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

// checkListen refuses what --listen can never do before anything is touched.
func (a *app) checkListen() error {
	if a.set.listen == "" {
		if a.set.listenTokenFile != "" {
			return withHint(errors.New("--listen-token-file: nothing is served over TCP that could need a token"), "name the address with --listen, such as 127.0.0.1:7070")
		}
		return nil
	}
	if _, err := net.ResolveTCPAddr("tcp", a.set.listen); err != nil {
		return withHint(fmt.Errorf("--listen %s: %w", a.set.listen, err), "write ADDRESS:PORT, such as 127.0.0.1:7070")
	}
	if a.set.listenTokenFile == "" {
		return nil
	}
	switch token, err := os.ReadFile(a.set.listenTokenFile); {
	case err != nil:
		return withHint(fmt.Errorf("--listen-token-file: %w", err), "put a token into that file, readable by root alone, or leave the flag out: then nothing can be changed over TCP")
	case strings.TrimSpace(string(token)) == "":
		return withHint(fmt.Errorf("--listen-token-file %s: it is empty", a.set.listenTokenFile), "put a token into it, such as the output of `openssl rand -hex 32`")
	}
	return nil
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
			err = withHint(fmt.Errorf("--listen %s: %w", a.set.listen, err), "another program has that address, or this server has not: name another one")
			return errors.Join(err, local.Close())
		}
		log.Info("listening", "address", tcp.Addr().String())
		part(func() error { return server.Serve(ctx, tcp, false) })
	}
	part(func() error { return server.Serve(ctx, local, true) })
	log.Info("agent ready", "socket", a.socket())
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("systemd cannot be told that the agent is ready", "err", err)
	}
	return nil
}
