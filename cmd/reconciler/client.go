package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile"
	"reconciler/reconcile/api"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
)

// errNoAgent means that no agent of this instance runs.
var errNoAgent = errors.New("no agent runs here")

// agentClient asks the agent that runs. It is a looker.
type agentClient struct{ api *api.Client }

// socket is where this instance's agent answers.
func (a *app) socket() string { return api.SocketPath(a.set.runDir) }

// agentClient returns a client of the agent that runs, or errNoAgent.
func (a *app) agentClient(ctx context.Context) (*agentClient, error) {
	client := api.NewClient(a.set.runDir)
	if !client.Running(ctx) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, errNoAgent
	}
	return &agentClient{api: client}, nil
}

// needAgent fails with what to do where the verb needs a running agent.
func (a *app) needAgent(verb string) error {
	what := "this server"
	if a.set.instance != defaultInstance {
		what = "instance " + a.set.instance
	}
	return withHint(fmt.Errorf("%s: the agent of %s is not running (nobody answers on %s)", verb, what, a.socket()),
		"start it with `reconciler agent`; --run-dir and --instance say which one is meant")
}

// ended adds to an error that the agent went away in the middle, where it did.
func ended(verb string, err error) error {
	if errors.Is(err, api.ErrNoAgent) || errors.Is(err, reconcile.ErrNotRunning) {
		return withHint(fmt.Errorf("%s: the agent stopped before it could answer: %w", verb, err), "start it again with `reconciler agent`")
	}
	return err
}

func (*agentClient) live() bool { return true }

func (c *agentClient) rows(ctx context.Context, all bool) ([]report.Row, error) {
	rows, err := c.api.Ps(ctx, all)
	return rows, ended("ps", err)
}

func (c *agentClient) status(ctx context.Context) (report.Status, error) {
	s, err := c.api.Status(ctx)
	return s, ended("status", err)
}

func (c *agentClient) describe(ctx context.Context, name manifest.Name) (report.Description, error) {
	d, err := c.api.Describe(ctx, name)
	return d, ended("describe", err)
}

func (c *agentClient) history(ctx context.Context, name *manifest.Name) ([]journal.Entry, error) {
	entries, err := c.api.History(ctx, name)
	return entries, ended("history", err)
}

func (c *agentClient) events(ctx context.Context, name *manifest.Name, follow bool, fn func(report.Event) error) error {
	err := c.api.Events(ctx, name, follow, fn)
	if (err == nil || errors.Is(err, io.ErrUnexpectedEOF)) && follow && ctx.Err() == nil {
		return withHint(errors.New("events: the agent stopped"), "start it again with `reconciler agent`, or leave -f out")
	}
	return ended("events", err)
}

func (c *agentClient) plan(ctx context.Context) (report.Plan, error) {
	p, err := c.api.Plan(ctx)
	return p, ended("plan", err)
}

// answerTime is how long an agent may take, beside the time that it was given, to say how a sync ended.
const answerTime = 10 * time.Second

// sync waits until the node has converged, or timeout (0: none) is over: the agent says then what it waits for.
func (c *agentClient) sync(ctx context.Context, timeout time.Duration) (reconcile.SyncResult, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+answerTime)
		defer cancel()
	}
	r, err := c.api.Sync(ctx, timeout)
	if errors.Is(err, context.DeadlineExceeded) {
		return r, withHint(fmt.Errorf("sync: the agent did not answer within %v: %w", timeout+answerTime, err), "its log says what it is at")
	}
	return r, ended("sync", err)
}

func (c *agentClient) approve(ctx context.Context, commit string) (string, error) {
	commit, err := c.api.Approve(ctx, commit)
	return commit, ended("approve", err)
}

func (c *agentClient) retry(ctx context.Context, name manifest.Name) error {
	return ended("retry", c.api.Retry(ctx, name))
}

func (c *agentClient) restart(ctx context.Context, name manifest.Name) error {
	return ended("restart", c.api.Restart(ctx, name))
}

func (c *agentClient) suspend(ctx context.Context) error { return ended("suspend", c.api.Suspend(ctx)) }

func (c *agentClient) resume(ctx context.Context) error { return ended("resume", c.api.Resume(ctx)) }

func (c *agentClient) down(ctx context.Context) error { return ended("down", c.api.Down(ctx)) }
