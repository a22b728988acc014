package linux_test

import (
	"os"
	"strings"
	"testing"

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
}
