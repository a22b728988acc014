package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

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
	spec.Process.Rlimits = rlimit("RLIMIT_NOFILE", 1<<30)
	req := e.startSpec("greedy", spec)
	if exit := e.wait(req); codeOf(exit) != "0" {
		t.Errorf("exit %s, output %q", codeOf(exit), e.lines(req, LogOptions{}))
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	if st := e.state(req.ID); own.Max < 1<<30 && len(st.Warnings) == 0 {
		t.Errorf("no warning: %+v", st)
	}
}
