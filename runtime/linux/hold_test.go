package linux_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// held waits until this process has a pidfd of another.
func (e *env) held(pid int) {
	e.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		entries, err := os.ReadDir("/proc/self/fdinfo")
		if err != nil {
			e.Fatal(err)
		}
		for _, entry := range entries {
			info, _ := os.ReadFile("/proc/self/fdinfo/" + entry.Name()) // of one that was just closed
			if strings.Contains(string(info), fmt.Sprintf("\nPid:\t%d\n", pid)) {
				return
			}
		}
	}
	e.Fatalf("process %d is not held", pid)
}

// Who watches holds what the supervisor has, and starts another where it died: what a container says and how it ends
// meanwhile is known, and nobody had to ask for anything.
func TestWatchOutlivesSupervisor(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.sh("last", "trap 'echo bye; exit 5' TERM; echo ready; while true; do sleep 1 & wait $!; done"))
	stays := e.start(e.sh("stays", "trap 'echo still here' USR1; echo ready; while true; do sleep 1 & wait $!; done"))
	pid, other := e.status(id).Pid, e.status(stays).Pid
	e.said(id, "ready")
	e.said(stays, "ready")
	hints, err := e.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.held(pid)
	e.killSupervisor()
	for to, sig := range map[int]unix.Signal{pid: unix.SIGTERM, other: unix.SIGUSR1} {
		if err = unix.Kill(to, sig); err != nil {
			t.Fatal(err)
		}
	}
	e.gone(pid)
	// Nothing is taken for lost that the next supervisor knows: it runs until that tells.
	if st := e.status(id); st.State == runtime.StateExited && st.Reason == runtime.ReasonSupervisorLost && tellsExits() {
		t.Errorf("taken for lost: %+v", st)
	}
	e.said(stays, "still here")
	for known := false; !known; {
		select {
		case <-hints:
		case <-time.After(time.Minute):
			t.Fatalf("nobody recorded the end: %+v", e.status(id))
		}
		// Until it is recorded the process is gone and the reason is unknown.
		_, known, err = supervisor.ReadExit(e.cfg.StateDir + "/containers/" + string(id))
		if err != nil {
			t.Fatal(err)
		}
	}
	st := e.status(id)
	exact := st.ExitCode != nil && *st.ExitCode == 5 && st.Reason == ""
	unknown := st.ExitCode == nil && st.Reason == runtime.ReasonSupervisorLost
	if st.State != runtime.StateExited || (tellsExits() && !exact) || (!tellsExits() && !unknown) {
		t.Errorf("status %+v", st)
	}
	if got := e.output(id); got != "ready\nbye\n" {
		t.Errorf("output %q", got)
	}
	if st := e.status(stays); st.State != runtime.StateRunning || st.Pid != other || st.Starts != 1 {
		t.Errorf("status %+v", st)
	}
}

// How a run ended says nothing of the next one, while there is no supervisor to ask.
func TestExitOfTheRunBefore(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.sh("again", "exec sleep 1000"))
	first := e.status(id).Pid
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if st := e.exited(id); st.ExitCode == nil || *st.ExitCode != 137 {
		t.Fatalf("first run: %+v", st)
	}
	if err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	pid := e.status(id).Pid
	e.killSupervisor()
	if st := e.status(id); st.State != runtime.StateRunning || st.Pid != pid {
		t.Errorf("second run: %+v", st)
	}
}

// tellsExits reports whether this kernel tells how a process ended to others than its parent (Linux 6.15).
func tellsExits() bool {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(pidfd) }()
	return unix.IoctlPidfdInfo(pidfd, &unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}) == nil
}
