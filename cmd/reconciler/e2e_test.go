package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/runtimetest/leak"
)

// patience is how long a test waits for what should take a second.
const patience = "60s"

// builtBinary is the program as it is built for servers, once for all tests of the package.
var builtBinary = sync.OnceValues(func() (string, error) { return buildBinary("seccomp") })

// built are the directories of what buildBinary built.
var built []string

func buildBinary(tags string) (string, error) {
	dir, err := os.MkdirTemp("", "reconciler-e2e-")
	if err != nil {
		return "", err
	}
	built = append(built, dir)
	path := filepath.Join(dir, "reconciler")
	out, err := exec.Command("go", "build", "-tags", tags, "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	for _, dir := range built {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

// server is one server of a test: an instance of the real program with directories of its own.
type server struct {
	t                          testing.TB
	bin, dir, instance, secret string
	stateDir                   string
	env                        []string
}

// newServer makes a server, and at the test's end takes it down and looks for what is left of it.
func newServer(t testing.TB) *server { return newServerOf(t, builtBinary, "") }

// newServerOn is newServer with a state directory that is there already, such as on a disk of its own.
func newServerOn(t testing.TB, stateDir string) *server { return newServerOf(t, builtBinary, stateDir) }

// newServerOf is newServer with another build of the program, and perhaps a state directory that is there already.
func newServerOf(t testing.TB, build func() (string, error), stateDir string) *server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes real containers")
	}
	if testing.Short() {
		t.Skip("makes real containers: not with -short")
	}
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "e2e-") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &server{
		t: t, bin: bin, dir: dir, instance: strings.ToLower(filepath.Base(dir)), secret: filepath.Join(dir, "secrets"),
		stateDir: cmp.Or(stateDir, filepath.Join(dir, "state")),
	}
	s.env = append(os.Environ(), "RECONCILER_STATE_DIR="+s.state(), "RECONCILER_RUN_DIR="+s.run(), "RECONCILER_INSTANCE="+s.instance)
	t.Cleanup(func() {
		if r := s.do("down", "--volumes", "--yes"); r.code != 0 {
			t.Errorf("down: status %d\n%s", r.code, r.err)
		}
		leak.Check(t, s.state(), s.run(), s.instance)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *server) state() string { return s.stateDir }
func (s *server) run() string   { return filepath.Join(s.dir, "run") }

// do runs the program and returns how it ended.
func (s *server) do(args ...string) result { return s.doWith(nil, args...) }

func (s *server) doWith(stdin io.Reader, args ...string) result {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.env, stdin, &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("reconciler %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must runs the program, which has to end well, and returns what it printed.
func (s *server) must(args ...string) string {
	s.t.Helper()
	r := s.do(args...)
	if r.code != 0 {
		s.t.Fatalf("reconciler %s: status %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// agent is a running agent.
type agent struct {
	cmd   *exec.Cmd
	ended chan struct{}
	log   *logBuffer
}

// logBuffer keeps what the agent logs, and tells of the first line with a word.
type logBuffer struct {
	mu    sync.Mutex
	text  strings.Builder
	ready chan struct{}
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) read(r io.Reader) {
	told := false
	for lines := bufio.NewScanner(r); lines.Scan(); {
		b.mu.Lock()
		b.text.WriteString(lines.Text() + "\n")
		b.mu.Unlock()
		if !told && strings.Contains(lines.Text(), "agent ready") {
			told = true
			close(b.ready)
		}
	}
}

// start starts an agent and waits until it answers. It is stopped at the test's end, before the server is taken down.
func (s *server) start(args ...string) *agent {
	s.t.Helper()
	a := s.launch(args...)
	select {
	case <-a.log.ready:
	case <-a.ended:
		s.t.Fatalf("the agent ended:\n%s", a.log)
	case <-time.After(30 * time.Second):
		s.t.Fatalf("the agent is not ready:\n%s", a.log)
	}
	return a
}

func (s *server) launch(args ...string) *agent {
	s.t.Helper()
	a := s.spawn(args...)
	s.t.Cleanup(func() {
		a.stop(syscall.SIGTERM)
		if s.t.Failed() {
			s.t.Logf("log of the agent:\n%s", a.log)
		}
	})
	return a
}

// spawn is launch for who sees to the agent's end.
func (s *server) spawn(args ...string) *agent {
	s.t.Helper()
	common := []string{"agent", "--interval", "1s", "--allow-capture", "/bin", "--allow-secret-path", s.secret}
	a := &agent{cmd: exec.Command(s.bin, append(common, args...)...), ended: make(chan struct{}), log: &logBuffer{ready: make(chan struct{})}}
	a.cmd.Env = s.env
	stderr, err := a.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		a.log.read(stderr)
		_ = a.cmd.Wait()
		close(a.ended)
	}()
	return a
}

// stop ends the agent and waits for it.
func (a *agent) stop(sig os.Signal) {
	_ = a.cmd.Process.Signal(sig)
	<-a.ended
}

// rows returns what ps says of every namespace.
func (s *server) rows() map[string]report.Row {
	s.t.Helper()
	return byName(s.t, s.must("ps", "-A", "-o", "json"))
}

func byName(t testing.TB, list string) map[string]report.Row {
	t.Helper()
	var rows []report.Row
	if err := json.Unmarshal([]byte(list), &rows); err != nil {
		t.Fatal(err)
	}
	named := map[string]report.Row{}
	for _, r := range rows {
		named[r.FullName().Short()] = r
	}
	return named
}

func (s *server) status() report.Status {
	s.t.Helper()
	var st report.Status
	r := s.do("status", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &st); err != nil {
		s.t.Fatalf("status: %v\n%s%s", err, r.out, r.err)
	}
	if healthy := st.Sync == report.Synced && st.Health == report.Healthy; healthy != (r.code == 0) {
		s.t.Errorf("status says %s and %s with exit status %d", st.Sync, st.Health, r.code)
	}
	return st
}

// follower is a verb that goes on until it is stopped, and what it prints.
type follower struct {
	t     testing.TB
	args  []string
	lines *bufio.Scanner
	stop  func()
}

// follow starts a verb that goes on. It is stopped at the test's end at the latest.
func (s *server) follow(args ...string) *follower {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = s.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	stop := sync.OnceFunc(func() { cancel(); _ = cmd.Wait() })
	s.t.Cleanup(stop)
	return &follower{t: s.t, args: args, lines: bufio.NewScanner(out), stop: stop}
}

// await returns the next line with all of these words.
func (f *follower) await(words ...string) string {
	f.t.Helper()
	hung := time.AfterFunc(time.Minute, f.stop)
	defer hung.Stop()
	seen := ""
	for f.lines.Scan() {
		line := f.lines.Text()
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return line
		}
		seen += line + "\n"
	}
	f.t.Fatalf("%v ended without %q:\n%s", f.args, words, seen)
	return ""
}

// awaitEvent waits until the server tells of an event with these words, in its past or its future.
func (s *server) awaitEvent(args []string, words ...string) {
	s.t.Helper()
	f := s.follow(append([]string{"events", "-f"}, args...)...)
	defer f.stop()
	f.await(words...)
}

// busybox is a container of this server's busybox that runs a script.
func busybox(name, script string, more ...string) string {
	text := fmt.Sprintf(`apiVersion: reconciler/v1
kind: Container
metadata: {name: %s}
spec:
  capture: {paths: [/bin/busybox]}
  command: [/bin/busybox, sh, -c]
  args: [%q]
  network: none
  init: true
  terminationGracePeriodSeconds: 1
`, name, script)
	for _, line := range more {
		text += "  " + line + "\n"
	}
	return text
}

const forever = "echo up; while true; do sleep 3600; done"

// repository makes a bare repository with a first commit.
func repository(t testing.TB, files sourcetest.Files) *sourcetest.Repo {
	t.Helper()
	repo := sourcetest.NewRepo(t)
	repo.CommitPush("first", files)
	return repo
}
