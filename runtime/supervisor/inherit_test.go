package supervisor

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A supervisor that is started by a process with odd settings, an open file and a secret in its environment has none of
// them, and neither have its containers and what is executed in them.
func TestNothingIsInherited(t *testing.T) {
	if os.Getenv("RECONCILER_TEST_CALLER") == "" {
		if os.Geteuid() != 0 {
			t.Skip("real containers need root")
		}
		// In a process of its own: ignored signals and the mask are the whole process's.
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestNothingIsInherited$", "-test.v")
		cmd.Env = append(os.Environ(), "RECONCILER_TEST_CALLER=1", "GIT_TOKEN=canary-3f9a")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	unix.Umask(0o077)
	signal.Ignore(unix.SIGHUP, unix.SIGUSR1)
	setHandler(32, 1)
	leaked, err := unix.Open(filepath.Join(t.TempDir(), "script.lock"), unix.O_RDWR|unix.O_CREAT, 0o600) // not O_CLOEXEC
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(leaked) }()
	e := newEnv(t)
	v, err := e.c.Version(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		data, readErr := os.ReadFile(filepath.Join("/proc", strconv.Itoa(v.Pid), name))
		if readErr != nil {
			t.Fatal(readErr)
		}
		return string(data)
	}
	if got := read("cmdline"); !strings.HasPrefix(got, "reconciler\x00supervisor\x00") {
		t.Errorf("ps shows %q", got)
	}
	if got := read("comm"); got != "reconciler\n" {
		t.Errorf("top shows %q", got)
	}
	if strings.Contains(read("environ"), "canary") {
		t.Error("the supervisor has the caller's secrets")
	}
	fds, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(v.Pid), "fd/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasSuffix(to, "script.lock") {
			t.Error("the supervisor holds the caller's file open")
		}
	}
	const look = "umask; grep SigIgn /proc/self/status; cat /proc/self/timerslack_ns; busybox env"
	req := e.start("web", "sh", "-c", look+"; echo done; exec sleep 1000")
	e.awaitLine(req, "done")
	var first []string
	for _, line := range e.lines(req, LogOptions{}) {
		first = append(first, line[2:])
	}
	var out, errOut bytes.Buffer
	if code, err := e.c.Exec(e.ctx(), ExecRequest{ID: req.ID, Args: []string{"sh", "-c", look}}, nil, &out, &errOut); err != nil || code != 0 {
		t.Fatalf("exec ended with %d, %v: %s", code, err, &errOut)
	}
	for who, got := range map[string]string{"process 1": strings.Join(first, "\n"), "exec": out.String()} {
		if !strings.Contains(got, "0022") || !strings.Contains(got, "SigIgn:\t0000000000000000\n50000\n") {
			t.Errorf("%s has odd settings: %s", who, got)
		}
		if strings.Contains(got, "canary") || strings.Contains(got, "_LIBCONTAINER") || strings.Contains(got, "RECONCILER") {
			t.Errorf("%s sees the caller's environment: %s", who, got)
		}
	}
}

// Its own log is bounded while it runs, not only at its next start, and the end of the full one is kept.
func TestOwnLogIsBounded(t *testing.T) {
	e := newEnv(t)
	path := filepath.Join(e.cfg.StateDir, logFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(strings.Repeat("x", maxLog) + "\nthe end of it\n")
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	e.wait(e.start("short", "true"))
	st, err := os.Stat(path)
	if err != nil || st.Size() > maxLog/2 {
		t.Errorf("the log has %d bytes, %v", st.Size(), err)
	}
	if kept, err := os.ReadFile(path + ".1"); err != nil || !strings.Contains(string(kept), "the end of it") {
		t.Errorf("the full log is not kept: %v", err)
	}
}
