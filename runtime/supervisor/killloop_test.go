package supervisor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// agent is a process that holds and revives, as the real one does beside everything else.
type agent struct {
	cmd *exec.Cmd
}

// holdForever is that process. It ends with the test.
func holdForever(cfg Config, self []string) {
	ctx, cancel := context.WithCancel(context.Background())
	test, err := openPidfd(os.Getppid())
	if err != nil {
		os.Exit(1)
	}
	go func() {
		_ = waitPidfd(ctx, test)
		cancel()
	}()
	NewHolder(cfg, self).Run(ctx)
	os.Exit(0)
}

func (e *env) startAgent() *agent {
	e.Helper()
	cmd := exec.Command("/proc/self/exe", "hold", e.cfg.StateDir, e.cfg.RunDir, e.cfg.Instance)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		e.Fatal(err)
	}
	return &agent{cmd}
}

func (a *agent) kill() {
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

// holds waits until the agent holds what the present supervisor has of a container: both its pipes and the pidfd.
func (a *agent) holds(e *env, pid int) {
	e.Helper()
	dir := fmt.Sprintf("/proc/%d/fdinfo", a.cmd.Process.Pid)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			info, _ := os.ReadFile(dir + "/" + entry.Name())
			if strings.Contains(string(info), fmt.Sprintf("\nPid:\t%d\n", pid)) {
				return
			}
		}
	}
	e.Fatalf("process %d is not held", pid)
}

// Supervisor and agent are killed at random moments, one at a time, while containers write, end and are asked to run
// commands: no line is lost or cut, no pid changes, no exit is wrong, and every command can be run right after.
func TestKillLoop(t *testing.T) {
	e := newEnv(t)
	ag := e.startAgent()
	defer func() {
		ag.kill()
		_ = os.Remove(holderPath(e.cfg)) // of who was killed
	}()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // repeatable, not secret
	rounds := 15
	if testing.Short() {
		rounds = 5
	}

	writers := map[StartRequest]int{}
	for _, id := range []string{"fast", "slow"} {
		pause := ""
		if id == "slow" {
			pause = "sleep 0.01; "
		}
		// Written until told to end, and how many in the end: the reader must find exactly those.
		req := e.bundle(id, e.spec(id, "sh", "-c", "trap 'stop=1' TERM; i=0; while [ -z \"$stop\" ]; do i=$((i+1)); echo line $i || exit 3; "+
			pause+"done; echo total $i; exit 0"))
		req.Logs = runtime.Logs{MaxSize: 256 << 10, MaxFiles: 10_000}
		if _, err := e.c.Start(e.ctx(), req, nil); err != nil {
			t.Fatal(err)
		}
		writers[req] = e.state(req.ID).Pid
	}
	for round := range rounds {
		code := dice.IntN(4)
		last := e.start(fmt.Sprint("last-", round), "sh", "-c",
			fmt.Sprintf("trap 'echo bye; exit %d' TERM; echo ready; while :; do sleep 1 & wait $!; done", code))
		e.awaitLine(last, "ready")
		pid := e.state(last.ID).Pid
		ag.holds(e, pid)
		ends := make(chan error, 1)
		go func() { // at any moment of what follows
			time.Sleep(time.Duration(round%8) * 5 * time.Millisecond)
			ends <- unix.Kill(pid, unix.SIGTERM)
		}()
		time.Sleep(time.Duration(dice.IntN(30)) * time.Millisecond)
		if dice.IntN(3) == 0 {
			ag.kill()
			ag = e.startAgent()
		} else {
			e.kill()
		}
		if err := <-ends; err != nil {
			t.Fatal(err)
		}
		e.ensure() // or the agent was faster
		for req, was := range writers {
			if st := e.state(req.ID); !st.Running || st.Pid != was {
				t.Fatalf("round %d: %+v, was %d", round, st, was)
			}
			if out, err := e.c.Exec(e.ctx(), ExecRequest{ID: req.ID, Args: []string{"true"}}, nil, nil, nil); err != nil || out != 0 {
				t.Errorf("round %d: exec: %d, %v", round, out, err)
			}
			ag.holds(e, was)
		}
		checkKnownExit(t, last, e.wait(last), code)
		if got := strings.Join(e.lines(last, LogOptions{}), " "); got != "o:ready o:bye" {
			t.Errorf("round %d: last words %q", round, got)
		}
		if err := e.c.Delete(e.ctx(), last.ID); err != nil {
			t.Fatal(err)
		}
	}
	for req := range writers {
		exit, err := e.c.Stop(e.ctx(), req.ID, "", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		checkKnownExit(t, req, exit, 0)
		got := e.lines(req, LogOptions{})
		var total int
		if _, err := fmt.Sscanf(got[len(got)-1], "o:total %d", &total); err != nil || total != len(got)-1 {
			t.Errorf("%s: %d lines, the last is %q", req.ID, len(got), got[len(got)-1])
		}
		e.checkLines(req, len(got)-1)
	}
}
