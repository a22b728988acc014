package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"reconciler/runtime"
	"reconciler/runtime/calm"
	"reconciler/runtime/idrange"
	"reconciler/runtime/image"
	"reconciler/runtime/network"
	"reconciler/runtime/rootfs"
	"reconciler/runtime/supervisor"
)

// Config says where a Runtime keeps its things and what the administrator of this server allows.
type Config struct {
	// StateDir survives a reboot, RunDir does not. Both are for root alone, and made when they are needed.
	StateDir, RunDir string
	// Instance names the cgroups and marks StateDir, so that several instances can share a machine. Empty: default.
	Instance string
	// Self is the command that runs the supervisor of this instance, such as ["/proc/self/exe", "supervisor", …].
	// Empty: no supervisor is ever started, only one that runs already is used.
	Self []string
	// Release is which release Self is, as its supervisor says it too. One of another release is upgraded in place by who
	// watches. Empty: what the binary was built from.
	Release string
	// BridgeCIDR is the IPv4 network of the instance's bridge. The zero Prefix: one that nothing here uses is chosen.
	BridgeCIDR netip.Prefix
	// AllowHostPath and AllowSecretPath are the directories below which host paths may be mounted and secrets read.
	// AllowCapture are the paths below which files may be captured. Empty: nowhere.
	AllowHostPath, AllowSecretPath, AllowCapture []string
	// AllowDevice are devices, or directories of devices, that containers may use. AllowPrivileged lets containers be
	// confined by nothing. Empty and false: neither.
	AllowDevice     []string
	AllowPrivileged bool
	// AuthFile, CAFile and Mirrors are those of image.Options.
	AuthFile, CAFile string
	Mirrors          map[string]string
	// Logger may be nil.
	Logger *slog.Logger
}

// Runtime makes, runs and removes containers. It implements runtime.Runtime. Any number of processes may open the same
// directories to read (List, Logs, Exec, Volumes); what changes containers is for one process at a time.
type Runtime struct {
	cfg    Config
	log    *slog.Logger
	host   host
	images *image.Store
	roots  *rootfs.Store
	state  stateDir
	ids    idrange.Leases
	net    *network.Bridge

	locks     locks[runtime.ID]
	serving   locks[runtime.Name] // held while it changes which container of the name serves; taken after the container's lock
	announced announcements
	appArmor  appArmor
	swept     sync.Once
	changes   *broadcast
	rest      calm.Rester
	expected  atomic.Int64 // when a start was begun last, in nanoseconds since 1970
	holds     sync.Mutex   // held by the Watch that holds what the supervisor has
	holding   atomic.Bool
}

var _ runtime.Runtime = (*Runtime)(nil)

