package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

func TestExits(t *testing.T) {
	e := newEnv(t)
	for _, tc := range []struct {
		name, script string
		code         int
		signal       string
	}{
		{"ok", "echo out; echo err >&2", 0, ""},
		{"code", "exit 7", 7, ""},
		{"signal", "sleep 100 & kill -9 $!; wait $!", 137, ""}, // a child's: only passed on
		{"last-words", "printf 'no newline'", 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := e.start(tc.name, "sh", "-c", tc.script)
			exit := e.wait(req)
			if exit.Code == nil || *exit.Code != tc.code || exit.Signal != tc.signal || exit.OOMKilled || exit.Stopped {
				t.Errorf("exit is %+v (code %s), want %d %q", exit, codeOf(exit), tc.code, tc.signal)
			}
			if exit.Ran <= 0 || exit.FinishedAt.Before(exit.StartedAt) {
				t.Errorf("times: %+v", exit)
			}
			st := e.state(req.ID)
			if st.Running || st.Pid != 0 || st.ExitCode == nil || *st.ExitCode != tc.code {
				t.Errorf("listed as %+v", st)
			}
		})
	}
	got := e.lines(StartRequest{LogDir: filepath.Join(e.dir, "logs-ok")}, LogOptions{})
	slices.Sort(got)
	if !slices.Equal(got, []string{"e:err", "o:out"}) {
		t.Errorf("output of ok: %q", got)
	}
	if got := e.lines(StartRequest{LogDir: filepath.Join(e.dir, "logs-last-words")}, LogOptions{}); !slices.Equal(got, []string{"o:no newline"}) {
		t.Errorf("last words: %q", got)
	}
}

