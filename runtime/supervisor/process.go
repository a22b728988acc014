package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// openPidfd returns a pidfd that the runtime's poller can wait for (PIDFD_NONBLOCK: Linux 5.10).
func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("pidfd of process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd:"+strconv.Itoa(pid)), nil
}

// waitPidfd returns when the process has ended, without a thread of its own: a pidfd gets readable then.
func waitPidfd(ctx context.Context, pidfd *os.File) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, perr := unix.Poll(p, 0)
		return perr == nil && n > 0
	})
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

// signalPidfd sends a signal to exactly the process that pidfd was opened for. One that has ended is no error.
func signalPidfd(pidfd *os.File, sig unix.Signal) error {
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := conn.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return nil
	}
	return serr
}

// statFields returns the fields of /proc/PID/stat from the third on. The second is the command in parentheses and may
// hold anything.
func statFields(pid int) ([]string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 50 {
		return nil, fmt.Errorf("cannot read /proc/%d/stat", pid)
	}
	return fields, nil
}

// isChild reports whether a process, alive or not, is a child of ours.
func isChild(pid int, startTime uint64) bool {
	fields, err := statFields(pid)
	return err == nil && fields[19] == strconv.FormatUint(startTime, 10) && fields[1] == strconv.Itoa(os.Getpid())
}

// zombieStatus returns how a process ended that nobody has collected yet: field 52, which is 0 before that and to who may
// not see it.
func zombieStatus(pid int, startTime uint64) (unix.WaitStatus, bool) {
	fields, err := statFields(pid)
	if err != nil || fields[19] != strconv.FormatUint(startTime, 10) || fields[0] != "Z" {
		return 0, false
	}
	status, err := strconv.ParseUint(fields[49], 10, 32)
	return unix.WaitStatus(status), err == nil
}

// processStart returns when a process was started in clock ticks since boot (field 22 of /proc/PID/stat, which with the
// pid identifies it) and whether it has not ended.
func processStart(pid int) (ticks uint64, alive bool, err error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, false, err
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, fields[0] != "Z" && fields[0] != "X", err
}

// ending reports whether a process has begun to exit or is gone: process 1 waits in that state for all others of its
// container.
func ending(pid int) bool {
	const exiting = 0x4 // PF_EXITING of the kernel's include/linux/sched.h, in field 9
	fields, err := statFields(pid)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&exiting != 0
}

// bootTime is CLOCK_BOOTTIME: it goes on in suspend and no time step moves it.
func bootTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// parseSignal reads "SIGTERM", "TERM" or "15".
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok { // as in systemd and Docker: SIGRTMIN+3
		if n, err := strconv.Atoi(strings.TrimPrefix(rest, "+")); (err == nil && n >= 0 && n <= 30) || rest == "" {
			return unix.Signal(34 + n), nil
		}
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

func knownSignal(s string) bool {
	_, err := parseSignal(s)
	return err == nil
}

// signalName is the inverse of parseSignal.
func signalName(sig unix.Signal) string {
	if n := unix.SignalName(sig); n != "" {
		return n
	}
	return strconv.Itoa(int(sig))
}
