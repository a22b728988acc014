package main

import (
	"bufio"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"reconciler/reconcile/source/sourcetest"
)

// exec -it gives a shell a terminal of our size, which follows ours, and the shell's exit status.
func TestExecOnATerminal(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	// Not interactive, so that what the shell runs shares its process group: signals of the terminal reach both.
	script := `echo "size is $(stty size)"; test -t 0 && echo "on a terminal"
trap 'echo "now $(stty size)"' WINCH; trap 'exit 9' INT; echo "traps set"; while true; do sleep 0.1; done`
	cmd := exec.Command(s.bin, "exec", "-it", "a", "--", "/bin/busybox", "sh", "-c", script)
	cmd.Env = s.env
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 31, Cols: 97})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	watchdog := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	lines := bufio.NewScanner(terminal)
	await := func(want string) {
		t.Helper()
		seen := ""
		for lines.Scan() {
			seen += lines.Text() + "\n"
			if strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("no %q in:\n%s", want, seen)
	}
	await("size is 31 97")
	await("on a terminal")
	await("traps set")
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	await("now 40 120")
	_, _ = terminal.Write([]byte{3}) // ^C is for the shell, not for us
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit status %d, want the shell's 9", code)
	}
	if r := s.do("exec", "-t", "a", "--", "/bin/busybox", "true"); r.code != 125 || !strings.Contains(r.err, "not a terminal") {
		t.Errorf("-t without a terminal: status %d\n%s", r.code, r.err)
	}
}

// Colour is for terminals only, and for those that want it.
func TestColour(t *testing.T) {
	on := func(env map[string]string, args ...string) string {
		t.Helper()
		terminal, tty, err := pty.Open()
		if err != nil {
			t.Skipf("needs a pseudo-terminal: %v", err)
		}
		defer func() { _ = terminal.Close() }()
		run(t.Context(), args, streams{in: tty, out: tty, err: tty, getenv: func(name string) string { return env[name] }})
		_ = tty.Close()
		said, _ := io.ReadAll(terminal) // ends with EIO, as nobody is at the other end any more
		return string(said)
	}
	wrong := []string{"validate", "testdata/broken"}
	if out := on(nil, wrong...); !strings.Contains(out, "\x1b[31merror:\x1b[0m 2 problems") {
		t.Errorf("no colour on a terminal: %q", out)
	}
	for name, out := range map[string]string{
		"NO_COLOR":       on(map[string]string{"NO_COLOR": "1"}, wrong...),
		"--no-color":     on(nil, append(wrong, "--no-color")...),
		"-o json":        on(nil, append(wrong, "-o", "json")...),
		"not a terminal": cli(t, nil, wrong...).err,
	} {
		if strings.Contains(out, "\x1b[") || !strings.Contains(out, "2 problems") {
			t.Errorf("%s: %q", name, out)
		}
	}
}
