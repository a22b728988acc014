package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// composeTimes is times for what takes seconds.
const composeTimes = 3

// compose measures a compose: all services up, nothing to do, one changed, all down. No service has a grace to stop in.
func (b *bench) compose(who, program string) (err error) {
	if program == "" {
		return errors.New("it could not be built: scripts/bench/run said why")
	}
	d, err := b.startDocker()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	file := filepath.Join(d.dir, "compose.yaml")
	do := func(args ...string) (time.Duration, error) {
		return b.timed(d.env, program, append([]string{"-f", file, "-p", "bench"}, args...)...)
	}
	version := make([]int, b.n)
	if err = os.WriteFile(file, []byte(composeFile(version)), 0o644); err != nil {
		return err
	}
	took, err := do("up", "-d")
	if err != nil {
		return err
	}
	b.set("start", who, millis(took))
	if b.wants("nothing") {
		var walls []float64
		for range composeTimes {
			if took, err = do("up", "-d"); err != nil {
				return err
			}
			walls = append(walls, millis(took))
		}
		b.set("nothing", who, median(walls))
	}
	if b.wants("change") {
		var runs, backs []float64
		for i := range composeTimes {
			version[i%b.n]++
			if err = os.WriteFile(file, []byte(composeFile(version)), 0o644); err != nil {
				return err
			}
			began := time.Now()
			if took, err = do("up", "-d"); err != nil {
				return err
			}
			at, inspectErr := d.startedAt(fmt.Sprintf("bench-c%d", i%b.n))
			if inspectErr != nil {
				return inspectErr
			}
			runs, backs = append(runs, millis(at.Sub(began))), append(backs, millis(took))
		}
		b.set("change-runs", who, median(runs))
		b.set("change-back", who, median(backs))
	}
	if took, err = do("down", "-t", "0"); err != nil {
		return err
	}
	b.set("removal", who, millis(took))
	return nil
}

func composeFile(version []int) string {
	var s strings.Builder
	s.WriteString("version: \"3.8\"\nservices:\n")
	for i, v := range version {
		fmt.Fprintf(&s, "  c%d:\n    image: %s\n    container_name: bench-c%d\n    command: [/bin/busybox, sleep, \"100000\"]\n    environment: {VERSION: \"%d\"}\n    stop_grace_period: 0s\n",
			i, imageName, i, v)
	}
	return s.String()
}
