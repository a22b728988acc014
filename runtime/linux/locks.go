package linux

import (
	"sync"

	"reconciler/runtime"
)

// locks serialises what is done to one container.
type locks struct {
	mu   sync.Mutex
	held map[runtime.ID]*lock
}

type lock struct {
	sync.Mutex
	users int
}

// lock waits until nobody else works on the container, and returns what lets the next one in.
func (l *locks) lock(id runtime.ID) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[runtime.ID]*lock{}
	}
	k := l.held[id]
	if k == nil {
		k = &lock{}
		l.held[id] = k
	}
	k.users++
	l.mu.Unlock()
	k.Lock()
	return func() {
		k.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, id)
		}
	}
}

// busy says whether somebody works on the container, or waits to.
func (l *locks) busy(id runtime.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id] != nil
}
