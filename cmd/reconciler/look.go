package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
)

// looker answers the verbs that only look: the agent where one runs, else what it left on disk.
type looker interface {
	live() bool // an agent answers
	rows(ctx context.Context, all bool) ([]report.Row, error)
	status(ctx context.Context) (report.Status, error)
	describe(ctx context.Context, name manifest.Name) (report.Description, error)
	history(ctx context.Context, name *manifest.Name) ([]journal.Entry, error)
	// events calls fn with what happened, oldest first, and with follow with what happens until ctx ends or fn fails.
	events(ctx context.Context, name *manifest.Name, follow bool, fn func(report.Event) error) error
}

// look returns who answers for this instance.
func (a *app) look(ctx context.Context, verb string) (looker, error) {
	if err := needRoot(verb); err != nil {
		return nil, err
	}
	client, err := a.agentClient(ctx)
	switch {
	case err == nil:
		return client, nil
	case errors.Is(err, errNoAgent):
		return a.lookOnDisk(ctx, verb)
	default:
		return nil, err
	}
}

// onDisk answers from what an agent left on disk and from what runs.
type onDisk struct {
	view    report.View
	records []journal.Record
}

func (a *app) lookOnDisk(ctx context.Context, verb string) (looker, error) {
	if _, err := os.Stat(a.set.stateDir); errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("%s: no agent ever ran here: there is no %s", verb, a.set.stateDir),
			"start one with `reconciler agent --repo URL`; --state-dir and --instance say which one is meant")
	}
	snapshot, err := journal.Read(a.set.stateDir)
	if err != nil {
		return nil, err
	}
	rt, err := a.openRuntime(verb, quiet())
	if err != nil {
		return nil, err
	}
	observed, err := rt.List(ctx)
	if err != nil {
		return nil, err
	}
	kept := report.Kept{Instance: a.set.instance, Node: a.set.node, Snapshot: snapshot, Observed: observed, Facts: facts(rt)}
	return &onDisk{view: kept.View(time.Now()), records: snapshot.Records}, nil
}

func (d *onDisk) live() bool { return false }

func (d *onDisk) rows(_ context.Context, all bool) ([]report.Row, error) {
	return report.Rows(d.view, all), nil
}

func (d *onDisk) status(context.Context) (report.Status, error) { return report.StatusOf(d.view), nil }

func (d *onDisk) describe(_ context.Context, name manifest.Name) (report.Description, error) {
	description, ok := report.Describe(d.view, d.records, name)
	if !ok {
		return description, &reconcile.NotFoundError{What: name.Short()}
	}
	return description, nil
}

func (d *onDisk) history(_ context.Context, name *manifest.Name) ([]journal.Entry, error) {
	return report.HistoryOf(d.records, name, d.view.State.Ledger), nil
}

func (d *onDisk) events(_ context.Context, name *manifest.Name, follow bool, fn func(report.Event) error) error {
	if follow {
		return withHint(errors.New("events: no agent runs here, so nothing more will happen"), "start it, or leave -f out")
	}
	for _, e := range report.EventsOf(d.records, name) {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}
