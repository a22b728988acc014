package linux_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/linux"
	"reconciler/runtime/supervisor"
)

func TestTwoInstancesDoNotTouchEachOther(t *testing.T) {
	a, b := newEnv(t), newEnv(t)
	ida, idb := a.start(a.sh("web", "sleep 1000")), b.start(b.sh("web", "sleep 1000"))
	if a.only().ID != ida || b.only().ID != idb {
		t.Error("an instance sees the other's container")
	}
	if err := a.Remove(t.Context(), idb); err != nil {
		t.Error(err)
	}
	before := b.only()
	if err := a.Down(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if after := b.only(); after.State != runtime.StateRunning || after.Pid != before.Pid {
		t.Errorf("the other instance's container: %+v", after)
	}
}

// Verbs that look, and down, may be tried on an instance that never was.
func TestLookingLeavesNothing(t *testing.T) {
	e := newEnv(t)
	if list, err := e.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
	if images, err := e.Images().List(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("images: %v, %v", images, err)
	}
	if volumes, err := e.Volumes(t.Context()); err != nil || len(volumes) != 0 {
		t.Errorf("volumes: %v, %v", volumes, err)
	}
	if err := e.Down(t.Context(), true); err != nil {
		t.Errorf("down: %v", err)
	}
	linux.Doctor(t.Context(), e.cfg)
	for _, dir := range []string{e.cfg.StateDir, e.cfg.RunDir} {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made: %v", dir, err)
		}
	}
}

