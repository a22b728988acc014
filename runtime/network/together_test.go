package network

import (
	"errors"
	"slices"
	"sync"
	"testing"
)

// What waits while something is done goes together, and a failure is of the one whose it is.
func TestTogether(t *testing.T) {
	var g together[int]
	var done [][]int
	broken := errors.New("broken")
	first, waiting := make(chan struct{}), make(chan struct{})
	fn := func(all []int) error {
		done = append(done, all) // one at a time: the race detector would tell
		if len(done) == 1 {
			close(first)
			<-waiting
		}
		if slices.Contains(all, 3) {
			return broken
		}
		return nil
	}
	var wg sync.WaitGroup
	ask := func(what int) {
		wg.Go(func() {
			if err := g.do(what, fn); (what == 3) != errors.Is(err, broken) {
				t.Errorf("%d: %v", what, err)
			}
		})
	}
	ask(0)
	<-first
	for i := range 5 {
		ask(i + 1)
	}
	for all := 0; all < 5; { // they wait for the first
		g.mu.Lock()
		all = len(g.waiting)
		g.mu.Unlock()
	}
	close(waiting)
	wg.Wait()
	if len(done) != 7 || len(done[0]) != 1 || len(done[1]) != 5 || len(done[2]) != 1 {
		t.Errorf("done in these parts: %v", done)
	}
}
