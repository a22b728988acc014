package reconcile

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/reconcile/plan"
)

// earliest is a time that has come for certain, where nobody knows when this program was built.
func earliest() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// now reads both clocks.
func (l *loop) now() plan.Clock {
	return plan.Clock{Now: time.Now(), Boot: l.cfg.bootTime(), BootID: l.cfg.bootID}
}

// bootTime is CLOCK_BOOTTIME: Go's own clock for durations stops while the server is suspended.
func bootTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0 // every kernel that runs containers has it
	}
	return time.Duration(ts.Nano())
}

// processorTime is what this process has used of the processors.
func processorTime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) != nil {
		return 0 // every kernel has it
	}
	return time.Duration(ts.Nano())
}

// bootID tells this run of the kernel from others; empty where it cannot be told.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// watchClock returns a channel of hints that the clock was set, or that the server slept, until ctx ends: timers do not go by
// it, and what is due by the clock has to be looked at again. See TFD_TIMER_CANCEL_ON_SET of timerfd_create(2).
func watchClock(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "clock")
	if err := armClock(timer); err != nil {
		return nil, errors.Join(err, timer.Close())
	}
	hints := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { _ = timer.Close() })
	go func() {
		defer close(hints)
		var expirations [8]byte
		for {
			_, err := timer.Read(expirations[:])
			if !errors.Is(err, unix.ECANCELED) && (err != nil || binary.NativeEndian.Uint64(expirations[:]) == 0) {
				return
			}
			select {
			case hints <- struct{}{}:
			default:
			}
			if armClock(timer) != nil {
				return
			}
		}
	}()
	return hints, nil
}

// armClock sets a timer to a day that does not come soon.
func armClock(timer *os.File) error {
	conn, err := timer.SyscallConn()
	if err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	far := unix.ItimerSpec{Value: unix.NsecToTimespec(time.Now().AddDate(100, 0, 0).UnixNano())}
	if controlErr := conn.Control(func(fd uintptr) {
		err = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &far, nil)
	}); controlErr != nil {
		err = controlErr
	}
	if err != nil {
		return fmt.Errorf("set a timer: %w", err)
	}
	return nil
}
