package fake

import (
	"context"

	"reconciler/runtime"
)

// watcher is one channel of hints. All is guarded by Runtime.mu.
type watcher struct {
	events chan runtime.Event
	lost   bool // a hint found the channel full
}

// backlog is how many hints a watcher may be behind before some are dropped.
const backlog = 64

// Watch returns a channel of hints. Who reads too slowly gets EventLost in place of what was dropped.
func (r *Runtime) Watch(ctx context.Context) (<-chan runtime.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, failed("watch", runtime.Name{}, "", err)
	}
	w := &watcher{events: make(chan runtime.Event, backlog)}
	r.mu.Lock()
	r.watchers[w] = struct{}{}
	r.mu.Unlock()
	context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.watchers, w)
		close(w.events)
	})
	return w.events, nil
}

// tell sends a hint to everybody who watches. The caller holds r.mu.
func (r *Runtime) tell(t runtime.EventType, c *container) {
	e := runtime.Event{Type: t, ID: c.status.ID, Name: c.status.Spec.Name, Time: r.now()}
	for w := range r.watchers {
		if w.lost {
			w.send(runtime.Event{Type: runtime.EventLost, Time: e.Time})
		}
		w.send(e)
	}
}

// send sends e if there is room and remembers if there was none.
func (w *watcher) send(e runtime.Event) {
	select {
	case w.events <- e:
		w.lost = w.lost && e.Type != runtime.EventLost
	default:
		w.lost = true
	}
}
