package reconcile

import (
	"context"
	"sync"

	"reconciler/reconcile/report"
)

// eventBuffer is how many events a slow reader may lag behind before it misses some.
const eventBuffer = 256

// broadcaster hands events to every subscriber. Its zero value is ready for use.
type broadcaster struct {
	mu     sync.Mutex
	subs   map[chan report.Event]struct{}
	closed bool
}

func (b *broadcaster) subscribe(ctx context.Context) <-chan report.Event {
	ch := make(chan report.Event, eventBuffer)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(ch)
		return ch
	}
	if b.subs == nil {
		b.subs = map[chan report.Event]struct{}{}
	}
	b.subs[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(ch)
	})
	return ch
}

func (b *broadcaster) drop(ch chan report.Event) {
	if _, ok := b.subs[ch]; ok {
		delete(b.subs, ch)
		close(ch)
	}
}

func (b *broadcaster) send(e report.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.subs {
		select {
		case ch <- e:
		default:
		}
	}
}

// close ends every subscription, present and later ones.
func (b *broadcaster) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for ch := range b.subs {
		b.drop(ch)
	}
}
