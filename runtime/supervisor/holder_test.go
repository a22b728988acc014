package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// hold holds what the supervisor has until the end of the test, as an agent does, or until stop.
func (e *env) hold() (h *Holder, stop func()) {
	e.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	h = NewHolder(e.cfg, nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	e.Cleanup(stop)
	return h, stop
}

// awaitHeld returns when exactly ids are held.
func (e *env) awaitHeld(h *Holder, ids ...runtime.ID) {
	e.Helper()
	slices.Sort(ids)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		var have []runtime.ID
		for id := range h.runs {
			have = append(have, id)
		}
		h.mu.Unlock()
		if slices.Sort(have); slices.Equal(have, ids) {
			return
		}
		if time.Now().After(deadline) {
			e.Fatalf("held: %v, want %v", have, ids)
		}
	}
}

// tellsExits reports whether this kernel tells how a process ended to others than its parent (Linux 6.15).
func tellsExits(t *testing.T) bool {
	t.Helper()
	pidfd, err := openPidfd(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pidfd.Close() }()
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	return unix.IoctlPidfdInfo(int(pidfd.Fd()), &info) == nil
}

// checkExit compares an exit that no supervisor saw with how the container ended. An older kernel tells nobody.
func checkExit(t *testing.T, req StartRequest, got Exit, want int) {
	t.Helper()
	switch {
	case tellsExits(t):
		if codeOf(got) != fmt.Sprint(want) || got.Reason != "" {
			t.Errorf("%s ended as %+v, code %s, want %d", req.ID, got, codeOf(got), want)
		}
	case got.Code != nil || got.Reason != runtime.ReasonSupervisorLost:
		t.Errorf("%s ended as %+v, code %s, which nobody can know", req.ID, got, codeOf(got))
	}
}

// What containers say and how they end while no supervisor lives is known to the next one, if somebody held it.
func TestHeldOutlivesSupervisor(t *testing.T) {
	e := newEnv(t)
	before := e.start("before", "sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 1 & wait $!; done")
	h, _ := e.hold()
	e.awaitHeld(h, "before")
	// Held from its very beginning.
	zero := e.start("zero", "sh", "-c", "trap 'echo fine; exit 0' TERM; echo ready; while :; do sleep 1 & wait $!; done")
	killed := e.start("killed", "sh", "-c", "echo ready; exec sleep 1000")
	stays := e.start("stays", "sh", "-c", "trap 'echo still here' USR1; echo ready; while :; do sleep 1 & wait $!; done")
	e.wait(e.start("over", "true")) // is let go of
	all := []StartRequest{before, zero, killed, stays}
	for _, req := range all {
		e.awaitLine(req, "ready")
	}
	e.awaitHeld(h, "before", "zero", "killed", "stays")

	pid := map[runtime.ID]int{}
	for _, req := range all {
		pid[req.ID] = e.state(req.ID).Pid
	}
	e.kill()
	for id, sig := range map[runtime.ID]unix.Signal{"before": unix.SIGTERM, "zero": unix.SIGTERM, "killed": unix.SIGKILL, "stays": unix.SIGUSR1} {
		if err := unix.Kill(pid[id], sig); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []runtime.ID{"before", "zero", "killed"} {
		waitGone(t, pid[id])
	}
	e.ensure()
	for _, want := range []struct {
		req   StartRequest
		code  int
		words []string
	}{
		{before, 7, []string{"o:ready", "o:bye"}},
		{zero, 0, []string{"o:ready", "o:fine"}},
		{killed, 137, []string{"o:ready"}},
	} {
		checkExit(t, want.req, e.wait(want.req), want.code)
		if got := e.lines(want.req, LogOptions{}); !slices.Equal(got, want.words) {
			t.Errorf("%s said %q, want %q", want.req.ID, got, want.words)
		}
	}
	e.awaitLine(stays, "still here")
	if st := e.state(stays.ID); !st.Running || st.Pid != pid[stays.ID] {
		t.Errorf("state %+v", st)
	}
	e.awaitHeld(h, "stays") // by the next one too; what is recorded is let go of
}

// Who held and is gone, and who hangs, do not keep a supervisor from starting; what nobody gives is unknown.
func TestHolderGone(t *testing.T) {
	e := newEnv(t)
	req := e.start("lost", "sh", "-c", "echo ready; exec sleep 1000")
	h, stop := e.hold()
	e.awaitHeld(h, "lost")
	e.awaitLine(req, "ready")
	stop()
	if _, err := os.Stat(holderPath(e.cfg)); err == nil {
		t.Error("the socket is left")
	}
	pid := e.state(req.ID).Pid
	e.kill()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitGone(t, pid)
	e.ensure()
	if exit := e.wait(req); exit.Code != nil || exit.Reason != runtime.ReasonSupervisorLost {
		t.Errorf("exit %+v, code %s", exit, codeOf(exit))
	}
}

// A holder starts another supervisor as long as a container needs one, and none where there is none.
func TestHolderRevives(t *testing.T) {
	e := newEnv(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	h := NewHolder(e.cfg, e.self)
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	req := e.start("needy", "sh", "-c", "trap 'echo alive' USR1; echo ready; while :; do sleep 1 & wait $!; done")
	e.awaitLine(req, "ready")
	e.awaitHeld(h, "needy")
	e.kill()
	if err := unix.Kill(pidOf(t, e, req.ID), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	e.awaitLine(req, "alive") // nobody but the holder has started one
	e.ensure()                // until it listens
	e.awaitHeld(h, "needy")
	if err := e.c.Delete(e.ctx(), req.ID); err != nil {
		t.Fatal(err)
	}
	e.awaitHeld(h)
	if err := e.c.Shutdown(e.ctx(), true); err != nil {
		t.Fatal(err)
	}
	if LeftBehind(e.cfg) {
		t.Error("a supervisor would be started for nobody")
	}
	if entries, err := os.ReadDir(filepath.Join(e.cfg.RunDir, "supervisor")); err == nil {
		t.Errorf("left: %v", entries)
	}
}
