package linux_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"

	"reconciler/runtime"
)

// cgroupFile reads a file of a container's cgroup: name on v1, or its counterpart of v2.
func (e *env) cgroupFile(id runtime.ID, controller, v1, v2 string) string {
	e.Helper()
	path := "/sys/fs/cgroup/" + controller + "/reconciler/" + e.cfg.Instance + "/" + string(id) + "/" + v1
	if cgroups.IsCgroup2UnifiedMode() {
		path = "/sys/fs/cgroup/reconciler/" + e.cfg.Instance + "/" + string(id) + "/" + v2
	}
	data, err := os.ReadFile(path)
	if err != nil {
		e.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestMemoryLimitIsSeenAndNamed(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("hog", "x=0123456789abcdef; while :; do x=$x$x; done")
	spec.Limits.Memory = 16 << 20
	_, st := e.run(spec)
	if !st.OOMKilled || st.ExitCode == nil || *st.ExitCode != 137 {
		t.Errorf("status %+v", st)
	}
}

func TestPidsLimit(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("forks", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; echo made them")
	spec.Limits.Pids = 5
	out, _ := e.run(spec)
	if !strings.Contains(out, "fork") || strings.Contains(out, "made them") {
		t.Errorf("output %q", out)
	}
}

func TestUpdateChangesLimitsAndKeepsTheProcess(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("web", "sleep", "1000")
	spec.Limits = runtime.Resources{CPUMillis: 500, Memory: 64 << 20, Pids: 50}
	id := e.start(spec)
	before := e.status(id)
	expect := func(quota, memory, pids string) {
		t.Helper()
		if got := e.cgroupFile(id, "cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, quota) {
			t.Errorf("cpu quota %s, want %s", got, quota)
		}
		if got := e.cgroupFile(id, "memory", "memory.limit_in_bytes", "memory.max"); got != memory {
			t.Errorf("memory limit %s, want %s", got, memory)
		}
		if got := e.cgroupFile(id, "pids", "pids.max", "pids.max"); got != pids {
			t.Errorf("pids limit %s, want %s", got, pids)
		}
	}
	expect("50000", "67108864", "50")
	spec.Limits = runtime.Resources{CPUMillis: 1500, Memory: 128 << 20, Pids: 100}
	if err := e.Update(t.Context(), id, spec); err != nil {
		t.Fatal(err)
	}
	expect("150000", "134217728", "100")
	after := e.status(id)
	if after.Pid != before.Pid || after.Starts != 1 || after.Spec.Limits != spec.Limits {
		t.Errorf("before %+v, after %+v", before, after)
	}
	spec.Limits.Memory = 1 << 10
	if err := e.Update(t.Context(), id, spec); err == nil {
		t.Error("a limit below the present use was taken")
	} else if e.status(id).Spec.Limits.Memory != 128<<20 {
		t.Errorf("a refused limit was recorded: %v", err)
	}
	spec.Limits = runtime.Resources{}
	if err := e.Update(t.Context(), id, spec); err != nil {
		t.Fatal(err)
	}
	if cgroups.IsCgroup2UnifiedMode() {
		expect("max", "max", "max")
	} else {
		expect("-1", "9223372036854771712", "max")
	}
}

// Measured in what the kernel counts: on a busy server a container may get less, but never more.
func TestCPULimit(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("busy", "sleep", "1000")
	spec.Limits.CPUMillis = 200
	id := e.start(spec)
	begin := time.Now()
	e.exec(id, "/bin/busybox", "timeout", "1", "sh", "-c", "while :; do :; done")
	wall := time.Since(begin)
	stat := e.cgroupFile(id, "cpu", "cpu.stat", "cpu.stat")
	if strings.Contains("\n"+stat+"\n", "\nnr_throttled 0\n") || !strings.Contains(stat, "nr_throttled ") {
		t.Errorf("it was never throttled: %s", stat)
	}
	used := time.Duration(0)
	if cgroups.IsCgroup2UnifiedMode() {
		_, after, _ := strings.Cut(stat, "usage_usec ")
		first, _, _ := strings.Cut(after, "\n")
		used = number(t, first) * time.Microsecond
	} else {
		used = number(t, e.cgroupFile(id, "cpuacct", "cpuacct.usage", "")) * time.Nanosecond
	}
	// A period more at the beginning, and what each processor may take at once (sched_cfs_bandwidth_slice: 5 ms).
	if limit := wall/5 + 50*time.Millisecond; used > limit {
		t.Errorf("used %v of a processor in %v, more than %v", used, wall, limit)
	}
}

func number(t *testing.T, s string) time.Duration {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n)
}

// A fork bomb stays in its container: others start, and it can be removed.
func TestForkBomb(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("bomb", "sleep", "1000")
	spec.Limits.Pids = 30
	id := e.start(spec)
	e.exec(id, "sh", "-c", "b() { b | b & }; b")
	if out, _ := e.run(e.sh("neighbour", "echo fine")); out != "fine\n" {
		t.Errorf("the neighbour says %q", out)
	}
	if n := number(t, e.cgroupFile(id, "pids", "pids.current", "pids.current")); n > 30 {
		t.Errorf("%d processes", n)
	}
	if err := e.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestLogFloodIsBounded(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("flood", "head -c 20000000 /dev/zero | tr '\\0' '\\n'; echo the end")
	spec.Logs = runtime.Logs{MaxSize: 64 << 10, MaxFiles: 3}
	id := e.start(spec)
	e.exited(id)
	var size int64
	err := filepath.WalkDir(filepath.Join(e.cfg.StateDir, "containers", string(id)), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	if err != nil || size > 3*64<<10+32<<10 {
		t.Errorf("%d bytes are kept, %v", size, err)
	}
	if out := e.output(id); !strings.HasSuffix(out, "\nthe end\n") {
		t.Error("the end is lost")
	}
}
