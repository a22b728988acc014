package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// A supervisor that is killed again and again while a container writes: every line is there, in order, and the container
// never notices.
func TestKillLosesNoLine(t *testing.T) {
	e := newEnv(t)
	const lines = 10_000
	req := e.bundle("writer", e.spec("writer", "sh", "-c",
		fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i || exit 3; done; echo done; exec sleep 1000", lines)))
	req.Logs = runtime.Logs{MaxSize: 32 << 10, MaxFiles: 1000}
	started, err := e.c.Start(e.ctx(), req, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		e.kill()
		e.ensure()
		if st := e.state(req.ID); !st.Running || st.Pid != started.Pid || st.StartTime != started.StartTime {
			t.Fatalf("adopted as %+v, was %+v", st, started)
		}
	}
	e.awaitLine(req, "done")
	got := e.lines(req, LogOptions{})
	if len(got) != lines+1 {
		t.Errorf("%d lines", len(got))
	}
	for i := range min(len(got), lines) {
		if want := fmt.Sprint("o:line ", i+1); got[i] != want {
			t.Fatalf("line %d is %q", i+1, got[i])
		}
	}
}

func TestAdopted(t *testing.T) {
	e := newEnv(t)
	script := "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 1 & wait $!; done"
	for _, id := range []string{"stop", "delete", "exit"} {
		req := e.start(id, "sh", "-c", script)
		e.awaitLine(req, "ready")
	}
	gone := e.start("gone", "sleep", "1000")
	before := e.start("before", "sh", "-c", "exit 4")
	known := e.wait(before)

	e.kill()
	goneState := e.state // the old client's; asked below with the new supervisor
	pid := pidOf(t, e, gone.ID)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	e.ensure()

	if st := goneState(gone.ID); st.Running || st.ExitCode != nil || st.Reason != runtime.ReasonSupervisorLost {
		t.Errorf("ended unseen: %+v", st)
	}
	if exit, ok, err := ReadExit(gone.LogDir); err != nil || !ok || exit.Code != nil || exit.Reason != runtime.ReasonSupervisorLost {
		t.Errorf("exit of what ended unseen: %+v, %v %v", exit, ok, err)
	}
	if st := e.state(before.ID); st.ExitCode == nil || *st.ExitCode != 4 || !st.FinishedAt.Equal(known.FinishedAt) {
		t.Errorf("ended before: %+v", st)
	}
	var out bytes.Buffer
	if code, err := e.c.Exec(e.ctx(), ExecRequest{ID: "stop", Args: []string{"hostname"}}, nil, &out, nil); err != nil || code != 0 || out.String() != "stop\n" {
		t.Errorf("exec: %d %q %v", code, out.String(), err)
	}
	exit, err := e.c.Stop(e.ctx(), "stop", "", 20*time.Second)
	if err != nil || exit.FinishedAt.IsZero() || (exit.Code != nil && *exit.Code != 5) || (exit.Code == nil && exit.Reason != runtime.ReasonSupervisorLost) {
		t.Errorf("stop: %+v code %s, %v", exit, codeOf(exit), err)
	}
	t.Logf("exit code of an adopted container: %s", codeOf(exit))
	stopLog := StartRequest{LogDir: filepath.Join(e.dir, "logs-stop")}
	if got := e.lines(stopLog, LogOptions{}); !slices.Equal(got, []string{"o:ready", "o:bye"}) {
		t.Errorf("output: %q", got)
	}
	if err := e.c.Delete(e.ctx(), "delete"); err != nil {
		t.Errorf("delete: %v", err)
	}
	// A new run of an adopted one.
	req := e.start("stop", "sh", "-c", "exit 6")
	if exit := e.wait(req); codeOf(exit) != "6" {
		t.Errorf("new run: %s", codeOf(exit))
	}
}

// waitGone returns when a process has ended (collected or not).
func waitGone(t *testing.T, pid int) {
	t.Helper()
	pidfd, err := openPidfd(pid)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pidfd.Close() }()
	if err := waitPidfd(context.Background(), pidfd); err != nil {
		t.Fatal(err)
	}
}

// pidOf reads a container's pid from the record, for when no supervisor can be asked.
func pidOf(t *testing.T, e *env, id runtime.ID) int {
	t.Helper()
	var rec containerRecord
	if err := readJSON(filepath.Join(e.cfg.RunDir, "supervisor", string(id), recordFile), &rec); err != nil {
		t.Fatal(err)
	}
	return rec.Pid
}

// The grace of a stop goes on although the supervisor that was asked is dead.
func TestGraceSurvives(t *testing.T) {
	e := newEnv(t)
	req := e.start("deaf", "sh", "-c", "trap 'echo asked' TERM; echo ready; while :; do sleep 1 & wait $!; done")
	e.awaitLine(req, "ready")
	ctx, cancel := context.WithCancel(e.ctx())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = e.c.Stop(ctx, req.ID, "", 1500*time.Millisecond) })
	e.awaitLine(req, "asked")
	e.kill()
	cancel()
	wg.Wait()
	e.ensure()
	if exit := e.wait(req); !exit.Stopped || exit.OOMKilled {
		t.Errorf("exit %+v", exit)
	}
}

