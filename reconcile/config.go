package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	goruntime "runtime"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime"
)

// Source is where commits come from. Its methods may be called concurrently.
type Source interface {
	// Fetch looks at the source and returns its newest revision, bringing what is new here.
	Fetch(ctx context.Context) (manifest.Revision, error)
	// Tree returns the files of a commit that was fetched.
	Tree(ctx context.Context, commit string) (fs.FS, error)
	// Descends reports whether commit is ancestor or comes after it. See Config.UnknownCommit for its errors.
	Descends(ctx context.Context, ancestor, commit string) (bool, error)
	// Watch returns a channel of hints that the source changed, until ctx ends; nil where it cannot be watched.
	Watch(ctx context.Context) (<-chan struct{}, error)
}

// healthSource is who probes the containers.
//
// Observe is called in every turn of the loop, by the deciding goroutine, with everything that is here: it begins and ends probes to match, by ID and Starts, and does not block. Each running container is
// probed as the manifest that it was made from says (Spec.Origin): of one name several may run, and a candidate is judged
// by its own probes. Whoever learns of a change that a plan may depend on pokes the agent.
//
// Snapshot returns a map of its own. A container is in it once every one of its probes that counts for Started and Ready has
// had a result since this agent began (or was known to be ready by the agent before it): until then nobody is blamed for
// not being ready. Failed stays until the container is started again. ReadyFor is since it last became ready, by a clock
// that no time step moves.
type healthSource interface {
	Observe(observed []runtime.Status)
	Snapshot() map[runtime.ID]plan.Health
}

// Config is what an Agent is made from. StateDir, Source, Load and Runtime are needed, the rest has defaults.
type Config struct {
	// Node is this server's name; Instance tells agents on one server apart.
	Node     string
	Instance string
	// StateDir is the directory that survives a reboot.
	StateDir string

	Source     Source
	SourceInfo report.Source // what status says of the source; without credentials
	// UnknownCommit reports whether an error of Source.Descends says that the repository does not have the ancestor (any
	// more); any other is a failed fetch. Nil: none says so.
	UnknownCommit func(error) bool
	// Load turns a commit's tree into this node's set, one at a time. An error with a manifest.Problem in it rejects the commit; any
	// other counts as a failed fetch.
	Load    func(tree fs.FS, rev manifest.Revision) (manifest.Set, error)
	Runtime runtime.Runtime
	Facts   plan.Facts
	Policy  plan.Policy

	// Expect is told of a commit that was not read before as soon as it is seen: containers may be to be started soon. It must
	// return at once. Nil: nobody needs to know.
	Expect func(ctx context.Context)
	// TakenPorts lists the ports of this server that others than the instance have. It is called before a port is to be
	// published. Nil: none are known.
	TakenPorts func(ctx context.Context) ([]plan.TakenPort, error)
	// Resolve looks up what a reference with imagePullPolicy Always means now. Nil: never.
	Resolve func(ctx context.Context, image runtime.Image, platform *runtime.Platform) (string, error)
	// Collect takes away images that are neither in use nor in keep (digests), if the disk is full enough. Nil: never.
	Collect func(ctx context.Context, keep []string) error

	// Output returns the end of what the last start of a container wrote, for the history of Jobs. Nil: nothing is kept of it.
	Output func(ctx context.Context, id runtime.ID) (string, error)
	// BuiltAt is when this program was built: while the clock says that it is earlier, no CronJob runs. Zero: not known.
	BuiltAt time.Time

	// HintOf says what a person can do about an error of Source; "" where nobody knows. Nil: never.
	HintOf func(error) string
	// Gone says, in one word, that an error of Source means that what is followed is not there any more, such as its
	// branch: that is no failure that passes, and the node is Blocked. "" for every other error. Nil: never.
	Gone func(error) string

	// Interval is the time between looks at the source; NextPoll, if not nil, says when the next one is instead.
	Interval time.Duration
	NextPoll func(now time.Time) time.Time
	// ImageInterval is the time between lookups of images with imagePullPolicy Always.
	ImageInterval time.Duration
	// MaxUnavailable is the share of containers, in percent, that may be stopped for a replacement at a time; at least
	// one may.
	MaxUnavailable int
	// Starts is how many containers are started at a time; 0: two for each CPU.
	Starts int
	Logger *slog.Logger

	// health is who probes; nil: the agent itself.
	health healthSource
	// watchDirs is how secrets are watched.
	watchDirs func(ctx context.Context, dirs []string, changed func()) error
	// bootTime reads a clock that nobody sets, of the run of the kernel that bootID names.
	bootTime func() time.Duration
	bootID   string
	// watchClock tells when the other one was set.
	watchClock func(ctx context.Context) (<-chan struct{}, error)
}

// The defaults of Config.
const (
	DefaultInterval      = 30 * time.Second
	DefaultImageInterval = time.Hour
	startsPerCPU         = 2
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.StateDir == "":
		return c, errors.New("reconcile: no state directory")
	case c.Source == nil || c.Load == nil || c.Runtime == nil:
		return c, errors.New("reconcile: Source, Load and Runtime are needed")
	case c.Interval < 0 || c.ImageInterval < 0:
		return c, errors.New("reconcile: an interval cannot be negative")
	case c.MaxUnavailable < 0 || c.MaxUnavailable > 100:
		return c, fmt.Errorf("max-unavailable: %d is not a percentage: want 0 to 100", c.MaxUnavailable)
	}
	if c.Interval == 0 {
		c.Interval = DefaultInterval
	}
	if c.ImageInterval == 0 {
		c.ImageInterval = DefaultImageInterval
	}
	if c.Starts <= 0 {
		c.Starts = startsPerCPU * goruntime.NumCPU()
	}
	if c.watchDirs == nil {
		c.watchDirs = watchDirs
	}
	if c.bootTime == nil {
		c.bootTime, c.bootID = bootTime, bootID()
	}
	if c.watchClock == nil {
		c.watchClock = watchClock
	}
	if c.BuiltAt.IsZero() {
		c.BuiltAt = earliest()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
