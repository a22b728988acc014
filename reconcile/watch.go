package reconcile

import (
	"context"
	"time"
)

// rewatch is how long to wait before watching again what could not be watched, or ended too early.
const rewatch = 30 * time.Second

// watch passes hints on as tokens. Without them everything is still seen, at the next poll.
func (l *loop) watch(ctx context.Context) {
	l.wg.Go(func() {
		follow(ctx, l.cfg.Runtime.Watch, l.hear, func(err error) {
			l.log.Warn("cannot watch the containers, looking at every poll instead", "error", err)
		})
	})
	l.wg.Go(func() {
		follow(ctx, l.cfg.watchClock, func(struct{}) { l.a.poke() }, func(err error) {
			l.log.Warn("cannot tell when the clock is set, looking at every poll instead", "error", err)
		})
	})
	l.wg.Go(func() {
		look := func(struct{}) { l.a.postLook(func(l *loop) { l.fetch.wanted = true }) }
		follow(ctx, l.cfg.Source.Watch, look, func(err error) {
			l.log.Warn("cannot watch the source, looking at every poll instead", "error", err)
		})
	})
}

// follow calls hint for everything that watch's channel says, until ctx ends. It watches again where the channel is
// closed before that, as when the supervisor was started anew.
func follow[T any](ctx context.Context, watch func(context.Context) (<-chan T, error), hint func(T), failed func(error)) {
	for {
		hints, err := watch(ctx)
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
		for open := err == nil; open; {
			var h T
			select {
			case h, open = <-hints: // a nil channel never fires
				hint(h)
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-time.After(rewatch):
		case <-ctx.Done():
			return
		}
	}
}
