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
				"shared memory": "cat /dev/zero >/dev/shm/x; cat /dev/shm/x >/dev/null; echo -1000 >/proc/self/oom_score_adj",
			} {
				spec := greedy(script)
				spec.ShmSize = 1 << 30
				if _, st := e.run(spec); !st.OOMKilled {
					t.Errorf("%s: %+v", name, st)
				}
			}
			bomb := e.start(greedy("b() { b | b & }; b; sleep 1000"))
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
