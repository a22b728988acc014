package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/runtimetest/leak"
)

// TestMain makes the test binary a supervisor when it is executed as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "supervisor" && os.Args[2] == "thread" {
		staysOnMainThread()
	}
	if len(os.Args) >= 5 && os.Args[1] == "supervisor" {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		cfg := Config{
			StateDir: os.Args[2], RunDir: os.Args[3], Instance: os.Args[4],
			Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		}
		if len(os.Args) == 6 {
			cfg.Release = os.Args[5]
		}
		go endWithTest(cfg)
		err := Run(ctx, cfg)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 5 && os.Args[1] == "hold" {
		holdForever(Config{StateDir: os.Args[2], RunDir: os.Args[3], Instance: os.Args[4]},
			[]string{"/proc/self/exe", "supervisor", os.Args[2], os.Args[3], os.Args[4]})
	}
	if len(os.Args) == 6 && os.Args[1] == "configure" {
		configureForever(StartRequest{ID: runtime.ID(os.Args[3]), Bundle: os.Args[4], LogDir: os.Args[5]}, Config{RunDir: os.Args[2]})
	}
	os.Exit(m.Run())
}

// endWithTest takes everything away when the test was killed and cannot do so itself. Its parent may be another, which a
// test kills.
func endWithTest(cfg Config) {
	text, err := os.ReadFile(filepath.Join(cfg.StateDir, "test.pid"))
	if err != nil {
		return
	}
	test, err := strconv.Atoi(string(text))
	if err != nil {
		return
	}
	pidfd, err := openPidfd(test)
	if err != nil {
		return
	}
	_ = waitPidfd(context.Background(), pidfd)
	if c, err := Dial(context.Background(), cfg); err == nil {
		_ = c.Shutdown(context.Background(), true)
	}
}

var instances atomic.Int64

// env is one supervisor with containers of busybox.
type env struct {
	testing.TB
	cfg  Config
	self []string
	c    *Client
	dir  string
}

// newEnv starts a detached supervisor that ends, with everything in it, at the end of the test.
func newEnv(t testing.TB) *env {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real containers need root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox (package busybox-static)")
	}
	dir := t.TempDir()
	e := &env{TB: t, dir: dir, cfg: Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		Instance: fmt.Sprintf("test-%d-%d", os.Getpid(), instances.Add(1)),
	}}
	e.self = []string{"/proc/self/exe", "supervisor", e.cfg.StateDir, e.cfg.RunDir, e.cfg.Instance}
	if err := os.MkdirAll(e.cfg.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.cfg.StateDir, "test.pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	e.ensure()
	t.Cleanup(func() {
		if log, err := os.ReadFile(filepath.Join(e.cfg.StateDir, logFile)); err == nil && bytes.Contains(log, []byte("DATA RACE")) {
			t.Errorf("the supervisor races:\n%s", log)
		}
		if t.Failed() {
			if log, err := os.ReadFile(filepath.Join(e.cfg.StateDir, logFile)); err == nil {
				t.Logf("supervisor's log:\n%s", log)
			}
		}
		c, err := Dial(context.Background(), e.cfg)
		if err != nil {
			c = e.ensure()
		}
		if err := c.Shutdown(e.ctx(), true); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		leak.Check(t, e.cfg.StateDir, e.cfg.RunDir, e.cfg.Instance)
	})
	return e
}

func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	e.Cleanup(cancel)
	return ctx
}

func (e *env) ensure() *Client {
	e.Helper()
	c, err := Ensure(e.ctx(), e.cfg, e.self)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(e.cfg.StateDir, logFile))
		e.Fatalf("ensure: %v\n%s", err, log)
	}
	e.c = c
	return c
}

// kill ends the supervisor as a crash does and returns when it is gone.
func (e *env) kill() {
	e.Helper()
	v, err := e.c.Version(e.ctx())
	if err != nil {
		e.Fatal(err)
	}
	pidfd, err := openPidfd(v.Pid)
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = pidfd.Close() }()
	if err := signalPidfd(pidfd, unix.SIGKILL); err != nil {
		e.Fatal(err)
	}
	if err := waitPidfd(e.ctx(), pidfd); err != nil {
		e.Fatal(err)
	}
}

