package reconcile

import (
	"context"
	"slices"
	"sync"
)

// limiter lets a changeable number of goroutines pass at a time, in the order they came.
type limiter struct {
	mu      sync.Mutex
	limit   int
	inUse   int
	waiting []chan struct{}
}

// setLimit changes how many may pass.
func (l *limiter) setLimit(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = n
	l.admit()
}

func (l *limiter) admit() {
	for l.inUse < l.limit && len(l.waiting) > 0 {
		close(l.waiting[0])
		l.waiting = l.waiting[1:]
		l.inUse++
	}
}

// acquire waits for a place. The caller releases it, unless there was an error.
func (l *limiter) acquire(ctx context.Context) error {
	l.mu.Lock()
	turn := make(chan struct{})
	l.waiting = append(l.waiting, turn)
	l.admit()
	l.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
	}
	if ctx.Err() == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, turn); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	} else { // the place was given before
		l.inUse--
		l.admit()
	}
	return context.Cause(ctx)
}

func (l *limiter) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inUse--
	l.admit()
}