// A mistyped directory that others use must not be closed to them.
func TestOpenRefusesADirectoryOfOthers(t *testing.T) {
	e := newEnv(t)
	shared := e.dir + "/shared"
	if err := os.Mkdir(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := e.cfg
	cfg.RunDir = shared
	if _, err := linux.Open(cfg); err != nil {
		t.Errorf("an empty directory: %v", err)
	}
	if fi, err := os.Stat(shared); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if err := errors.Join(os.Chmod(shared, 0o755), os.WriteFile(shared+"/other.pid", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := linux.Open(cfg)
	if !runtime.IsPermanent(err) || !strings.Contains(err.Error(), "holds other things") || runtime.HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
	if fi, err := os.Stat(shared); err != nil || fi.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestOpenRefusesWhatIsNotItsOwn(t *testing.T) {
	e := newEnv(t)
	e.create(e.spec("web", "sleep", "1000"))
	other := e.cfg
	other.Instance = "other"
	_, err := linux.Open(other)
	if err == nil || !strings.Contains(err.Error(), "belongs to instance "+e.cfg.Instance) || runtime.HintOf(err) == "" {
		t.Errorf("error %v, hint %q", err, runtime.HintOf(err))
	}
	for _, cfg := range []linux.Config{
		{StateDir: "relative", RunDir: e.cfg.RunDir}, {StateDir: e.dir + "/x", RunDir: e.dir + "/y", Instance: "../up"},
	} {
		if _, err := linux.Open(cfg); !runtime.IsPermanent(err) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if err := os.WriteFile(e.cfg.StateDir+"/instance.json", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := linux.Open(e.cfg); err == nil || !strings.Contains(err.Error(), "instance.json") {
		t.Errorf("error %v", err)
	}
	if fi, err := os.Stat(e.cfg.StateDir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("state directory %v, %v", fi.Mode(), err)
	}
}

func TestAFailedStartLeavesNothingButItsReason(t *testing.T) {
	e := newEnv(t)
	host := filepath.Dir(e.write("host/dir/file", ""))
	spec := e.sh("web", "true")
	spec.Mounts = []runtime.Mount{{Path: "/h", HostPath: host}, {Path: "/data/notexec", Tmpfs: &runtime.Tmpfs{Size: 1 << 20}}}
	id := e.create(spec)
	for range 2 { // the second time nothing is in the way of the first
		err := e.Start(t.Context(), id) // a directory is mounted on a file
		if err == nil {
			t.Fatal("it started")
		}
		st := e.status(id)
		if st.State != runtime.StateCreated || st.Reason != runtime.ReasonStartFailed || st.Message != err.Error() || st.Starts != 0 {
			t.Errorf("status %+v", st)
		}
	}
	if left, _ := filepath.Glob(e.cfg.StateDir + "/snapshots/*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if left, _ := filepath.Glob(e.cfg.RunDir + "/containers/*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if err := os.RemoveAll(e.dir + "/host"); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), id); err == nil || !strings.Contains(err.Error(), "no such file") || runtime.HintOf(err) == "" {
		t.Errorf("error %v, hint %q", err, runtime.HintOf(err))
	}
}

func TestHalfMadeContainersAreRemovedAndSwept(t *testing.T) {
	e := newEnv(t)
	for _, dir := range []string{"containers/.new-1", "containers/norecord", "snapshots/norecord/upper", "snapshots/orphan"} {
		if err := os.MkdirAll(e.cfg.StateDir+"/"+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := e.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("listed %v, %v", list, err)
	}
	if err := e.Remove(t.Context(), "norecord"); err != nil {
		t.Error(err)
	}
	id := e.create(e.sh("web", "true")) // sweeps
	for _, gone := range []string{"containers/.new-1", "containers/norecord", "snapshots/norecord", "snapshots/orphan"} {
		if _, err := os.Lstat(e.cfg.StateDir + "/" + gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
	// A removal that was cut short says so, and is finished by another.
	if err := os.WriteFile(e.cfg.StateDir+"/containers/"+string(id)+"/removing", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st := e.status(id); st.State != runtime.StateRemoving {
		t.Errorf("state %s", st.State)
	}
	if err := e.Start(t.Context(), id); err == nil {
		t.Error("started what is being removed")
	}
	if err := e.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestSupervisorKilledContainerGoesOn(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.sh("web", "sleep 1000"))
	before := e.status(id)
	e.killSupervisor()
	if st := e.status(id); st.State != runtime.StateRunning || st.Pid != before.Pid {
		t.Errorf("without a supervisor: %+v", st)
	}
	if err := e.Start(t.Context(), id); err != nil { // starts a supervisor, which adopts it
		t.Fatal(err)
	}
	if st := e.status(id); st.State != runtime.StateRunning || st.Pid != before.Pid || st.Starts != 1 {
		t.Errorf("adopted: %+v", st)
	}
	if err := e.Stop(t.Context(), id, 0); err != nil {
		t.Error(err)
	}
}

func TestAfterARebootContainersReadAsExited(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.sh("web", "echo start; sleep 1000"))
	pid := e.status(id).Pid
	e.killSupervisor()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	e.gone(pid)
	if st := e.status(id); st.State != runtime.StateExited || st.Reason != runtime.ReasonSupervisorLost || st.ExitCode != nil {
		t.Errorf("status %+v", st)
	}
	// /run is empty after a reboot, the mounts are gone.
	if err := unix.Unmount(e.cfg.RunDir+"/containers/"+string(id)+"/rootfs", 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(e.cfg.RunDir+"/containers", 0); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(e.cfg.RunDir); err != nil {
		t.Fatal(err)
	}
	r, err := linux.Open(e.cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Runtime = r
	if err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if st := e.status(id); st.State != runtime.StateRunning || st.Starts != 2 {
		t.Errorf("status %+v", st)
	}
}

// killSupervisor kills this instance's supervisor and waits until it is gone.
func (e *env) killSupervisor() {
	e.Helper()
	client, err := supervisor.Dial(e.Context(), supervisor.Config{StateDir: e.cfg.StateDir, RunDir: e.cfg.RunDir, Instance: e.cfg.Instance})
	if err != nil {
		e.Fatal(err)
	}
	v, err := client.Version(e.Context())
	if err != nil {
		e.Fatal(err)
	}
	if err := unix.Kill(v.Pid, unix.SIGKILL); err != nil {
		e.Fatal(err)
	}
	e.gone(v.Pid)
}

// gone waits until a process has ended.
func (e *env) gone(pid int) {
	e.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return
	}
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000); err != nil || n != 1 {
		e.Fatalf("process %d does not end: %v", pid, err)
	}
}

func TestDoctor(t *testing.T) {
	e := newEnv(t)
	e.start(e.bridged("web", "sleep 1000"))
	tried := map[string]string{}
	for _, c := range linux.Doctor(t.Context(), e.cfg) {
		if c.Detail == "" || c.Name == "" || (!c.OK && c.Remedy == "") || (c.OK && c.Remedy != "") {
			t.Errorf("%+v", c)
		}
		if c.Needed && !c.OK {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
		tried[c.Name] = c.Detail
	}
	if !strings.Contains(tried["dns"], "gets answers") || !strings.Contains(tried["inbound"], "is reached") {
		t.Errorf("of the network it says %q and %q", tried["dns"], tried["inbound"])
	}
	if f := e.Facts(); f.Kernel == "" || f.Architecture == "" {
		t.Errorf("facts %+v", f)
	}
}

func TestDownStopsWithGrace(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "trap 'echo bye; echo bye >/h/said; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
	host := filepath.Dir(e.write("host/dir/file", ""))
	spec.Mounts = []runtime.Mount{{Path: "/h", HostPath: host}}
	spec.StopSignal, spec.StopGrace = "SIGTERM", 20*time.Second
	id := e.start(spec)
	for entry, err := range e.Logs(t.Context(), id, supervisor.LogOptions{Follow: true}) {
		if err != nil || string(entry.Line) != "ready" {
			t.Errorf("%q, %v", entry.Line, err)
		}
		break
	}
	if err := e.Down(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(host + "/said"); err != nil {
		t.Errorf("it was not asked to stop: %v", err)
	}
	if _, err := os.Stat(e.cfg.RunDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the run directory is still there: %v", err)
	}
}

func BenchmarkListOf100(b *testing.B) {
	e := newEnv(b)
	if _, err := e.prepare(e.sh("web", "true")); err != nil {
		b.Fatal(err)
	}
	for i := range 100 {
		e.start(e.sh(fmt.Sprintf("web-%d", i), "sleep 1000"))
	}
	for b.Loop() {
		if _, err := e.List(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStartStop(b *testing.B) {
	e := newEnv(b)
	id := e.create(e.sh("web", "sleep 1000"))
	var starting time.Duration
	for b.Loop() {
		begun := time.Now()
		if err := e.Start(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		starting += time.Since(begun)
		if err := e.Stop(b.Context(), id, 0); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(starting.Milliseconds())/float64(b.N), "ms/start")
}
