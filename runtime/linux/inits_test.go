package linux_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"

	"reconciler/runtime"
	"reconciler/runtime/linux"
	"reconciler/runtime/supervisor"
)

// shInit is an init container that runs a script of the image named tool, which has no stop signal of its own.
func shInit(name, script string) runtime.InitContainer {
	return runtime.InitContainer{
		Name: name, Image: &runtime.Image{Ref: "oci:tool", PullPolicy: runtime.PullIfNotPresent},
		Command: []string{"/bin/sh", "-c", script},
	}
}

// withInits is a container that says what the volume's file log holds and runs on, after its init containers.
func (e *env) withInits(inits ...runtime.InitContainer) runtime.Spec {
	spec := e.sh("web", "echo main >>/data/log; cat /data/log; exec sleep 1000")
	spec.Mounts = []runtime.Mount{{Path: "/data", Volume: &runtime.Volume{Name: "data"}}}
	spec.InitContainers = inits
	return spec
}

// initOutput is what an init container printed, in all of its runs.
func (e *env) initOutput(id runtime.ID, name string) string {
	e.Helper()
	var b strings.Builder
	for entry, err := range e.InitLogs(e.Context(), id, name, supervisor.LogOptions{}) {
		if err != nil {
			e.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", entry.Line)
	}
	return b.String()
}

// followInit waits for lines that an init container prints. It may be called before that one runs.
func (e *env) followInit(id runtime.ID, name string) func() string {
	e.Helper()
	if err := os.MkdirAll(filepath.Join(e.cfg.StateDir, "containers", string(id), "init", name), 0o700); err != nil {
		e.Fatal(err)
	}
	return e.follow(func(ctx context.Context, opts supervisor.LogOptions) iter.Seq2[supervisor.LogEntry, error] {
		return e.InitLogs(ctx, id, name, opts)
	})
}

// nothingOfInits fails where something of a container's init containers is left but their output.
func (e *env) nothingOfInits(id runtime.ID) {
	e.Helper()
	for _, pattern := range []string{"run/*/*.init", "state/snapshots/*.init"} {
		if left, err := filepath.Glob(filepath.Join(e.dir, pattern)); err != nil || len(left) > 0 {
			e.Errorf("left behind: %v, %v", left, err)
		}
	}
	for _, pattern := range []string{"*/reconciler/%s/%s.init", "reconciler/%s/%s.init"} {
		if left, err := filepath.Glob("/sys/fs/cgroup/" + fmt.Sprintf(pattern, e.cfg.Instance, id)); err != nil || len(left) > 0 {
			e.Errorf("cgroups left behind: %v, %v", left, err)
		}
	}
}

func TestInitContainersRunInOrderBeforeEachStart(t *testing.T) {
	e := newEnv(t)
	limit := "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
	if cgroups.IsCgroup2UnifiedMode() {
		limit = "cat /sys/fs/cgroup/memory.max"
	}
	own := shInit("second", "echo two >>/data/log; pwd; echo $FROM_IMAGE $MINE; touch /left-here; id -u; "+limit+"; ip -o -4 addr show dev eth0 | grep -o 'inet [0-9.]*'")
	own.Env = []runtime.EnvVar{{Name: "MINE", Value: "yes"}}
	spec := e.withInits(
		runtime.InitContainer{Name: "first", Command: []string{"/bin/sh", "-c", "echo one >>/data/log; echo $FROM_IMAGE; hostname; tail -c 2 /proc/1/cmdline | wc -c; ls /left-here; exit 0"}},
		own,
		runtime.InitContainer{
			Name: "apart", Command: []string{"/bin/sh", "-c", "ls /data /only | tail -1; id -u; cat /proc/self/uid_map"},
			Mounts:   []runtime.Mount{{Path: "/only", Tmpfs: &runtime.Tmpfs{Size: 1 << 20}}},
			Security: &runtime.Security{User: new(int64(1000))},
		},
	)
	spec.Network, spec.Limits.Memory = runtime.NetworkBridge, 64<<20
	id := e.start(spec)
	next := e.lines(id)
	e.wantLines(next, "one", "two", "main")
	st := e.status(id)
	if st.State != runtime.StateRunning || st.Starts != 1 || st.Reason != "" {
		t.Errorf("status %+v", st)
	}
	e.expect(e.initOutput(id, "first"), "yes\nweb\n", "ls: /left-here: No such file")
	if got, want := e.initOutput(id, "second"), "/srv\ntool yes\n0\n67108864\ninet "+st.IP+"\n"; got != want {
		t.Errorf("the second says %q, want %q", got, want)
	}
	e.expect(e.initOutput(id, "apart"), "1000\n", fmt.Sprint(st.FirstID))
	if list, err := e.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("there are %d containers, %v", len(list), err)
	}
	e.nothingOfInits(id)
	// Their images are needed as long as the container is there.
	if _, err := e.PruneImages(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Stop(t.Context(), id, time.Minute), e.Start(t.Context(), id)); err != nil {
		t.Fatal(err)
	}
	e.wantLines(next, "one", "two", "main", "one", "two", "main")
	for _, err := range e.InitLogs(t.Context(), id, "nobody", supervisor.LogOptions{}) {
		if err == nil || !strings.Contains(err.Error(), `no init container "nobody"`) {
			t.Errorf("output of an init container that is none: %v", err)
		}
	}
}

