package linux

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/image"
	"reconciler/runtime/rootfs"
	"reconciler/runtime/supervisor"
)

// Config says where a Runtime keeps its things and what the administrator of this server allows.
type Config struct {
	// StateDir survives a reboot, RunDir does not. Both are made where they are missing, for root alone.
	StateDir, RunDir string
	// Instance names the cgroups and marks StateDir, so that several instances can share a machine. Empty: default.
	Instance string
	// Self is the command that runs the supervisor of this instance, such as ["/proc/self/exe", "supervisor", …].
	// Empty: no supervisor is ever started, only one that runs already is used.
	Self []string
	// AllowHostPath and AllowSecretPath are the directories below which host paths may be mounted and secrets read.
	// AllowCapture are the paths below which files may be captured. Empty: nowhere.
	AllowHostPath, AllowSecretPath, AllowCapture []string
	// AuthFile, CAFile and Mirrors are those of image.Options.
	AuthFile, CAFile string
	Mirrors          map[string]string
	// Logger may be nil.
	Logger *slog.Logger
}

// Runtime makes, runs and removes containers. It implements runtime.Runtime. Any number of processes may open the same
// directories to read (List, Logs, Exec, Volumes); what changes containers is for one process at a time.
type Runtime struct{ cfg Config }

var (
	_            runtime.Runtime = (*Runtime)(nil)
	errNotBuilt                  = errors.New("not built")
)

// Open checks the directories and the server, and makes what is missing. It starts nothing.
func Open(cfg Config) (*Runtime, error) { return &Runtime{cfg: cfg}, nil }

// List implements runtime.Runtime.
func (r *Runtime) List(ctx context.Context) ([]runtime.Status, error) { return nil, errNotBuilt }

// Prepare implements runtime.Runtime.
func (r *Runtime) Prepare(ctx context.Context, spec runtime.Spec, in runtime.Inputs) (runtime.Prepared, error) {
	return runtime.Prepared{}, errNotBuilt
}

// Create implements runtime.Runtime.
func (r *Runtime) Create(ctx context.Context, spec runtime.Spec) (runtime.ID, error) { return "", errNotBuilt }

// Start implements runtime.Runtime.
func (r *Runtime) Start(ctx context.Context, id runtime.ID) error { return errNotBuilt }

// Update implements runtime.Runtime.
func (r *Runtime) Update(ctx context.Context, id runtime.ID, spec runtime.Spec) error { return errNotBuilt }

// Stop implements runtime.Runtime.
func (r *Runtime) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error { return errNotBuilt }

// Remove implements runtime.Runtime.
func (r *Runtime) Remove(ctx context.Context, id runtime.ID) error { return errNotBuilt }

// Watch implements runtime.Runtime.
func (r *Runtime) Watch(ctx context.Context) (<-chan runtime.Event, error) { return nil, errNotBuilt }

// Logs reads the kept output of a container, oldest first. It needs no supervisor.
func (r *Runtime) Logs(ctx context.Context, id runtime.ID, opts supervisor.LogOptions) iter.Seq2[supervisor.LogEntry, error] {
	return func(yield func(supervisor.LogEntry, error) bool) { yield(supervisor.LogEntry{}, errNotBuilt) }
}

// Exec runs a command in a running container and returns its exit code.
func (r *Runtime) Exec(ctx context.Context, req supervisor.ExecRequest, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	return 0, errNotBuilt
}

// Images is the store of images.
func (r *Runtime) Images() *image.Store { return nil }

// CollectImages takes away images that no container needs and that are not in keep (digests), the least recently used
// first, if more than high percent of the disk is in use, until no more than low percent is.
func (r *Runtime) CollectImages(ctx context.Context, keep []string, high, low int) (image.Pruned, error) {
	return image.Pruned{}, errNotBuilt
}

// PruneImages takes away every image that no container needs and that is not in keep.
func (r *Runtime) PruneImages(ctx context.Context, keep []string) (image.Pruned, error) {
	return image.Pruned{}, errNotBuilt
}

// Volumes lists the volumes of this instance, sorted by namespace and name.
func (r *Runtime) Volumes(ctx context.Context) ([]rootfs.Volume, error) { return nil, errNotBuilt }

// RemoveVolume takes away a volume and its content. One that a container mounts is refused.
func (r *Runtime) RemoveVolume(ctx context.Context, namespace, name string) error { return errNotBuilt }

// Resolve asks the registry what the image's reference means now, without downloading it.
func (r *Runtime) Resolve(ctx context.Context, img runtime.Image, platform *runtime.Platform) (string, error) {
	return "", errNotBuilt
}

// Down stops and removes every container of this instance, with volumes those too, ends the supervisor and leaves
// nothing of this instance in the kernel or the run directory. Images stay.
func (r *Runtime) Down(ctx context.Context, volumes bool) error { return errNotBuilt }

// Facts returns what this server is.
func (r *Runtime) Facts() Facts { return Facts{} }

// Check is one line of Doctor.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // containers do not run without it
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// Doctor looks at what this server has and lacks. It needs no Runtime: the directories may be missing.
func Doctor(ctx context.Context, cfg Config) []Check { return nil }
