package supervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/runtimetest/leak"
)

// release returns the command of a supervisor of another release.
func (e *env) release(name string) []string { return append(slices.Clone(e.self), name) }

// parent returns the pid of a process's parent.
func parent(t *testing.T, pid int) int {
	t.Helper()
	fields, err := statFields(pid)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// An upgrade in place: the process stays, containers stay its children, and who waits is answered by the new one.
func TestUpgradeInPlace(t *testing.T) {
	e := newEnv(t)
	before, err := e.c.Version(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	trap := "trap 'echo asked; asked=1' TERM; trap 'exit 5' USR1; echo ready; while :; do sleep 0.1; done"
	stopped := e.start("stopped", "sh", "-c", trap)
	e.awaitLine(stopped, "ready")
	deaf := e.start("deaf", "sh", "-c", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done")
	e.awaitLine(deaf, "ready")
	quiet := e.start("quiet", "sh", "-c", "sleep 1000; exit 1")
	ended := e.start("ended", "sh", "-c", "exit 3")
	known := e.wait(ended)
	pids := map[runtime.ID]int{}
	for _, req := range []StartRequest{stopped, deaf, quiet} {
		pids[req.ID] = e.state(req.ID).Pid
	}

	// Calls that wait across the upgrade.
	var calls sync.WaitGroup
	calls.Go(func() {
		exit, err := e.c.Stop(e.ctx(), stopped.ID, "", time.Hour)
		if err != nil || codeOf(exit) != "5" || !exit.Stopped {
			t.Errorf("stop: %+v, code %s, %v", exit, codeOf(exit), err)
		}
	})
	calls.Go(func() {
		exit, err := e.c.Stop(e.ctx(), deaf.ID, "", 3*time.Second)
		if err != nil || codeOf(exit) != "137" || exit.OOMKilled {
			t.Errorf("stop by grace: %+v, code %s, %v", exit, codeOf(exit), err)
		}
	})
	in, feed := io.Pipe()
	var out bytes.Buffer
	running := make(chan struct{})
	calls.Go(func() {
		code, err := e.c.Exec(e.ctx(), ExecRequest{ID: quiet.ID, Args: []string{"sh", "-c", "echo up; read x; echo got $x; exit 9"}},
			in, &firstWrite{w: &out, first: running}, nil)
		if err != nil || code != 9 {
			t.Errorf("exec: %d, %v", code, err)
		}
	})
	<-running
	e.awaitLine(stopped, "asked")
	e.awaitLine(deaf, "asked")

	// Others call all the time and notice nothing.
	var askers sync.WaitGroup
	var enough atomic.Bool
	askers.Go(func() {
		for !enough.Load() {
			if all, err := e.c.List(t.Context()); err != nil || len(all) < 4 {
				t.Errorf("list meanwhile: %d, %v", len(all), err)
			}
			if _, err := e.c.Exec(t.Context(), ExecRequest{ID: quiet.ID, Args: []string{"true"}}, nil, nil, nil); err != nil {
				t.Errorf("exec meanwhile: %v", err)
			}
		}
	})
	for _, name := range []string{"two", "three"} {
		now, err := Upgrade(e.ctx(), e.cfg, e.release(name))
		if err != nil {
			t.Fatalf("upgrade: %v", err)
		}
		if now.Binary != name || now.Pid != before.Pid || !now.StartedAt.Equal(before.StartedAt) || before.Binary == name {
			t.Errorf("%+v became %+v", before, now)
		}
	}
	enough.Store(true)
	askers.Wait()
	// What it tells libcontainer's init is not for the next release.
	if environ, err := os.ReadFile("/proc/" + strconv.Itoa(before.Pid) + "/environ"); err != nil || bytes.Contains(environ, []byte("GOMAXPROCS=1\x00")) {
		t.Errorf("the new one was given %q, %v", environ, err)
	}

	for id, pid := range pids {
		if id == deaf.ID {
			continue // killed when its grace is over, whenever that is
		}
		if st := e.state(id); !st.Running || st.Pid != pid || parent(t, pid) != before.Pid {
			t.Errorf("%s was %d, is %+v, child of %d", id, pid, st, parent(t, pid))
		}
	}
	if st := e.state(ended.ID); st.ExitCode == nil || *st.ExitCode != 3 || !st.FinishedAt.Equal(known.FinishedAt) {
		t.Errorf("ended before: %+v", st)
	}
	if _, err := io.WriteString(feed, "word\n"); err != nil {
		t.Error(err)
	}
	if err := e.c.Signal(e.ctx(), stopped.ID, "USR1"); err != nil {
		t.Error(err)
	}
	calls.Wait()
	if out.String() != "up\ngot word\n" {
		t.Errorf("the command said %q", out.String())
	}
	_ = feed.Close()
	if err := unix.Kill(pids[quiet.ID], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := e.wait(quiet); codeOf(exit) != "137" {
		t.Errorf("killed: %+v", exit)
	}
	if exit := e.wait(e.start("new", "sh", "-c", "exit 6")); codeOf(exit) != "6" {
		t.Errorf("started by the new one: %+v", exit)
	}
	if left := children(t, before.Pid); left != "" {
		t.Errorf("children are left: %s", left)
	}
}

// firstWrite closes first at the first write.
type firstWrite struct {
	w     io.Writer
	first chan struct{}
	once  sync.Once
}

func (f *firstWrite) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.once.Do(func() { close(f.first) })
	return n, err
}

// A binary that cannot be executed changes nothing, however often it is tried.
func TestUpgradeRefused(t *testing.T) {
	e := newEnv(t)
	before, err := e.c.Version(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	req := e.start("writer", "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; echo done; exec sleep 1000")
	text := filepath.Join(e.dir, "reconciler")
	if err = os.WriteFile(text, []byte("not a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	fds, err := leak.FDs(before.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		_, err := Upgrade(e.ctx(), e.cfg, []string{text, "supervisor"})
		var re *runtime.Error
		if !errors.As(err, &re) || !strings.Contains(err.Error(), "exec format error") || re.Hint == "" {
			t.Fatalf("error is %v", err)
		}
	}
	awaitFDs(t, before.Pid, fds)
	if now, err := e.c.Version(e.ctx()); err != nil || now != before {
		t.Errorf("%+v became %+v, %v", before, now, err)
	}
	e.awaitLine(req, "done")
	e.checkLines(req, 20000)
	if exit := e.wait(e.start("new", "sh", "-c", "exit 6")); codeOf(exit) != "6" {
		t.Errorf("started afterwards: %+v", exit)
	}
}

// awaitFDs waits until a process has no more than n file descriptors: connections may just be closing.
func awaitFDs(t *testing.T, pid, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		have, err := leak.FDs(pid)
		if err != nil {
			t.Fatal(err)
		}
		if have <= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d file descriptors, %d before", have, n)
		}
	}
}

// checkLines checks that a container wrote "line 1" to "line n" and nothing is missing, cut or double.
func (e *env) checkLines(req StartRequest, n int) {
	e.Helper()
	got := e.lines(req, LogOptions{})
	if len(got) < n {
		e.Errorf("%s: %d lines, want %d", req.ID, len(got), n)
	}
	for i := range min(len(got), n) {
		if want := fmt.Sprint("o:line ", i+1); got[i] != want {
			e.Fatalf("%s: line %d is %q", req.ID, i+1, got[i])
		}
	}
}

// A release that ends as soon as it is executed leaves what a killed supervisor leaves.
func TestUpgradeToWhatDies(t *testing.T) {
	e := newEnv(t)
	req := e.start("survivor", "sh", "-c", "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 1 & wait $!; done")
	e.awaitLine(req, "ready")
	h, _ := e.hold()
	e.awaitHeld(h, "survivor")
	pid := e.state(req.ID).Pid
	_, err := Upgrade(e.ctx(), e.cfg, []string{"/bin/busybox", "false"})
	var re *runtime.Error
	if !errors.As(err, &re) || !strings.Contains(err.Error(), "ended before it was ready") || !strings.Contains(re.Hint, logFile) {
		t.Fatalf("error is %v", err)
	}
	e.ensure()
	if st := e.state(req.ID); !st.Running || st.Pid != pid {
		t.Errorf("state %+v", st)
	}
	exit, err := e.c.Stop(e.ctx(), req.ID, "", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	checkExit(t, req, exit, 4)
	if got := e.lines(req, LogOptions{}); !slices.Equal(got, []string{"o:ready", "o:bye"}) {
		t.Errorf("output %q", got)
	}
}

// Containers that end at any moment of upgrades: the supervisor is their parent, so every code is known on every kernel.
func TestExitsDuringUpgrades(t *testing.T) {
	e := newEnv(t)
	const count = 12
	reqs := make([]StartRequest, count)
	for i := range reqs {
		reqs[i] = e.start(fmt.Sprint("c", i), "sh", "-c", fmt.Sprintf("sleep 0.%02d; echo bye; exit %d", 10+7*i, i))
	}
	for round := range 6 {
		if _, err := Upgrade(e.ctx(), e.cfg, e.release(fmt.Sprint("r", round))); err != nil {
			t.Fatalf("upgrade %d: %v", round, err)
		}
	}
	for i, req := range reqs {
		if exit := e.wait(req); codeOf(exit) != fmt.Sprint(i) || exit.Reason != "" {
			t.Errorf("%s: %+v, code %s", req.ID, exit, codeOf(exit))
		}
		if got := e.lines(req, LogOptions{}); !slices.Equal(got, []string{"o:bye"}) {
			t.Errorf("%s said %q", req.ID, got)
		}
	}
}

// A supervisor that is killed at any moment of an upgrade loses nothing as long as somebody holds.
func TestKilledDuringUpgrades(t *testing.T) {
	e := newEnv(t)
	h, _ := e.hold()
	const lines = 20_000
	req := e.bundle("writer", e.spec("writer", "sh", "-c",
		fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i || exit 3; done; echo done; exec sleep 1000", lines)))
	req.Logs = runtime.Logs{MaxSize: 64 << 10, MaxFiles: 1000}
	if _, err := e.c.Start(e.ctx(), req, nil); err != nil {
		t.Fatal(err)
	}
	pid := e.state(req.ID).Pid
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // repeatable, not secret
	for round := range 12 {
		code := round % 5
		short := e.start(fmt.Sprint("short-", round), "sh", "-c", fmt.Sprintf("trap 'sleep 0.05; echo bye; exit %d' TERM; echo ready; while :; do sleep 1 & wait $!; done", code))
		e.awaitLine(short, "ready")
		e.awaitHeld(h, "writer", short.ID)
		if err := e.c.Signal(e.ctx(), short.ID, "TERM"); err != nil {
			t.Fatal(err)
		}
		v, err := e.c.Version(e.ctx())
		if err != nil {
			t.Fatal(err)
		}
		pidfd, err := openPidfd(v.Pid)
		if err != nil {
			t.Fatal(err)
		}
		upgraded := make(chan error, 1)
		go func() {
			_, err := Upgrade(e.ctx(), e.cfg, e.release(fmt.Sprint("r", round)))
			upgraded <- err
		}()
		time.Sleep(time.Duration(dice.IntN(60)) * time.Millisecond) // another moment each time
		if err := errors.Join(signalPidfd(pidfd, unix.SIGKILL), waitPidfd(e.ctx(), pidfd)); err != nil {
			t.Fatal(err)
		}
		_ = pidfd.Close()
		if err := <-upgraded; err != nil {
			t.Logf("round %d: %v", round, err) // as it may
		}
		e.ensure()
		if st := e.state(req.ID); !st.Running || st.Pid != pid {
			t.Fatalf("round %d: %+v, was %d", round, st, pid)
		}
		checkKnownExit(t, short, e.wait(short), code)
		if got := e.lines(short, LogOptions{}); !slices.Equal(got, []string{"o:ready", "o:bye"}) {
			t.Errorf("round %d: said %q", round, got)
		}
		if err := e.c.Delete(e.ctx(), short.ID); err != nil {
			t.Fatal(err)
		}
	}
	e.awaitLine(req, "done")
	e.checkLines(req, lines)
}

// checkKnownExit is checkExit where a supervisor may have seen the end.
func checkKnownExit(t *testing.T, req StartRequest, got Exit, want int) {
	t.Helper()
	if codeOf(got) == fmt.Sprint(want) && got.Reason == "" {
		return
	}
	checkExit(t, req, got, want)
}

// A supervisor of another version of the protocol says what it is and can be upgraded; everything else is refused with
// what to do.
func TestOtherProtocol(t *testing.T) {
	e := newEnv(t)
	ask := func(op string) error {
		conn, done, err := e.c.open(e.ctx())
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		if err = writeFrame(conn, request{Protocol: protocolVersion + 1, Op: op}); err != nil {
			t.Fatal(err)
		}
		_, err = receive(e.ctx(), conn, op, nil)
		return err
	}
	if err := ask(opVersion); err != nil {
		t.Errorf("version: %v", err)
	}
	if err := ask(opList); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("list: %v", err)
	}
	if err := ask(opUpgrade); err == nil || strings.Contains(err.Error(), "protocol") {
		t.Errorf("upgrade, of which only the rest is wrong: %v", err)
	}
}

// A holder brings a supervisor of another release to its own.
func TestHolderUpgrades(t *testing.T) {
	e := newEnv(t)
	req := e.start("stays", "sh", "-c", "echo ready; exec sleep 1000")
	before := e.state(req.ID)
	cfg := e.cfg
	cfg.Release = "newer"
	h := NewHolder(cfg, e.release("newer"))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	defer func() {
		cancel()
		<-ended
	}()
	e.awaitHeld(h, "stays")
	v, err := e.c.Version(e.ctx())
	if err != nil || v.Binary != "newer" {
		t.Errorf("version %+v, %v", v, err)
	}
	if now := e.state(req.ID); now.Pid != before.Pid || parent(t, now.Pid) != v.Pid {
		t.Errorf("%+v became %+v", before, now)
	}
}
