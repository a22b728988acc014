package linux_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/linux"
	"reconciler/runtime/runtimetest/leak"
	"reconciler/runtime/supervisor"
)

// TestMain makes the test binary a supervisor when it is executed as one, and one that attacks inside a container.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "attempt" {
		os.Exit(attemptInside(os.Args[2]))
	}
	if len(os.Args) > 3 && os.Args[1] == "network" {
		os.Exit(attackNetwork(os.Args[2:]))
	}
	if len(os.Args) == 3 && os.Args[1] == "answer" {
		os.Exit(answer(os.Args[2]))
	}
	if len(os.Args) == 4 && os.Args[1] == "swap" {
		os.Exit(swap(os.Args[2], os.Args[3]))
	}
	if len(os.Args) == 6 && os.Args[1] == "start" {
		os.Exit(startAlone(os.Args[2:]))
	}
	if len(os.Args) == 5 && os.Args[1] == "supervisor" {
		ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
		err := linux.RunSupervisor(ctx, supervisor.Config{
			StateDir: os.Args[2], RunDir: os.Args[3], Instance: os.Args[4],
			Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		// A container executes this file, which it can where the file is static: the tests are not for there.
		os.Exit(2)
	}
	code := m.Run()
	if trees.dir != "" {
		_ = os.RemoveAll(trees.dir)
	}
	os.Exit(code)
}

var (
	instances atomic.Int64
	trees     struct {
		sync.Once
		dir string
		err error
	}
)

// file is one entry of a test image.
type file struct {
	name, content string
	mode, uid     int64
	link          string
}

// imageTree returns a directory as a commit's tree would be, with busybox as the OCI layout "box".
func imageTree(t testing.TB) string {
	t.Helper()
	trees.Do(func() {
		busybox, err := os.ReadFile("/bin/busybox")
		if err != nil {
			trees.err = err
			return
		}
		files := []file{
			{name: "bin/busybox", content: string(busybox), mode: 0o755},
			{name: "etc/passwd", content: "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n", mode: 0o644},
			{name: "etc/group", content: "root:x:0:\nalice:x:1001:\nwheel:x:10:alice\n", mode: 0o644},
			{name: "srv/seed", content: "seed", mode: 0o644, uid: 1000},
			{name: "data/notexec", content: "x", mode: 0o644},
			{name: "tmp/", mode: 0o1777},
		}
		for applet := range strings.FieldsSeq("sh ls cat echo sleep id hostname env ip ps mount mknod nc dd head tail true false grep sed touch rm ping chroot kill stat wc tr test stty df") {
			files = append(files, file{name: "bin/" + applet, link: "busybox"})
		}
		dir, err := os.MkdirTemp("", "rl-tree-") //nolint:usetesting // shared by every test, removed by TestMain
		if err != nil {
			trees.err = err
			return
		}
		trees.dir = dir
		trees.err = writeLayout(filepath.Join(dir, "box"), v1.Config{
			Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}, Cmd: []string{"/bin/sleep", "1000"}, StopSignal: "SIGKILL",
			Volumes: map[string]struct{}{"/data": {}},
		}, files)
		if trees.err == nil {
			trees.err = writeLayout(filepath.Join(dir, "tool"), v1.Config{Env: []string{"FROM_IMAGE=tool"}, WorkingDir: "/srv"}, files)
		}
	})
	if trees.err != nil {
		t.Fatal(trees.err)
	}
	return trees.dir
}

func writeLayout(dir string, cfg v1.Config, files []file) error {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Typeflag: tar.TypeReg, Uid: int(f.uid), Gid: int(f.uid)}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if f.link != "" {
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config = "linux", goruntime.GOARCH, cfg
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendImage(img)
}

// env is one instance on this machine.
type env struct {
	testing.TB
	*linux.Runtime
	cfg  linux.Config
	dir  string
	tree string
}

