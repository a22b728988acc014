package rootfs_test

import (
	"errors"
	goruntime "runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// The children whose user namespaces are wanted share the memory of this process, beside its other threads and their
// signals; none of them, and no thread, stays.
func TestMappableAtOnce(t *testing.T) {
	b := newStore(t)
	b.open()
	stop := make(chan struct{})
	var busy, askers sync.WaitGroup
	for range 2 {
		busy.Go(func() { // the collector stops other threads by signals
			for {
				select {
				case <-stop:
					return
				default:
					goruntime.GC()
				}
			}
		})
	}
	for range 8 {
		askers.Go(func() {
			for range 50 {
				if err := b.Mappable(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	askers.Wait()
	close(stop)
	busy.Wait()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child is left: %v", err)
	}
}

// BenchmarkMappable is a user namespace and one mount that is shown with its ids, beside memory that is in use as an agent's
// is: to make the one must not cost more the more there is of the other.
func BenchmarkMappable(b *testing.B) {
	s := newStore(b)
	s.open()
	used := make([]byte, 64<<20)
	for b.Loop() {
		for i := 0; i < len(used); i += 4096 {
			used[i]++
		}
		if err := s.Mappable(nil); err != nil {
			b.Fatal(err)
		}
	}
}
