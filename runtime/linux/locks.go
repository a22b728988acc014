package linux

import "sync"

// locks serialises what is done to one of many, such as a container.
type locks[K comparable] struct {
	mu   sync.Mutex
	held map[K]*lock
}

type lock struct {
	sync.Mutex
	users int
}

// lock waits until nobody else works on it, and returns what lets the next one in.
func (l *locks[K]) lock(id K) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[K]*lock{}
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

// busy says whether somebody works on it, or waits to.
func (l *locks[K]) busy(id K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[id] != nil
}
