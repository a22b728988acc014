package linux_test

import (
	"strings"
	"testing"

	"reconciler/runtime"
)

// What takes all that it can get stays within its limits, whoever it is, and what it ran into is to be seen.
func TestGreed(t *testing.T) {
	e := newEnv(t)
	neighbour := e.start(e.spec("neighbour", "sleep", "1000"))
	for _, p := range prisoners() {
		t.Run(p.name, func(t *testing.T) {
			greedy := func(script string) runtime.Spec {
				spec := e.sh("greedy", script)
				p.change(&spec)
				spec.Limits = runtime.Resources{Memory: 32 << 20, Pids: 30}
				spec.Logs = runtime.Logs{MaxSize: 64 << 10, MaxFiles: 2}
				return spec
			}
			for name, script := range map[string]string{
				"memory":        "x=0123456789abcdef; while :; do x=$x$x; done",
				"shared memory": "echo -1000 >/proc/self/oom_score_adj; exec cat /dev/zero >/dev/shm/x",
			} {
				spec := greedy(script)
				spec.ShmSize = 1 << 30
				if _, st := e.run(spec); !st.OOMKilled {
					t.Errorf("%s: exit %d, oom %v, %s: %s", name, *st.ExitCode, st.OOMKilled, st.Message, e.output(st.ID))
				}
			}
			filler := greedy("cat /dev/zero >/srv/filler; echo ended")
			filler.Limits.Disk = 16 << 20
			if out, _ := e.run(filler); !strings.Contains(out, "No space left") || !strings.Contains(out, "ended") {
				t.Errorf("it filled the disk: %s", out)
			}
			flood := greedy("head -c 20000000 /dev/zero | tr '\\0' '\\n'; echo the end")
			if out, _ := e.run(flood); len(out) > 128<<10 || !strings.HasSuffix(out, "\nthe end\n") {
				t.Errorf("%d bytes of output are kept", len(out))
			}
			forks := greedy("b() { b | b & }; b; sleep 1000")
			forks.Limits.Memory = 0 // else that may end it first
			bomb := e.start(forks)
			e.exec(neighbour, "sh", "-c", "echo fine | cat")
			// The kernel counts what it refused.
			events := func() string { return e.cgroupFile(bomb, "pids", "pids.events", "pids.events") }
			for strings.HasSuffix(events(), "max 0") {
				e.exec(neighbour, "true")
			}
			if n := number(t, e.cgroupFile(bomb, "pids", "pids.current", "pids.current")); n > 30 {
				t.Errorf("%d processes", n)
			}
			if err := e.Remove(t.Context(), bomb); err != nil {
				t.Error(err)
			}
		})
	}
}
