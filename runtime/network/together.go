package network

import "sync"

// together does what several callers ask for at the same time as one: what comes while something is done waits, and all that
// waits is done in one go. A server that takes a hundred containers away waits for the kernel and the disk a few times, not a
// hundred times.
type together[T any] struct {
	doing   sync.Mutex // held while something is done
	mu      sync.Mutex // of waiting
	waiting []*wish[T]
}

// wish is what one caller asks for. Whoever holds together.doing reads and grants it.
type wish[T any] struct {
	what    T
	granted bool
	err     error
}

// do returns when what was asked for is done, by fn called here or by another caller. Where fn fails for several, each is
// tried alone: nobody fails for another's sake.
func (t *together[T]) do(what T, fn func(all []T) error) error {
	mine := &wish[T]{what: what}
	t.mu.Lock()
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	t.doing.Lock()
	defer t.doing.Unlock()
	if mine.granted {
		return mine.err
	}
	t.mu.Lock()
	wishes := t.waiting
	t.waiting = nil
	t.mu.Unlock()
	all := make([]T, 0, len(wishes))
	for _, w := range wishes {
		all = append(all, w.what)
	}
	err := fn(all)
	for _, w := range wishes {
		if w.granted, w.err = true, err; err != nil && len(wishes) > 1 {
			w.err = fn([]T{w.what})
		}
	}
	return mine.err
}