func TestStop(t *testing.T) {
	e := newEnv(t)
	t.Run("polite", func(t *testing.T) {
		req := e.start("polite", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1 & wait $!; done")
		e.awaitLine(req, "ready")
		exit, err := e.c.Stop(e.ctx(), req.ID, "", 20*time.Second)
		if err != nil || codeOf(exit) != "3" || !exit.Stopped || exit.Ran > 15*time.Second {
			t.Errorf("exit %+v %s, %v", exit, codeOf(exit), err)
		}
		if got := e.lines(req, LogOptions{}); !slices.Contains(got, "o:bye") {
			t.Errorf("last words are lost: %q", got)
		}
		again, err := e.c.Stop(e.ctx(), req.ID, "", time.Second)
		if err != nil || !again.FinishedAt.Equal(exit.FinishedAt) {
			t.Errorf("second stop: %+v, %v", again, err)
		}
	})
	t.Run("deaf", func(t *testing.T) {
		req := e.start("deaf", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 100; done")
		e.awaitLine(req, "ready")
		began := time.Now()
		exit, err := e.c.Stop(e.ctx(), req.ID, "", 300*time.Millisecond)
		took := time.Since(began)
		if err != nil || codeOf(exit) != "137" || exit.Signal != "SIGKILL" || exit.OOMKilled {
			t.Errorf("exit %+v %s, %v", exit, codeOf(exit), err)
		}
		if took < 300*time.Millisecond || took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
	})
	t.Run("own signal", func(t *testing.T) {
		req := e.bundle("own-signal", e.spec("own-signal", "sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 1 & wait $!; done"))
		req.StopSignal = "SIGUSR1"
		if _, err := e.c.Start(e.ctx(), req, nil); err != nil {
			t.Fatal(err)
		}
		e.awaitLine(req, "ready")
		exit, err := e.c.Stop(e.ctx(), req.ID, "", 20*time.Second)
		if err != nil || codeOf(exit) != "9" {
			t.Errorf("exit %s, %v", codeOf(exit), err)
		}
	})
	t.Run("shortened", func(t *testing.T) {
		req := e.start("shortened", "sleep", "1000") // process 1 without a handler: SIGTERM does nothing
		done := make(chan Exit, 1)
		go func() {
			exit, err := e.c.Stop(e.ctx(), req.ID, "", time.Hour)
			if err != nil {
				t.Error(err)
			}
			done <- exit
		}()
		exit, err := e.c.Stop(e.ctx(), req.ID, "", 0)
		if err != nil || codeOf(exit) != "137" {
			t.Errorf("exit %s, %v", codeOf(exit), err)
		}
		if first := <-done; codeOf(first) != "137" {
			t.Errorf("the first stop says %s", codeOf(first))
		}
	})
	t.Run("unknown", func(t *testing.T) {
		if _, err := e.c.Stop(e.ctx(), "nobody", "", 0); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("error is %v", err)
		}
		if err := e.c.Delete(e.ctx(), "nobody"); err != nil {
			t.Errorf("delete: %v", err)
		}
	})
	t.Run("bad signal", func(t *testing.T) {
		req := e.start("bad-signal", "sleep", "1000")
		if err := e.c.Signal(e.ctx(), req.ID, "SIGNONSENSE"); err == nil || !strings.Contains(err.Error(), "SIGNONSENSE") {
			t.Errorf("error is %v", err)
		}
		if err := e.c.Signal(e.ctx(), req.ID, "KILL"); err != nil {
			t.Error(err)
		}
		if exit := e.wait(req); exit.Signal != "SIGKILL" || exit.Stopped {
			t.Errorf("exit %+v", exit)
		}
		if err := e.c.Signal(e.ctx(), req.ID, "KILL"); !errors.Is(err, ErrExited) {
			t.Errorf("signal after the end: %v", err)
		}
	})
}

func TestRestartAndPrevious(t *testing.T) {
	e := newEnv(t)
	req := e.start("again", "sh", "-c", "echo first; printf cut")
	first := e.wait(req)
	req = e.start("again", "sh", "-c", "echo second; sleep 1000")
	e.awaitLine(req, "second")
	if again, err := e.c.Start(e.ctx(), req, nil); err != nil || again.Pid != e.state(req.ID).Pid {
		t.Errorf("start of a running one: %+v, %v", again, err)
	}
	if st := e.state(req.ID); !st.Running || st.ExitCode != nil || !st.StartedAt.After(first.StartedAt) {
		t.Errorf("state %+v", st)
	}
	for _, tc := range []struct {
		opts LogOptions
		want []string
	}{
		{LogOptions{}, []string{"o:first", "o:cut", "o:second"}},
		{LogOptions{Previous: true}, []string{"o:first", "o:cut"}},
		{LogOptions{Current: true}, []string{"o:second"}},
		{LogOptions{Tail: 2}, []string{"o:cut", "o:second"}},
		{LogOptions{Tail: -1}, nil},
		{LogOptions{Stream: Stderr}, nil},
		{LogOptions{Since: time.Now()}, nil},
	} {
		if got := e.lines(req, tc.opts); !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %q, want %q", tc.opts, got, tc.want)
		}
	}
	if err := e.c.Delete(e.ctx(), req.ID); err != nil {
		t.Fatal(err)
	}
	if all, err := e.c.List(e.ctx()); err != nil || len(all) != 0 {
		t.Errorf("after delete: %+v, %v", all, err)
	}
}

// One container is told of as the list of all tells of it.
func TestFindIsListOfOne(t *testing.T) {
	e := newEnv(t)
	for _, id := range []string{"a", "b"} {
		e.start(id, "sleep", "1000")
	}
	if _, err := e.c.Stop(e.ctx(), "b", "", 0); err != nil {
		t.Fatal(err)
	}
	for id, there := range map[runtime.ID]bool{"a": true, "b": true, "c": false} {
		got, known, err := e.c.Find(e.ctx(), id)
		if err != nil || known != there {
			t.Errorf("%s: %v, %v", id, known, err)
		}
		if !there {
			continue
		}
		want := e.state(id)
		if want.Running { // how long it has been running is told too, and goes on
			want.Ran = got.Ran
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", id, got, want)
		}
	}
}