// rootfs makes a root file system of busybox.
func (e *env) rootfs(dir string) {
	e.Helper()
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			e.Fatal(err)
		}
	}
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		e.Fatal(err)
	}
	shared := filepath.Join(e.dir, "busybox")
	if _, err := os.Stat(shared); err != nil {
		if err := os.WriteFile(shared, bin, 0o755); err != nil {
			e.Fatal(err)
		}
	}
	if err := os.Link(shared, filepath.Join(dir, "bin", "busybox")); err != nil {
		e.Fatal(err)
	}
	for _, tool := range []string{"sh", "sleep", "cat", "echo", "true", "false", "seq", "id", "ps", "stty", "dd", "head", "kill", "tail", "yes", "hostname", "grep"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", tool)); err != nil {
			e.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky); err != nil {
		e.Fatal(err)
	}
}

// spec is a usual container with args.
func (e *env) spec(id string, args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Hostname: id,
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/reconciler/" + e.cfg.Instance + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.CgroupNamespace},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// bundle writes a bundle for spec and returns the request that starts it.
func (e *env) bundle(id string, spec *specs.Spec) StartRequest {
	e.Helper()
	bundle, logs := filepath.Join(e.dir, "bundle-"+id), filepath.Join(e.dir, "logs-"+id)
	if _, err := os.Stat(bundle); err != nil {
		e.rootfs(filepath.Join(bundle, "rootfs"))
	}
	if err := os.MkdirAll(logs, 0o700); err != nil {
		e.Fatal(err)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		e.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		e.Fatal(err)
	}
	return StartRequest{ID: runtime.ID(id), Bundle: bundle, LogDir: logs}
}

// start starts a container of busybox.
func (e *env) start(id string, args ...string) StartRequest {
	e.Helper()
	return e.startSpec(id, e.spec(id, args...))
}

func (e *env) startSpec(id string, spec *specs.Spec) StartRequest {
	e.Helper()
	req := e.bundle(id, spec)
	if _, err := e.c.Start(e.ctx(), req, nil); err != nil {
		e.Fatalf("start %s: %v", id, err)
	}
	return req
}

// wait returns how a container ended. It watches, it does not poll.
func (e *env) wait(req StartRequest) Exit {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	events, err := e.c.Watch(ctx)
	if err != nil {
		e.Fatal(err)
	}
	for {
		st := e.state(req.ID)
		if !st.Running {
			exit, ok, err := ReadExit(req.LogDir)
			if err != nil || !ok {
				e.Fatalf("%s has ended but has no exit: %v", req.ID, err)
			}
			return exit
		}
		if _, ok := <-events; !ok {
			e.Fatalf("%s does not end", req.ID)
		}
	}
}

func (e *env) state(id runtime.ID) State {
	e.Helper()
	all, err := e.c.List(e.ctx())
	if err != nil {
		e.Fatal(err)
	}
	for _, s := range all {
		if s.ID == id {
			return s
		}
	}
	e.Fatalf("%s is not listed", id)
	return State{}
}

// lines returns the kept output, "o:" or "e:" before each line.
func (e *env) lines(req StartRequest, opts LogOptions) []string {
	e.Helper()
	var out []string
	for entry, err := range ReadLog(context.Background(), req.LogDir, opts) {
		if err != nil {
			e.Fatal(err)
		}
		if entry.Lost > 0 {
			out = append(out, "lost "+strconv.FormatInt(entry.Lost, 10))
			continue
		}
		out = append(out, string(entry.Stream[3])+":"+string(entry.Line))
	}
	return out
}

// awaitLine follows the output until a line contains text.
func (e *env) awaitLine(req StartRequest, text string) {
	e.Helper()
	for entry, err := range ReadLog(e.ctx(), req.LogDir, LogOptions{Follow: true, Current: true}) {
		if err != nil {
			e.Fatal(err)
		}
		if strings.Contains(string(entry.Line), text) {
			return
		}
	}
	e.Fatalf("%s never said %q: %v", req.ID, text, e.lines(req, LogOptions{}))
}

func codeOf(e Exit) string { return e.codeText() }
