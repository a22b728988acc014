package reconcile

import (
	"context"
	"errors"
	"sync"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/probe"
	"reconciler/runtime"
)

// errDown is why a step in flight is told to end when everything is taken down.
var errDown = errors.New("everything is being taken down")

// Down suspends syncing and starts nothing more until Resume: also not what crashed or is gone, so that the caller can
// take every container away. It returns when no step is in flight any more. It may be called again.
func (a *Agent) Down(ctx context.Context) error {
	landed := make(chan struct{})
	err := a.ask(ctx, func(l *loop) error {
		if !l.state.Down {
			l.state.Down, l.state.Suspended = true, true
			l.dirty = true
			l.record(journal.Record{Type: journal.TypeVerb, Reason: "Down", Message: "everything is taken down; nothing starts until it is resumed"})
		}
		for _, f := range l.flights {
			f.cancel(errDown)
		}
		l.downs = append(l.downs, landed)
		return nil
	})
	if err != nil {
		return err
	}
	select {
	case <-landed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stopsAtOnce bounds how many containers StopAll stops at a time.
const stopsAtOnce = 8

// StopAll stops every container of rt as its manifest says, the preStop hook first, and each when those that depend on it have
// ended. It goes on after an error, which is as told of as a hook's failure: whoever takes everything down kills what is left.
func StopAll(ctx context.Context, rt runtime.Runtime, tell func(name, what string)) error {
	list, err := rt.List(ctx)
	if err != nil {
		return err
	}
	ended := make(map[runtime.ID]chan struct{}, len(list))
	for _, s := range list {
		ended[s.ID] = make(chan struct{})
	}
	stopping := make(chan struct{}, stopsAtOnce)
	var all sync.WaitGroup
	for _, s := range plan.StopOrder(list) {
		all.Go(func() {
			defer close(ended[s.Status.ID])
			for _, id := range s.After {
				<-ended[id]
			}
			stopping <- struct{}{}
			defer func() { <-stopping }()
			name := manifest.Name(s.Status.Spec.Name).Short()
			err := probe.Stop(ctx, rt, s.Status, s.Status.Spec.StopGrace, func(n probe.Note) { tell(name, n.Message) })
			if err != nil {
				tell(name, err.Error())
			}
		})
	}
	all.Wait()
	return ctx.Err()
}

// answerDowns tells those who wait for it that no step is in flight any more, and no repair.
func (l *loop) answerDowns() {
	if len(l.flights) > 0 || l.repair.busy {
		return
	}
	for _, landed := range l.downs {
		close(landed)
	}
	l.downs = nil
}