func TestStartFailsWithItsInitContainer(t *testing.T) {
	e := newEnv(t)
	spec := e.withInits(shInit("good", "true"), shInit("bad", "echo no luck; exit 3"), shInit("never", "echo ran >>/data/log"))
	id := e.create(spec)
	for range 2 {
		err := e.Start(t.Context(), id)
		if err == nil || runtime.ReasonOf(err) != runtime.ReasonInitFailed || runtime.IsPermanent(err) ||
			err.Error() != "run init container bad of default/web: it exited with code 3" ||
			!strings.Contains(runtime.HintOf(err), "reconciler logs default/web --init bad") {
			t.Fatalf("started: %v (%s)", err, runtime.HintOf(err))
		}
		st := e.status(id)
		if st.State != runtime.StateCreated || st.Starts != 0 || st.Reason != runtime.ReasonInitFailed || !strings.Contains(st.Message, "bad") {
			t.Errorf("status %+v", st)
		}
		e.nothingOfInits(id)
	}
	if got := e.initOutput(id, "bad"); got != "no luck\nno luck\n" {
		t.Errorf("output %q", got)
	}
	if got := e.initOutput(id, "never") + e.output(id); got != "" {
		t.Errorf("what comes after it ran: %q", got)
	}
	for what, change := range map[string]func(*runtime.InitContainer){
		"init container two: check the command": func(ic *runtime.InitContainer) { ic.Command = []string{"/bin/nothing"} },
		"init container two: check the user":    func(ic *runtime.InitContainer) { ic.Security = &runtime.Security{UserName: "nobody-here"} },
		"init container two: mount":             func(ic *runtime.InitContainer) { ic.Mounts = []runtime.Mount{{Path: "/x", HostPath: "/etc"}} },
	} {
		two := shInit("two", "true")
		change(&two)
		if _, err := e.prepare(e.withInits(shInit("one", "true"), two)); !runtime.IsPermanent(err) || !strings.Contains(err.Error(), what) {
			t.Errorf("prepared, want an error about %q: %v", what, err)
		}
	}
}

func TestInitContainerIsHeldToTheLimits(t *testing.T) {
	e := newEnv(t)
	spec := e.withInits(shInit("hog", "x=0123456789abcdef; while :; do x=$x$x; done"))
	spec.Limits.Memory = 16 << 20
	id := e.create(spec)
	if err := e.Start(t.Context(), id); err == nil || !strings.Contains(err.Error(), "hog of default/web: it ran out of memory (limit 16 MiB)") {
		t.Errorf("started: %v", err)
	}
}

// A stop reaches the init container that runs, and so does the end of whoever started it.
func TestStartIsGivenUpInTheMiddleOfAnInitContainer(t *testing.T) {
	for what, end := range map[string]func(e *env, id runtime.ID, cancel func()) error{
		"stop":   func(e *env, id runtime.ID, _ func()) error { return e.Stop(e.Context(), id, 10*time.Minute) },
		"cancel": func(_ *env, _ runtime.ID, cancel func()) error { cancel(); return nil },
	} {
		t.Run(what, func(t *testing.T) {
			e := newEnv(t)
			spec := e.withInits(shInit("slow", "echo begun; sleep 1000"), shInit("never", "echo ran"))
			spec.StopGrace = 10 * time.Minute // which it would take did it not heed its signal
			id := e.create(spec)
			next := e.followInit(id, "slow")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			started := make(chan error, 1)
			go func() { started <- e.Start(ctx, id) }()
			e.wantLines(next, "begun")
			if st := e.status(id); st.State != runtime.StateCreated || st.Reason != runtime.ReasonInitializing || st.Message != "init container slow runs" {
				t.Errorf("status %+v", st)
			}
			if err := end(e, id, cancel); err != nil {
				t.Error(err)
			}
			if err := <-started; err == nil || what == "stop" && !strings.Contains(err.Error(), "init container slow of default/web: it was stopped") {
				t.Errorf("started: %v", err)
			}
			e.nothingOfInits(id)
			if got := e.initOutput(id, "never"); got != "" {
				t.Errorf("the next one ran: %q", got)
			}
		})
	}
}