// A container that does not take signals yet is waited for, not mistaken for one that cannot.
func TestSignalDuringStart(t *testing.T) {
	e := newEnv(t)
	req := e.bundle("early", e.spec("early", "sleep", "1000"))
	_, err := e.c.Start(e.ctx(), req, func(*os.File) error {
		ctx, cancel := context.WithTimeout(e.ctx(), 50*time.Millisecond)
		defer cancel()
		for what, err := range map[string]error{
			"signal": e.c.Signal(ctx, req.ID, "TERM"), "update": e.c.Update(ctx, req.ID, runtime.Resources{}, runtime.Logs{}),
		} {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Where the kernel cannot limit swap it has no file for that: writing to it would refuse every change.
func TestLimitsWithoutSwap(t *testing.T) {
	for _, limits := range []runtime.Resources{{}, {Memory: 1 << 30}} {
		r := cgroups.Resources{MemorySwap: 5}
		applyLimits(&r, limits, false)
		if r.MemorySwap != 0 || r.Memory == 0 {
			t.Errorf("%+v: memory %d, swap %d", limits, r.Memory, r.MemorySwap)
		}
	}
}

func TestStartFailures(t *testing.T) {
	e := newEnv(t)
	write := func(id, name, content string, mode os.FileMode) {
		path := filepath.Join(e.dir, "bundle-"+id, "rootfs", name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		name    string
		args    []string
		prepare func(id string)
		want    string
		hint    string
	}{
		{"missing path", []string{"/bin/foo"}, nil, "exec /bin/foo: no such file or directory", ""},
		{"missing name", []string{"foo"}, nil, "exec foo: executable file not found in $PATH", "full path"},
		{"not executable", []string{"/bin/data"}, func(id string) { write(id, "bin/data", "x", 0o644) }, "exec /bin/data: permission denied", ""},
		{"directory", []string{"/bin"}, nil, "exec /bin: is a directory", ""},
		{"no format", []string{"/bin/data"}, func(id string) { write(id, "bin/data", "echo hello\n", 0o755) }, "exec /bin/data: exec format error", "#!/bin/sh"},
		{"no interpreter", []string{"/bin/script"}, func(id string) { write(id, "bin/script", "#!/bin/python3\n", 0o755) }, "exec /bin/script: no such file or directory", "/bin/python3"},
		{"other machine", []string{"/bin/foreign"}, func(id string) {
			bin, err := os.ReadFile("/bin/busybox")
			if err != nil {
				t.Fatal(err)
			}
			bin[18], bin[19] = 0x16, 0 // e_machine: S390
			write(id, "bin/foreign", string(bin), 0o755)
		}, "exec /bin/foreign: exec format error", "s390"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			id := strings.ReplaceAll(tc.name, " ", "-")
			req := e.bundle(id, e.spec(id, tc.args...))
			if tc.prepare != nil {
				tc.prepare(id)
			}
			_, err := e.c.Start(e.ctx(), req, nil)
			var re *runtime.Error
			if !errors.As(err, &re) {
				t.Fatalf("error is %v", err)
			}
			if re.Err.Error() != tc.want || !re.Permanent || re.Reason != runtime.ReasonStartFailed || !strings.Contains(re.Hint, tc.hint) {
				t.Errorf("error is %q, hint %q, permanent %v; want %q, hint with %q", re.Err, re.Hint, re.Permanent, tc.want, tc.hint)
			}
			if all, err := e.c.List(e.ctx()); err != nil || len(all) != 0 {
				t.Errorf("listed: %+v, %v", all, err)
			}
			for _, dir := range []string{filepath.Join(e.cfg.RunDir, "supervisor", id), filepath.Join(e.cfg.RunDir, "libcontainer", id)} {
				if _, err := os.Stat(dir); err == nil {
					t.Errorf("%s is left", dir)
				}
			}
		})
	}
	t.Run("no memory", func(t *testing.T) {
		spec := e.spec("tiny", "true")
		spec.Linux.Resources.Memory = memory(1 << 20)
		_, err := e.c.Start(e.ctx(), e.bundle("tiny", spec), nil)
		if !runtime.IsPermanent(err) || !strings.Contains(runtime.HintOf(err), "memory limit") {
			t.Errorf("error is %v, hint %q", err, runtime.HintOf(err))
		}
	})
	t.Run("no config", func(t *testing.T) {
		_, err := e.c.Start(e.ctx(), StartRequest{ID: "x", Bundle: e.dir, LogDir: e.dir}, nil)
		if err == nil || !strings.Contains(err.Error(), "config.json") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("bad stop signal", func(t *testing.T) {
		req := e.bundle("deaf", e.spec("deaf", "true"))
		req.StopSignal = "SIGNONSENSE"
		if _, err := e.c.Start(e.ctx(), req, nil); err == nil || !strings.Contains(err.Error(), `unknown stop signal "SIGNONSENSE"`) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("bad id", func(t *testing.T) {
		if _, err := e.c.Start(e.ctx(), StartRequest{ID: "../x"}, nil); err == nil {
			t.Error("no error")
		}
	})
}

// A command that gave up root may still open /dev/stdout by name, as many images' configurations do.
func TestReopensOutput(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("reopen", "sh", "-c", "echo one > /dev/stdout; echo two > /proc/self/fd/2; id -u; [ -p /dev/stdin ] || cat")
	spec.Process.User.UID = 1000
	req := e.startSpec("reopen", spec)
	if exit := e.wait(req); codeOf(exit) != "0" {
		t.Errorf("exit %s", codeOf(exit))
	}
	got := e.lines(req, LogOptions{})
	slices.Sort(got)
	if !slices.Equal(got, []string{"e:two", "o:1000", "o:one"}) {
		t.Errorf("output %q", got)
	}
}

// Without a pid namespace of its own nothing but us ends what process 1 leaves behind, and it holds the output open.
func TestHostPidsLeaveNobody(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("hostpid", "sh", "-c", "sleep 4243 & echo started")
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	spec.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind", "ro"}}
	req := e.startSpec("hostpid", spec)
	if exit := e.wait(req); codeOf(exit) != "0" || exit.Ran > 10*time.Second {
		t.Errorf("exit %s after %v", codeOf(exit), exit.Ran)
	}
	if got := e.lines(req, LogOptions{}); !slices.Equal(got, []string{"o:started"}) {
		t.Errorf("output %q", got)
	}
}

func TestSeccomp(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("filtered", "sh", "-c", "echo x > /tmp/x; kill -0 $$ || echo refused")
	errno := uint(unix.EPERM)
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"kill"}, Action: specs.ActErrno, ErrnoRet: &errno}},
	}
	req := e.startSpec("filtered", spec)
	e.wait(req)
	if got := e.lines(req, LogOptions{Stream: Stdout}); !slices.Equal(got, []string{"o:refused"}) {
		t.Errorf("output %q", got)
	}
}

// The supervisor's own cgroup is in every hierarchy, and stays so when starts are expected; another user's connection is refused.
func TestSupervisorsPlace(t *testing.T) {
	e := newEnv(t)
	v, err := e.c.Version(e.ctx())
	if err != nil || v.Protocol != protocolVersion || v.Binary == "" {
		t.Fatalf("version %+v, %v", v, err)
	}
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			if expectErr := e.c.Expect(e.ctx()); expectErr != nil {
				t.Error(expectErr)
			}
		})
	}
	askers.Wait()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(v.Pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if !strings.HasSuffix(strings.TrimSpace(line), ":/reconciler/"+e.cfg.Instance+"/supervisor") {
			t.Errorf("cgroup %s", line)
		}
	}
	st, err := os.Stat(socketPath(e.cfg))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st, err)
	}
}

// Ten thousand lines on both streams through rotation, complete, with the exit recorded after the last of them.
func TestOutputIsCompleteAtExit(t *testing.T) {
	e := newEnv(t)
	req := e.bundle("flood", e.spec("flood", "sh", "-c", "seq 1 100000; seq 1 10000 >&2"))
	req.Logs = runtime.Logs{MaxSize: 64 << 10, MaxFiles: 1000}
	if _, err := e.c.Start(e.ctx(), req, nil); err != nil {
		t.Fatal(err)
	}
	e.wait(req)
	for stream, n := range map[Stream]int{Stdout: 100_000, Stderr: 10_000} {
		i := 0
		for entry, err := range ReadLog(t.Context(), req.LogDir, LogOptions{Stream: stream}) {
			if err != nil {
				t.Fatal(err)
			}
			i++
			if string(entry.Line) != strconv.Itoa(i) {
				t.Fatalf("line %d of %s is %q", i, stream, entry.Line)
			}
		}
		if i != n {
			t.Errorf("%s has %d lines", stream, i)
		}
	}
}
