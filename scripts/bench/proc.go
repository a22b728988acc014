package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runOf is where who has dir keeps what lives no longer than the machine: below /run, which is in memory, as where nobody says
// otherwise.
func runOf(dir string) string { return filepath.Join("/run", filepath.Base(dir)) }

// pidsOf returns the processes of this pid namespace with one of these names, as the kernel keeps them: 15 bytes.
func pidsOf(names ...string) ([]int, error) {
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range comms {
		comm, err := os.ReadFile(path)
		if err != nil || !slices.Contains(names, strings.TrimSpace(string(comm))) {
			continue // gone by now, or another one
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// settle is how long after the last start memory is taken, so that it is what a server pays all day.
const settle = 5 * time.Second

// pss returns the memory of processes in MiB, once they have had time to come to rest: what they share with others is shared
// out.
func pss(pids ...int) (float64, error) {
	time.Sleep(settle)
	var sum float64
	for _, pid := range pids {
		kib, err := field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if err != nil {
			return 0, err
		}
		sum += float64(kib) / 1024
	}
	return sum, nil
}

// pssOf is pss of all processes of this pid namespace with one of these names.
func pssOf(names ...string) (float64, error) {
	pids, err := pidsOf(names...)
	if err != nil {
		return 0, err
	}
	return pss(pids...)
}

// diskWrites returns the bytes that processes caused to be written to disks.
func diskWrites(pids ...int) (float64, error) {
	var sum float64
	for _, pid := range pids {
		n, err := field(fmt.Sprintf("/proc/%d/io", pid), "write_bytes:")
		if err != nil {
			return 0, err
		}
		sum += float64(n)
	}
	return sum, nil
}

// field returns the number behind a word at the beginning of a line.
func field(path, word string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // read only
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), word); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no line %s", path, word)
}

// cpuTime returns the processor time that all threads of processes used so far, in nanoseconds where /proc/PID/stat has
// ticks of 10 ms.
func cpuTime(pids ...int) (time.Duration, error) {
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel's include/linux/posix-timers_types.h, as clock_getcpuclockid(3) makes it
	var sum time.Duration
	for _, pid := range pids {
		var at unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|scheduler), &at); err != nil {
			return 0, fmt.Errorf("processor time of %d: %w", pid, err)
		}
		sum += time.Duration(at.Nano())
	}
	return sum, nil
}

// millis is a duration as a row has it.
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
