package linux

import (
	"context"
	"errors"
	"sync"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// redial is how often Watch looks for a supervisor while none runs. What this process starts itself is seen at once.
const redial = time.Second

// Watch implements runtime.Runtime. When a supervisor comes, or goes, the hint is EventLost. As long as the first watch of
// a process lasts, the process holds what the supervisor has of every container, and starts another supervisor where one
// died and left containers: who watches lives long.
func (r *Runtime) Watch(ctx context.Context) (<-chan runtime.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, failure("watch containers", "", runtime.Name{}, err)
	}
	out := make(chan runtime.Event, 64)
	own := r.changes.subscribe(ctx)
	drift, err := r.net.Watch(ctx)
	if err != nil {
		r.log.Warn("cannot hear of changes to rules and interfaces, they are found later", "err", err)
	}
	var held sync.WaitGroup
	if r.holds.TryLock() {
		held.Go(func() { r.sweep(ctx) }) // it may be long until something is made
		r.holding.Store(true)
		r.rest.Worked() // whoever watches has just started
		held.Go(func() {
			defer r.holds.Unlock()
			defer r.holding.Store(false)
			supervisor.NewHolder(r.supervisorConfig(), r.cfg.Self).Run(ctx)
		})
	}
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			r.relay(ctx, out, own, drift)
		}
		if drift != nil {
			for range drift { // until nobody listens any more
			}
		}
		held.Wait()
	}()
	return out, nil
}

// relay passes on what one supervisor says until it is gone.
func (r *Runtime) relay(ctx context.Context, out chan<- runtime.Event, own <-chan runtime.Event, drift <-chan struct{}) {
	send := func(e runtime.Event) {
		if ofContainer(e.ID) != e.ID {
			return // an init container's: whoever starts the container waits for it
		}
		if e.Name == (runtime.Name{}) && e.ID != "" {
			if known, err := r.state.read(e.ID); err == nil {
				e.Name = known.Spec.Name
			}
		}
		select {
		case out <- e:
		case <-ctx.Done():
		}
	}
	var theirs <-chan runtime.Event
	client, err := supervisor.Dial(ctx, r.supervisorConfig())
	if err == nil {
		theirs, err = client.Watch(ctx)
	}
	if err == nil {
		// What happened before this was not heard.
		send(runtime.Event{Type: runtime.EventLost, Time: time.Now()})
	} else if !errors.Is(err, supervisor.ErrNotRunning) && ctx.Err() == nil {
		r.log.Warn("cannot hear from the supervisor", "err", err)
	}
	var again <-chan time.Time
	if theirs == nil {
		timer := time.NewTimer(redial)
		defer timer.Stop()
		again = timer.C
	}
	for {
		select {
		case e, ok := <-theirs:
			if !ok {
				send(runtime.Event{Type: runtime.EventLost, Time: time.Now()})
				select {
				case <-time.After(redial / 10): // one that ends at every call must not keep us busy
				case <-ctx.Done():
				}
				return
			}
			send(e)
		case e := <-own:
			send(e)
			if e.Type == runtime.EventStarted && theirs == nil {
				return // there is a supervisor now
			}
		case _, open := <-drift:
			if !open {
				drift = nil
				continue
			}
			send(runtime.Event{Type: runtime.EventDrifted, Time: time.Now()})
		case <-again:
			return
		case <-ctx.Done():
			return
		}
	}
}

// broadcast tells every watcher of this process what it did itself.
type broadcast struct {
	mu       sync.Mutex
	watchers map[chan runtime.Event]bool
}

func newBroadcast() *broadcast { return &broadcast{watchers: map[chan runtime.Event]bool{}} }

func (b *broadcast) subscribe(ctx context.Context) <-chan runtime.Event {
	ch := make(chan runtime.Event, 64)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers[ch] = true
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, ch)
	})
	return ch
}

// send drops the hint for a watcher that is far behind: it has 64 others to look at.
func (b *broadcast) send(e runtime.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.watchers {
		select {
		case ch <- e:
		default:
		}
	}
}
