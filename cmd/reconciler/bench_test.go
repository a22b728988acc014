package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/source/sourcetest"
)

// From `git push` to a bare repository on this machine until the process of the changed container runs, with the real
// program. Reported as medians: push-ms, the whole way from before git begins; step-ms, what of it the container's own
// stop and start took; besides-ms, the rest.
func BenchmarkPushToRunning(b *testing.B) {
	s := newServer(b)
	repo := repository(b, sourcetest.Files{"a.yaml": busybox("a", forever), "b.yaml": busybox("b", forever)})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	events := s.follow("events", "-f", "a")
	events.await("Done", "create took")
	var whole, step, besides []time.Duration
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		repo.Commit("change", sourcetest.Files{"a.yaml": busybox("a", forever, fmt.Sprintf("env: {N: %d}", n))})
		b.StartTimer()
		began := time.Now()
		repo.Push()
		events.await("Done", "replace took")
		b.StopTimer()
		row := s.rows()["a"]
		if row.Revision != repo.Head() || row.State != "Running" {
			b.Fatalf("told of as replaced, and is not: %+v", row)
		}
		took := s.lastStep("a")
		whole = append(whole, row.StartedAt.Sub(began))
		step = append(step, took)
		besides = append(besides, max(0, row.StartedAt.Sub(began)-took))
		b.StartTimer()
	}
	b.ReportMetric(median(whole), "push-ms")
	b.ReportMetric(median(step), "step-ms")
	b.ReportMetric(median(besides), "besides-ms")
}

// One `reconciler sync` where nothing is to do: 1,000 manifests, of which 100 are for this node and run. CPU time of
// everyone who works for it: the agent, the supervisor and the command itself.
func BenchmarkSyncIdle(b *testing.B) {
	s := newServer(b)
	files := sourcetest.Files{}
	for _, node := range []string{"here", "there"} {
		files[node+".yaml"] = fmt.Sprintf("apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: %s, labels: {at: %s}}\n", node, node)
	}
	for i := range 998 {
		at := "there"
		if i < 100 {
			at = "here"
		}
		name := fmt.Sprintf("c%03d", i)
		files[fmt.Sprintf("%d/%s.yaml", i%10, name)] = busybox(name, "exec sleep 100000", "nodeSelector: {at: "+at+"}")
	}
	repo := repository(b, files)
	agent := s.start("--repo", repo.Bare, "--node", "here", "--interval", "1h")
	s.must("sync", "--timeout", "5m")
	if rows := s.rows(); len(rows) != 100 {
		b.Fatalf("%d containers, want 100", len(rows))
	}
	supervisor := s.supervisorPid()
	var ofAgent, ofSupervisor, ofCommand []time.Duration
	for b.Loop() {
		a, v := cpuTime(b, agent.cmd.Process.Pid), cpuTime(b, supervisor)
		cmd := exec.Command(s.bin, "sync", "--timeout", patience)
		cmd.Env = s.env
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("sync: %v\n%s", err, out)
		}
		ofAgent = append(ofAgent, cpuTime(b, agent.cmd.Process.Pid)-a)
		ofSupervisor = append(ofSupervisor, cpuTime(b, supervisor)-v)
		ofCommand = append(ofCommand, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	}
	b.ReportMetric(median(ofAgent), "agent-cpu-ms")
	b.ReportMetric(median(ofSupervisor), "supervisor-cpu-ms")
	b.ReportMetric(median(ofCommand), "command-cpu-ms")
}

// lastStep returns how long the newest step on a container took.
func (s *server) lastStep(name string) time.Duration {
	s.t.Helper()
	var entries []journal.Entry
	if err := json.Unmarshal([]byte(s.must("history", name, "-o", "json")), &entries); err != nil || len(entries) == 0 || len(entries[0].Steps) == 0 {
		s.t.Fatalf("history: %v %+v", err, entries)
	}
	return time.Duration(entries[0].Steps[0].DurationMs) * time.Millisecond
}

// supervisorPid returns the process of this instance's supervisor.
func (s *server) supervisorPid() int {
	s.t.Helper()
	var v versionReport
	if err := json.Unmarshal([]byte(s.must("version", "-o", "json")), &v); err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(v.Supervisors, func(r supervisorReport) bool { return r.Instance == s.instance })
	if i < 0 {
		s.t.Fatalf("no supervisor of %s: %+v", s.instance, v.Supervisors)
	}
	return v.Supervisors[i].Pid
}

// cpuTime returns the processor time that all threads of a process used so far, in nanoseconds where /proc has ticks.
func cpuTime(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel's include/linux/posix-timers_types.h, as clock_getcpuclockid(3) makes it
	var at unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &at); err != nil {
		tb.Fatalf("processor time of %d: %v", pid, err)
	}
	return time.Duration(at.Nano())
}

// median returns the middle one, in milliseconds.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2]) / float64(time.Millisecond)
}
