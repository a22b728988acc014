package reconcile

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestClockIsWatched steps the clock by a microsecond, which is told as any step is.
func TestClockIsWatched(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	hints, err := watchClock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // it goes on watching
		step := unix.Timex{Modes: unix.ADJ_SETOFFSET, Time: unix.Timeval{Usec: 1}}
		if _, err := unix.Adjtimex(&step); errors.Is(err, unix.EPERM) {
			t.Skip("needs CAP_SYS_TIME: it steps the clock")
		} else if err != nil {
			t.Fatal(err)
		}
		select {
		case _, ok := <-hints:
			if !ok {
				t.Fatal("it watches no more")
			}
		case <-time.After(30 * time.Second):
			t.Fatal("a step was not told")
		}
	}
	cancel()
	for range hints { // ends
	}
}

func TestBootTime(t *testing.T) {
	if a, b := bootTime(), bootTime(); a <= 0 || b < a || bootID() == "" {
		t.Errorf("%v, %v, %q", a, b, bootID())
	}
}