// A supervisor that died in the middle of a start leaves something that no caller was told of.
func TestUnfinishedStart(t *testing.T) {
	e := newEnv(t)
	req := e.start("half", "sleep", "1000")
	pid := pidOf(t, e, req.ID)
	e.kill()
	path := filepath.Join(e.cfg.RunDir, "supervisor", "half", recordFile)
	var rec containerRecord
	if err := readJSON(path, &rec); err != nil {
		t.Fatal(err)
	}
	rec.Pid = 0
	if err := writeJSON(path, rec); err != nil {
		t.Fatal(err)
	}
	e.ensure()
	waitGone(t, pid)
	if all, err := e.c.List(e.ctx()); err != nil || len(all) != 0 {
		t.Errorf("listed: %+v, %v", all, err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("its run directory is left")
	}
}

func TestShutdownLeavesContainers(t *testing.T) {
	e := newEnv(t)
	req := e.start("stays", "sh", "-c", "trap 'echo still here' USR1; echo ready; while :; do sleep 1 & wait $!; done")
	e.awaitLine(req, "ready")
	pid := e.state(req.ID).Pid
	if err := e.c.Shutdown(e.ctx(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := e.c.List(e.ctx()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("list without a supervisor: %v", err)
	}
	if _, err := Dial(e.ctx(), e.cfg); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dial: %v", err)
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil { // it writes while nobody reads
		t.Fatal(err)
	}
	e.ensure()
	e.awaitLine(req, "still here")
	if st := e.state(req.ID); !st.Running || st.Pid != pid {
		t.Errorf("state %+v", st)
	}
}

func TestOneSupervisor(t *testing.T) {
	e := newEnv(t)
	if err := Run(t.Context(), e.cfg); !errors.Is(err, ErrAlreadyRunning) {
		t.Errorf("a second one: %v", err)
	}
	if err := e.c.Shutdown(e.ctx(), false); err != nil {
		t.Fatal(err)
	}
	pids := make([]int, 8)
	var wg sync.WaitGroup
	for i := range pids {
		wg.Go(func() {
			c, err := Ensure(e.ctx(), e.cfg, e.self)
			if err != nil {
				t.Error(err)
				return
			}
			v, err := c.Version(e.ctx())
			if err != nil {
				t.Error(err)
			}
			pids[i] = v.Pid
		})
	}
	wg.Wait()
	if slices.Min(pids) != slices.Max(pids) {
		t.Errorf("several supervisors: %v", pids)
	}
	e.ensure()
}

func TestEnsureFailure(t *testing.T) {
	cfg := Config{StateDir: t.TempDir(), RunDir: t.TempDir(), Instance: "x"}
	_, err := Ensure(t.Context(), cfg, []string{"/bin/sh", "-c", "echo no such flag >&3"})
	var re *runtime.Error
	if !errors.As(err, &re) || !strings.HasSuffix(re.Error(), "no such flag") || !strings.Contains(re.Hint, logFile) {
		t.Errorf("error is %v", err)
	}
	if _, err := Ensure(t.Context(), cfg, []string{"/bin/true"}); err == nil || !strings.Contains(err.Error(), "ended before it was ready") {
		t.Errorf("error is %v", err)
	}
	if _, err := Ensure(t.Context(), cfg, []string{"/nonsense"}); err == nil {
		t.Error("no error")
	}
}

func TestWatch(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(e.ctx())
	events, err := e.c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	e.wait(e.start("seen", "true"))
	for _, want := range []runtime.EventType{runtime.EventStarted, runtime.EventExited} {
		if got := <-events; got.Type != want || got.ID != "seen" || got.Time.IsZero() {
			t.Errorf("%+v, want %s", got, want)
		}
	}
	e.kill()
	if got := <-events; got.Type != runtime.EventLost {
		t.Errorf("%+v, want %s", got, runtime.EventLost)
	}
	if _, ok := <-events; ok {
		t.Error("the channel is open after the end")
	}
	cancel()
	e.ensure()
}

// A supervisor that has the run directory and does not listen, because it begins or ends, is waited for.
func TestEnsureBesideAnother(t *testing.T) {
	e := newEnv(t)
	if err := e.c.Shutdown(e.ctx(), false); err != nil {
		t.Fatal(err)
	}
	ending := newServer(e.cfg)
	lock, err := ending.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := spawn(e.ctx(), e.cfg, e.self); !errors.Is(err, ErrAlreadyRunning) {
		t.Errorf("spawn: %v", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { _ = lock.Close() })
	e.ensure()
}