// newEnv makes an instance that is taken down, with a leak check, at the end of the test.
func newEnv(t testing.TB, change ...func(*linux.Config)) *env {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real containers need root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs /bin/busybox (package busybox-static)")
	}
	dir, err := os.MkdirTemp("", "rl-") //nolint:usetesting // t.TempDir is too long: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	// Who has user ids of its own must be able to pass.
	if err = os.Chmod(dir, 0o711); err != nil { //nolint:gosec // what is in there has modes of its own
		t.Fatal(err)
	}
	e := &env{TB: t, dir: dir, tree: imageTree(t)}
	instance := fmt.Sprintf("rl-%d-%d", os.Getpid(), instances.Add(1))
	e.cfg = linux.Config{
		StateDir: dir + "/state", RunDir: dir + "/run", Instance: instance,
		Self:          []string{"/proc/self/exe", "supervisor", dir + "/state", dir + "/run", instance},
		AllowHostPath: []string{dir + "/host"}, AllowSecretPath: []string{dir + "/secret"}, AllowCapture: []string{"/"},
	}
	for _, f := range change {
		f(&e.cfg)
	}
	if e.Runtime, err = linux.Open(e.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if t.Failed() {
			if log, err := os.ReadFile(e.cfg.StateDir + "/supervisor.log"); err == nil {
				t.Logf("supervisor.log:\n%s", log)
			}
		}
		e.removeAll(ctx)
		if err := e.Down(ctx, true); err != nil {
			t.Errorf("down: %v", err)
		}
		leak.Check(t, e.cfg.StateDir, e.cfg.RunDir, instance)
		for _, sub := range []string{"containers", "snapshots", "volumes"} {
			if left, _ := filepath.Glob(e.cfg.StateDir + "/" + sub + "/*"); len(left) > 0 {
				t.Errorf("left on disk: %v", left)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return e
}

// removeAll kills without grace, since Down gives each container its own.
func (e *env) removeAll(ctx context.Context) {
	list, err := e.List(ctx)
	if err != nil {
		e.Errorf("list: %v", err)
	}
	var wg sync.WaitGroup
	for _, st := range list {
		wg.Go(func() {
			if err := e.Remove(ctx, st.ID); err != nil {
				e.Errorf("remove %s: %v", st.ID, err)
			}
		})
	}
	wg.Wait()
}

// spec is one of the busybox image.
func (e *env) spec(name string, command ...string) runtime.Spec {
	return runtime.Spec{
		Name:  runtime.Name{Namespace: "default", Name: name},
		Image: &runtime.Image{Ref: "oci:box", PullPolicy: runtime.PullIfNotPresent}, Command: command,
		Hostname: name, Network: runtime.NetworkNone, Logs: runtime.Logs{MaxSize: 1 << 20, MaxFiles: 3},
		StopGrace: time.Second,
	}
}

func (e *env) sh(name, script string) runtime.Spec { return e.spec(name, "/bin/sh", "-c", script) }

func (e *env) prepare(spec runtime.Spec) (runtime.Prepared, error) {
	e.Helper()
	return e.Prepare(e.Context(), spec, runtime.Inputs{Tree: os.DirFS(e.tree)})
}

func (e *env) create(spec runtime.Spec) runtime.ID {
	e.Helper()
	if _, err := e.prepare(spec); err != nil {
		e.Fatalf("prepare: %v", err)
	}
	id, err := e.Create(e.Context(), spec)
	if err != nil {
		e.Fatalf("create: %v", err)
	}
	return id
}

func (e *env) start(spec runtime.Spec) runtime.ID {
	e.Helper()
	id := e.create(spec)
	if err := e.Start(e.Context(), id); err != nil {
		e.Fatalf("start: %v", err)
	}
	return id
}

func (e *env) status(id runtime.ID) runtime.Status {
	e.Helper()
	list, err := e.List(e.Context())
	if err != nil {
		e.Fatalf("list: %v", err)
	}
	for _, st := range list {
		if st.ID == id {
			return st
		}
	}
	e.Fatalf("container %s is not listed", id)
	return runtime.Status{}
}

// exited waits for the end of a container, by hints.
func (e *env) exited(id runtime.ID) runtime.Status {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), 30*time.Second)
	defer cancel()
	hints, err := e.Watch(ctx)
	if err != nil {
		e.Fatal(err)
	}
	for {
		if st := e.status(id); st.State == runtime.StateExited {
			return st
		}
		if _, ok := <-hints; !ok {
			e.Fatalf("container %s did not exit: %+v, output %q", id, e.status(id), e.output(id))
		}
	}
}

// run runs a container to its end and returns its output: stdout, then stderr. They are two pipes, and nobody knows their order.
func (e *env) run(spec runtime.Spec) (string, runtime.Status) {
	e.Helper()
	id := e.start(spec)
	st := e.exited(id)
	return e.output(id), st
}

func (e *env) output(id runtime.ID) string {
	e.Helper()
	var streams [2]strings.Builder
	for entry, err := range e.Logs(e.Context(), id, supervisor.LogOptions{Current: true}) {
		if err != nil {
			e.Fatal(err)
		}
		b := &streams[0]
		if entry.Stream == supervisor.Stderr {
			b = &streams[1]
		}
		b.Write(entry.Line)
		b.WriteByte('\n')
	}
	return streams[0].String() + streams[1].String()
}

func (e *env) exec(id runtime.ID, args ...string) (string, int) {
	e.Helper()
	var stdout, stderr bytes.Buffer
	code, err := e.ExecStream(e.Context(), supervisor.ExecRequest{ID: id, Args: args}, nil, &stdout, &stderr)
	if err != nil {
		e.Fatalf("exec %v: %v", args, err)
	}
	return stdout.String() + stderr.String(), code
}
