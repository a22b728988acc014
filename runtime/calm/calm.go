// Package calm makes processes of Go that live long quiet and small: what it changes is what they cost, nothing that they
// do.
//
// It knows nobody else of ours. Monitor and Thread are about the processor, Rest and Rester about memory. Start reading
// at Monitor.
package calm

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Slack is by how much a wake-up may come late, in nanoseconds: what the monitor's work, such as giving the processor of
// a goroutine that waits in the kernel to another one, can wait for.
const Slack = 1_000_000

// Usual is what the kernel gives every process that asks for nothing.
const Usual = 50_000

// Monitor lets Go's own monitor thread be woken late. No other thread's timers get less exact, but of those that it starts.
//
// As long as a process does anything, that thread (sysmon, in the source of Go's package runtime) sleeps for 20 µs at a
// time to see whether a system call takes long. In a virtual machine each of those wake-ups costs as much as the sleep:
// a tenth of all that the start of a container costs. There is no setting for it; but the kernel may be told how
// exactly a thread wants to be woken.
func Monitor() error {
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	// The kernel lists threads in the order in which they were made, and Go makes the monitor before all others.
	threads, err := dir.Readdirnames(2)
	if err != nil || len(threads) < 2 {
		return fmt.Errorf("find the monitor thread: %w", err)
	}
	path := "/proc/" + threads[1] + "/timerslack_ns"
	// no failpoint: it is of this process, and ends with it
	return os.WriteFile(path, strconv.AppendInt(nil, Slack, 10), 0) //nolint:forbidigo // a setting of the kernel's
}

// Thread sets how late this thread may be woken, in nanoseconds. What it starts inherits that, threads and processes.
func Thread(slack uintptr) error { return unix.Prctl(unix.PR_SET_TIMERSLACK, slack, 0, 0, 0) }