// Open checks the directories and the server. It makes and starts nothing: what changes something does.
// A server without root or cgroups, and the state directory of another instance, are refused; Doctor tells more.
func Open(cfg Config) (*Runtime, error) {
	r := &Runtime{cfg: cfg, log: cfg.Logger, changes: newBroadcast(), ids: idrange.Open(idrange.Dir)}
	if r.cfg.Instance == "" {
		r.cfg.Instance = "default"
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if err := checkServer(); err != nil {
		return nil, err
	}
	if err := vetDirectories(r.cfg); err != nil {
		return nil, err
	}
	if err := vetBridge(cfg.BridgeCIDR); err != nil {
		return nil, err
	}
	r.net = network.Open(network.Config{Instance: r.cfg.Instance, StateDir: r.cfg.StateDir, CIDR: r.cfg.BridgeCIDR})
	r.state = stateDir{path: r.cfg.StateDir, cache: &recordCache{}}
	var err error
	if r.host, err = readHost(); err != nil {
		return nil, err
	}
	r.images, err = image.Open(image.Options{
		Dir: r.cfg.StateDir, AuthFile: r.cfg.AuthFile, CAFile: r.cfg.CAFile, Mirrors: r.cfg.Mirrors,
		AllowCapture: r.cfg.AllowCapture, Logger: r.cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	r.roots, err = rootfs.Open(rootfs.Options{
		StateDir: r.cfg.StateDir, RunDir: r.cfg.RunDir,
		AllowHostPath: r.cfg.AllowHostPath, AllowSecretPath: r.cfg.AllowSecretPath, AllowDevice: r.cfg.AllowDevice,
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Facts returns what this server is.
func (r *Runtime) Facts() Facts { return facts(r.host.Kernel) }

// TakenPorts lists the ports of this server that others than this instance have.
func (r *Runtime) TakenPorts(ctx context.Context) ([]network.Taken, error) { return r.net.Taken(ctx) }

// Capacity returns what this server has. It looks again at every call.
func (r *Runtime) Capacity() Capacity { return capacity(cgroupRoot, r.cfg.StateDir) }

// Images is the store of images. What of them containers need is in Roots.
func (r *Runtime) Images() *image.Store { return r.images }

// Logs reads the kept output of a container, oldest first. It needs no supervisor.
func (r *Runtime) Logs(ctx context.Context, id runtime.ID, opts supervisor.LogOptions) iter.Seq2[supervisor.LogEntry, error] {
	if _, err := r.state.read(id); err != nil {
		return func(yield func(supervisor.LogEntry, error) bool) {
			yield(supervisor.LogEntry{}, failure("read output of container "+string(id), id, runtime.Name{}, err))
		}
	}
	return supervisor.ReadLog(ctx, r.state.dir(id), opts)
}

// InitLogs reads the kept output of one of a container's init containers as Logs does the container's. Each start's is one
// run of it.
func (r *Runtime) InitLogs(ctx context.Context, id runtime.ID, init string, opts supervisor.LogOptions) iter.Seq2[supervisor.LogEntry, error] {
	e, err := r.state.read(id)
	if err == nil && !slices.ContainsFunc(e.Spec.InitContainers, func(ic runtime.InitContainer) bool { return ic.Name == init }) {
		err = fmt.Errorf("it has no init container %q", init)
	}
	if err != nil {
		return func(yield func(supervisor.LogEntry, error) bool) {
			yield(supervisor.LogEntry{}, failure("read output of an init container of "+string(id), id, e.Spec.Name, err))
		}
	}
	return supervisor.ReadLog(ctx, r.initDir(id, init), opts)
}

// ExecStream runs a command in a running container, connected to the caller, and returns its exit code, 128 + signal for a signal. A user may be a name
// that the image knows.
func (r *Runtime) ExecStream(ctx context.Context, req supervisor.ExecRequest, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	op := "run a command in container " + string(req.ID)
	rec, err := r.state.read(req.ID)
	if err != nil {
		return 0, failure(op, req.ID, runtime.Name{}, err)
	}
	if req.User, err = r.numericUser(ctx, rec, req.User); err != nil {
		return 0, failure(op, req.ID, rec.Spec.Name, err)
	}
	client, err := supervisor.Dial(ctx, r.supervisorConfig())
	if errors.Is(err, supervisor.ErrNotRunning) {
		err = &runtime.Error{Err: err, Hint: "no container runs without it; the agent starts it"}
	}
	if err != nil {
		return 0, failure(op, req.ID, rec.Spec.Name, err)
	}
	code, err := client.Exec(ctx, req, stdin, stdout, stderr)
	return code, failure(op, req.ID, rec.Spec.Name, err)
}

// numericUser looks a user's name up in the container's image. Empty stays empty: the container's own.
func (r *Runtime) numericUser(ctx context.Context, e entry, user string) (string, error) {
	if user == "" {
		return "", nil
	}
	img, err := r.imageOf(ctx, e)
	if err != nil {
		return "", err
	}
	u, err := img.LookUser(user)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d:%d", u.UID, u.GID), nil
}

// supervise returns a client of the instance's supervisor, which is started if it does not run.
func (r *Runtime) supervise(ctx context.Context) (*supervisor.Client, error) {
	if len(r.cfg.Self) == 0 {
		return supervisor.Dial(ctx, r.supervisorConfig())
	}
	return supervisor.Ensure(ctx, r.supervisorConfig(), r.cfg.Self)
}

func (r *Runtime) supervisorConfig() supervisor.Config {
	return supervisor.Config{StateDir: r.cfg.StateDir, RunDir: r.cfg.RunDir, Instance: r.cfg.Instance, Release: r.cfg.Release, Logger: r.cfg.Logger}
}

// failure makes a *runtime.Error of err, keeping what it knows already. It returns nil for nil.
func failure(op string, id runtime.ID, name runtime.Name, err error) error {
	if err == nil {
		return nil
	}
	var inner *runtime.Error
	if !errors.As(err, &inner) {
		return &runtime.Error{Op: op, ID: id, Name: name, Err: err}
	}
	e := *inner
	if e.ID == "" {
		e.ID = id
	}
	if e.Name == (runtime.Name{}) {
		e.Name = name
	}
	switch {
	case e.Op == "":
		e.Op = op
	case err.Error() != inner.Error():
		e.Op, e.Err = op, err // somebody added words around it: keep them
	}
	return &e
}