// startAlone is a process that starts a container and may be killed in the middle of it.
func startAlone(args []string) int {
	rt, err := linux.Open(linux.Config{StateDir: args[0], RunDir: args[1], Instance: args[2]})
	if err == nil {
		err = rt.Start(context.Background(), runtime.ID(args[3]))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Whoever starts a container after the last one to do so died begins with the first init container again.
func TestInitContainersBeginAgainAfterACrash(t *testing.T) {
	e := newEnv(t)
	e.start(e.sh("other", "exec sleep 1000")) // so that there is a supervisor, which the one that dies does not start
	id := e.create(e.withInits(shInit("one", "echo one >>/data/log"), shInit("two", "echo two >>/data/log; echo begun; [ -e /data/go ] || sleep 1000")))
	next := e.followInit(id, "two")
	dying := exec.CommandContext(t.Context(), "/proc/self/exe", "start", e.cfg.StateDir, e.cfg.RunDir, e.cfg.Instance, string(id))
	if err := dying.Start(); err != nil {
		t.Fatal(err)
	}
	e.wantLines(next, "begun")
	if err := dying.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dying.Wait() // killed
	if st := e.status(id); st.State != runtime.StateCreated || st.Reason != runtime.ReasonInitializing {
		t.Errorf("status %+v", st)
	}
	volumes, err := e.Volumes(t.Context())
	if err != nil || len(volumes) != 1 {
		t.Fatalf("volumes %+v, %v", volumes, err)
	}
	if err = os.WriteFile(volumes[0].Path+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	e.wantLines(e.lines(id), "one", "two", "one", "two", "main")
	e.nothingOfInits(id)
	// And whoever removes it instead leaves nothing: the leak check says so.
}

// What is left of an init container whose starter died goes with the container.
func TestRemoveInTheMiddleOfAnInitContainer(t *testing.T) {
	e := newEnv(t)
	e.start(e.sh("other", "exec sleep 1000"))
	id := e.create(e.withInits(shInit("slow", "echo begun; sleep 1000")))
	next := e.followInit(id, "slow")
	dying := exec.CommandContext(t.Context(), "/proc/self/exe", "start", e.cfg.StateDir, e.cfg.RunDir, e.cfg.Instance, string(id))
	if err := dying.Start(); err != nil {
		t.Fatal(err)
	}
	e.wantLines(next, "begun")
	if err := dying.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dying.Wait() // killed
	if err := e.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	e.nothingOfInits(id)
}

// The supervisor may be replaced while an init container runs.
func TestInitContainerOutlivesItsSupervisor(t *testing.T) {
	e := newEnv(t)
	id := e.create(e.withInits(shInit("slow", "echo begun; while [ ! -e /data/go ]; do sleep 0.1; done; echo done")))
	next := e.followInit(id, "slow")
	started := make(chan error, 1)
	go func() { started <- e.Start(t.Context(), id) }()
	e.wantLines(next, "begun")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cfg := supervisor.Config{StateDir: e.cfg.StateDir, RunDir: e.cfg.RunDir, Instance: e.cfg.Instance}
	client, err := supervisor.Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	hints, err := e.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err = client.Shutdown(ctx, false); err != nil {
		t.Fatal(err)
	}
	for err = client.Delete(ctx, "nobody"); err != nil; err = client.Delete(ctx, "nobody") { // until the next one answers
		if _, ok := <-hints; !ok {
			t.Fatal(err)
		}
	}
	volumes, err := e.Volumes(t.Context())
	if err != nil || len(volumes) != 1 {
		t.Fatalf("volumes %+v, %v", volumes, err)
	}
	if err = os.WriteFile(volumes[0].Path+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e.wantLines(next, "done")
	err = <-started
	// Linux before 6.15 does not tell how a process ended that is not one's own child: that is no success.
	if err != nil && !strings.Contains(err.Error(), "its exit was not seen") {
		t.Errorf("started: %v", err)
	}
}
