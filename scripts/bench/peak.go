package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// peak is the verb of this program that runs another and writes its peak memory into a file. The kernel counts what a
// process had before it became another program, and that is its parent's memory: the parent has to be a small one.
const peak = "peak"

// runPeak is the small parent: it writes the peak of a program into a file.
func runPeak(file, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return err
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return errors.New("the system does not tell what a program used")
	}
	return os.WriteFile(file, fmt.Append(nil, usage.Maxrss), 0o644)
}

// withPeak is do that tells how long the program took, and the largest resident set in MiB of it and its children.
func (b *bench) withPeak(env []string, program string, args ...string) (took time.Duration, mebibytes float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	file := filepath.Join(b.dir, "peak")
	if took, err = b.timed(env, self, append([]string{peak, file, program}, args...)...); err != nil {
		return 0, 0, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	kib, err := strconv.ParseInt(string(text), 10, 64)
	return took, float64(kib) / 1024, err
}
