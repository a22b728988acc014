package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
)

func TestLimits(t *testing.T) {
	e := newEnv(t)
	t.Run("memory", func(t *testing.T) {
		spec := e.spec("hog", "tail", "/dev/zero")
		limit := int64(64 << 20)
		spec.Linux.Resources.Memory = memory(limit)
		req := e.startSpec("hog", spec)
		if exit := e.wait(req); codeOf(exit) != "137" || !exit.OOMKilled {
			t.Errorf("exit %s, OOM %v", codeOf(exit), exit.OOMKilled)
		}
	})
	t.Run("memory of a child", func(t *testing.T) {
		spec := e.spec("child-hog", "sh", "-c", "tail /dev/zero; echo child $?; exit 0")
		spec.Linux.Resources.Memory = memory(64 << 20)
		req := e.startSpec("child-hog", spec)
		if exit := e.wait(req); codeOf(exit) != "0" || exit.OOMKilled {
			t.Errorf("exit %s, OOM %v", codeOf(exit), exit.OOMKilled)
		}
		if got := e.lines(req, LogOptions{Stream: Stdout}); !slices.Equal(got, []string{"o:child 137"}) {
			t.Errorf("output %q", got)
		}
	})
	t.Run("pids", func(t *testing.T) {
		spec := e.spec("forks", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; echo all")
		n := int64(5)
		spec.Linux.Resources.Pids = pids(n)
		req := e.startSpec("forks", spec)
		exit := e.wait(req)
		if got := e.lines(req, LogOptions{}); slices.Contains(got, "o:all") {
			t.Errorf("ten processes were allowed: %q, exit %s", got, codeOf(exit))
		}
	})
	t.Run("update", func(t *testing.T) {
		req := e.start("update", "sleep", "1000")
		if err := e.c.Update(e.ctx(), req.ID, runtime.Resources{CPUMillis: 250, Memory: 32 << 20, Pids: 7}, runtime.Logs{}); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{
			"memory/memory.limit_in_bytes": "33554432", "pids/pids.max": "7", "cpu/cpu.cfs_quota_us": "25000",
		}
		v2 := map[string]string{"memory.max": "33554432", "pids.max": "7", "cpu.max": "25000 100000"}
		root := "/sys/fs/cgroup"
		if _, err := os.Stat(root + "/cgroup.controllers"); err == nil {
			want = v2
		}
		for file, value := range want {
			dir, name := filepath.Split(file)
			data, err := os.ReadFile(filepath.Join(root, dir, "reconciler", e.cfg.Instance, "update", name))
			if err != nil || strings.TrimSpace(string(data)) != value {
				t.Errorf("%s is %q, want %s (%v)", file, data, value, err)
			}
		}
		// What is started in it later has the same devices and limits, and libcontainer can tell so.
		var out bytes.Buffer
		code, err := e.c.Exec(e.ctx(), ExecRequest{ID: req.ID, Args: []string{"sh", "-c", "echo x > /dev/null; echo fine"}}, nil, &out, nil)
		if err != nil || code != 0 || out.String() != "fine\n" {
			t.Errorf("exec after an update: %d %q %v", code, &out, err)
		}
		if err := e.c.Update(e.ctx(), req.ID, runtime.Resources{}, runtime.Logs{}); err != nil {
			t.Errorf("no limits: %v", err)
		}
		if _, err := e.c.Stop(e.ctx(), req.ID, "", 0); err != nil {
			t.Fatal(err)
		}
		if err := e.c.Update(e.ctx(), req.ID, runtime.Resources{Pids: 5}, runtime.Logs{}); err != nil {
			t.Errorf("of one that has ended: %v", err)
		}
	})
	// Cached files give way to a lower limit. What is in use does not, and nobody is killed for it.
	t.Run("lowered", func(t *testing.T) {
		spec := e.spec("lowered", "sh", "-c", "dd if=/dev/zero of=/tmp/cached bs=1M count=40 conv=fsync && echo written; exec sleep 1000")
		spec.Linux.Resources.Memory = memory(64 << 20)
		req := e.startSpec("lowered", spec)
		e.awaitLine(req, "written")
		if err := e.c.Update(e.ctx(), req.ID, runtime.Resources{Memory: 16 << 20}, runtime.Logs{}); err != nil {
			t.Errorf("below what is cached: %v", err)
		}
		if err := e.c.Update(e.ctx(), req.ID, runtime.Resources{Memory: 1 << 10}, runtime.Logs{}); err == nil {
			t.Error("a limit below what is used was taken")
		}
		if st := e.state(req.ID); !st.Running {
			t.Errorf("it was killed: %+v", st)
		}
	})
}

// On v2 a lower limit kills unless it is checked against what is in use; a limit that is not lowered needs no check, and
// fails it where the container is full of cache.
func TestLoweredMemoryIsChecked(t *testing.T) {
	for _, tc := range []struct {
		from, to int64
		want     bool
	}{{0, 0, false}, {64, 0, false}, {0, 64, true}, {-1, 64, true}, {64, 32, true}, {64, 64, false}, {32, 64, false}} {
		r := cgroups.Resources{Memory: tc.from, MemoryCheckBeforeUpdate: true}
		applyLimits(&r, runtime.Resources{Memory: tc.to}, true)
		if r.MemoryCheckBeforeUpdate != tc.want {
			t.Errorf("from %d to %d: checked %v", tc.from, tc.to, r.MemoryCheckBeforeUpdate)
		}
	}
}

func TestDegrades(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("greedy", "sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj")
	low := -900
	spec.Process.OOMScoreAdj = &low
	spec.Process.Rlimits = rlimit("RLIMIT_NOFILE", 1<<31) // more than fs.nr_open can be
	req := e.startSpec("greedy", spec)
	if exit := e.wait(req); codeOf(exit) != "0" {
		t.Errorf("exit %s, output %q", codeOf(exit), e.lines(req, LogOptions{}))
	}
	if st := e.state(req.ID); len(st.Warnings) == 0 {
		t.Errorf("no warning: %+v", st)
	}
}

// With every capability, as on most servers, only the number of open files has a bound.
func TestRlimitsWithEveryCapability(t *testing.T) {
	for name, want := range map[string]int{"RLIMIT_NOFILE": 1, "RLIMIT_NPROC": 0} {
		p := &specs.Process{Rlimits: rlimit(name, 1<<31)}
		if got := lowerRlimits(p, true); len(got) != want || (p.Rlimits[0].Hard < 1<<31) != (want == 1) {
			t.Errorf("%s: warnings %q, limit %d", name, got, p.Rlimits[0].Hard)
		}
	}
}
