package image

import (
	"context"
	"sync"
)

// flights lets callers that want the same thing at the same time share one piece of work. Unlike x/sync's
// singleflight, the work goes on while anybody waits for it: one caller that gives up does not fail the others.
type flights struct {
	mu    sync.Mutex
	calls map[string]*flight
}

type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int // how many wait now
	seen    int // how many ever waited

	img Image
	err error

	mu          sync.Mutex
	listeners   map[int]func(done, total int64)
	done0, tot0 int64 // the last progress, for those who come later
}

// do runs work for key, or waits for the work that runs for it already. progress may be nil.
func (g *flights) do(ctx context.Context, key string, progress func(done, total int64), work func(context.Context, func(done, total int64)) (Image, error)) (Image, error) {
	if err := ctx.Err(); err != nil {
		return Image{}, context.Cause(ctx)
	}
	g.mu.Lock()
	if g.calls == nil {
		g.calls = map[string]*flight{}
	}
	f := g.calls[key]
	if f == nil {
		wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{done: make(chan struct{}), cancel: cancel, listeners: map[int]func(int64, int64){}}
		g.calls[key] = f
		go func() {
			f.img, f.err = work(wctx, f.report)
			g.mu.Lock()
			if g.calls[key] == f {
				delete(g.calls, key)
			}
			g.mu.Unlock()
			cancel()
			close(f.done)
		}()
	}
	f.waiters++
	f.seen++
	id := f.seen
	g.mu.Unlock()
	f.listen(id, progress)
	defer f.listen(id, nil)

	select {
	case <-f.done:
		return f.img, f.err
	case <-ctx.Done():
		g.mu.Lock()
		f.waiters--
		if f.waiters == 0 {
			f.cancel()
			// Whoever comes now starts anew instead of sharing the cancellation.
			if g.calls[key] == f {
				delete(g.calls, key)
			}
		}
		g.mu.Unlock()
		return Image{}, context.Cause(ctx)
	}
}

func (f *flight) listen(id int, fn func(done, total int64)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fn == nil {
		delete(f.listeners, id)
		return
	}
	f.listeners[id] = fn
	if f.tot0 > 0 {
		fn(f.done0, f.tot0)
	}
}

func (f *flight) report(done, total int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done0, f.tot0 = done, total
	for _, fn := range f.listeners {
		fn(done, total)
	}
}
