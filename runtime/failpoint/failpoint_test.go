package failpoint_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"reconciler/runtime/failpoint"
)

// program passes two points and says so.
const program = `package main

import "reconciler/runtime/failpoint"

func main() {
	for range 3 {
		failpoint.Here("program: before")
		println("between")
		failpoint.Here("program: behind")
	}
}
`

// build builds the program with the tags given.
func build(t *testing.T, tags string) string {
	t.Helper()
	// In the module, so that its packages are found; `./...` passes over it.
	dir, err := os.MkdirTemp(".", "_program-") //nolint:usetesting // t.TempDir is outside of the module
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "program")
	if out, err := exec.Command("go", "build", "-tags", tags, "-o", bin, "./"+dir).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// Without the tag a mark is no instruction, and its name is nowhere.
func TestNothingWithoutTheTag(t *testing.T) {
	for tags, want := range map[string]bool{"": false, "failpoints": true} {
		bin := build(t, tags)
		content, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(content, []byte("program: before")); got != want {
			t.Errorf("tags %q: the name of a point is in the binary: %t, want %t", tags, got, want)
		}
		symbols, err := exec.Command("go", "tool", "nm", bin).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(symbols, []byte("reconciler/runtime/failpoint.")); got != want {
			t.Errorf("tags %q: something of the package is in the binary: %t, want %t", tags, got, want)
		}
		code, err := exec.Command("go", "tool", "objdump", "-s", `^main\.main$`, bin).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(code, []byte("failpoint.Here")) || bytes.Contains(code, []byte("off.go:")); got != want {
			t.Errorf("tags %q: a mark is in the code: %t, want %t\n%s", tags, got, want, code)
		}
	}
}

// A process dies where it is told to, at the time it is told to, once.
func TestDies(t *testing.T) {
	bin, dir := build(t, "failpoints"), t.TempDir()
	run := func() (printed int, err error) {
		cmd := exec.Command(bin)
		cmd.Env = append(os.Environ(), failpoint.Variable+"="+dir)
		out, err := cmd.CombinedOutput()
		return bytes.Count(out, []byte("between")), err
	}
	if n, err := run(); n != 3 || err != nil {
		t.Fatalf("not armed: %d times, %v", n, err)
	}
	for _, tt := range []struct {
		point, pass string
		want        int
	}{{"program: before", "1", 0}, {"program: behind", "1", 1}, {"program: behind", "3", 3}} {
		if err := os.WriteFile(filepath.Join(dir, tt.point), []byte(tt.pass), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := run()
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || n != tt.want {
			t.Errorf("%s, pass %s: %d times, %v; want %d and SIGKILL", tt.point, tt.pass, n, err, tt.want)
		}
		if n, err := run(); n != 3 || err != nil {
			t.Errorf("a second run: %d times, %v", n, err)
		}
	}
	trace, err := os.ReadFile(filepath.Join(dir, failpoint.Trace))
	if err != nil || bytes.Count(trace, []byte(" program: before\n")) != 3+1+3+1+3+3+3 {
		t.Errorf("trace: %v\n%s", err, trace)
	}
}
