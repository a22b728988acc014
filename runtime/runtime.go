package runtime

import (
	"context"
	"io/fs"
	"net"
	"strings"
	"time"
)

// Runtime makes, runs and removes the containers of one instance. All methods may be called concurrently; calls for
// the same container are serialised by the implementation. Every error is an *Error.
type Runtime interface {
	// List returns every container of this instance, adopted ones included, sorted by name, then by creation.
	// It is the truth; everything else is a hint.
	List(ctx context.Context) ([]Status, error)
	// Prepare brings everything that spec needs to this server (pull, unpack, capture) and checks it: the image's
	// platform, that the command and the user exist in it, that volumes and host paths may be used.
	// Nothing visible changes. It is idempotent, and cheap where everything is here already.
	Prepare(ctx context.Context, spec Spec, in Inputs) (Prepared, error)
	// Create makes a container from a prepared spec without starting it, beside any other of the same name.
	Create(ctx context.Context, spec Spec) (ID, error)
	// Start starts a created or exited container with a fresh writable layer, after its init containers, each with a fresh
	// one of its own, have ended well. On a running one it does nothing.
	Start(ctx context.Context, id ID) error
	// Update makes spec the container's spec without touching its process: resource limits are applied to what
	// runs, files whose content is another one are swapped, a directory at once, and then their signals are sent; the
	// rest is recorded. The caller has made sure that nothing in spec needs a new process. It comes last that the spec is
	// recorded: whoever sees the old one after an Update was cut short asks again, and a signal may come twice then.
	Update(ctx context.Context, id ID, spec Spec) error
	// Stop sends the stop signal and, after grace, SIGKILL. It returns when the container has exited, also when it
	// already had. A grace of zero or less kills at once.
	Stop(ctx context.Context, id ID, grace time.Duration) error
	// Remove takes away a container and everything made for it, killing what still runs. Volumes stay.
	// Removing what is not there does nothing.
	Remove(ctx context.Context, id ID) error
	// Serve says whether a container answers for its name: whether its published ports and its name in DNS lead to it while
	// it runs. A new one does, unless another of its name runs and serves when it is created; that is kept over restarts. With
	// on, ports and name are taken over from every other container of the name at once: at no moment do they lead nowhere, and
	// established TCP connections stay where they are.
	Serve(ctx context.Context, id ID, on bool) error
	// Drain returns when no connection through published ports to the container is established any more, or with ctx's
	// error when ctx ends before.
	Drain(ctx context.Context, id ID) error
	// Exec runs a command in a running container, as its user, without a terminal or input.
	Exec(ctx context.Context, id ID, command []string) (ExecResult, error)
	// Dial connects from inside a running container's network, to a port of its own such as "127.0.0.1:8080"; an address
	// without a host means the container's own one. network is "tcp" or "udp".
	Dial(ctx context.Context, id ID, network, address string) (net.Conn, error)
	// Signal sends a signal such as SIGHUP to a running container's process 1; one that does not run is an error that wraps
	// ErrNotRunning.
	Signal(ctx context.Context, id ID, signal string) error
	// Stats measures every running container, sorted as List is.
	Stats(ctx context.Context) ([]Stats, error)
	// Repair gives running containers back what others took from them or changed: their network, their limits. It returns
	// what that was, also beside an error. What is right is not touched.
	Repair(ctx context.Context) ([]Repaired, error)
	// Watch returns a channel of hints that something changed, closed when ctx ends. Hints may be dropped or repeated.
	Watch(ctx context.Context) (<-chan Event, error)
}

// ID identifies one container. It is unique for ever and safe as a file name.
type ID string

// Name is namespace/name: what a container is called by its users. Several containers may share one during an update.
type Name struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Base returns the name that volumes, addresses and DNS go by: NAME#TIME is one of several runs of NAME, which have no others
// of their own.
func (n Name) Base() Name {
	n.Name, _, _ = strings.Cut(n.Name, "#")
	return n
}

// Inputs are what Prepare may need besides the spec.
type Inputs struct {
	// Tree holds the files of the commit, for images that come from the repository. Nil where no commit is at hand:
	// then such an image must be in the store already.
	Tree fs.FS
	// Progress, if not nil, is told of the work. It is called from several goroutines and must not block.
	Progress func(Progress)
}

// Progress is how far a piece of work is.
type Progress struct {
	Name        Name
	What        string // such as "pull registry.example.com/web:1.4"
	Done, Total int64  // bytes; Total is 0 while unknown
}

// Prepared is what Prepare found out.
type Prepared struct {
	ImageDigest string   // "sha256:…" of the image's manifest, or of the captured content
	Warnings    []string // such as ignored VOLUMEs
}

// State is where a container is in its life.
type State string

// The states a runtime reports.
const (
	StateCreated  State = "Created"
	StateRunning  State = "Running"
	StateExited   State = "Exited"
	StateRemoving State = "Removing" // Remove was called and has not finished: call it again
)

// Status is one container as it is.
type Status struct {
	ID        ID        `json:"id"`
	Spec      Spec      `json:"spec"` // as given to Create or the last Update
	State     State     `json:"state"`
	CreatedAt time.Time `json:"createdAt"`

	// Pid is the host's pid of process 1 inside while Running, else 0.
	Pid        int       `json:"pid"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	// Ran is how long the present or last start has run, by a clock that no time step moves.
	Ran time.Duration `json:"ran"`
	// Starts counts how often the container was started; restarts are one less.
	Starts int `json:"starts"`
	// ExitCode of the last run, 128 + signal for a signal. Nil while running, and where it could not be known.
	ExitCode  *int `json:"exitCode"`
	OOMKilled bool `json:"oomKilled"`
	// Stopped is true where the last exit was asked for with Stop.
	Stopped bool `json:"stopped,omitempty"`
	// Reason and Message say why a container is as it is, where the runtime knows: ReasonStartFailed with the error
	// of the last start, ReasonInitFailed, ReasonInitializing, ReasonSupervisorLost for an exit that nobody saw.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`

	// Serving is true where published ports and the name lead to this container while it runs. See Runtime.Serve.
	Serving bool `json:"serving"`
	// FirstID is the first of the 65,536 user and group ids of this server that are the container's own; 0: it has the
	// server's.
	FirstID     uint32 `json:"firstID,omitempty"`
	ImageDigest string `json:"imageDigest,omitempty"`
	Hostname    string `json:"hostname"`
	IP          string `json:"ip,omitempty"`
	IPv6        string `json:"ipv6,omitempty"`
	MAC         string `json:"mac,omitempty"`
	// Shares is the start of another container whose network this one joined when it was started last; that network ends
	// with that start. Nil: it has one of its own, or the server's.
	Shares   *StartOf `json:"shares,omitempty"`
	Warnings []string `json:"warnings,omitempty"` // what the host could not do and the container runs without
}

// StartOf is one start of a container: the Starts that its Status had from then on.
type StartOf struct {
	ID     ID  `json:"id"`
	Starts int `json:"starts"`
}

// Reasons that a runtime gives in Status.Reason.
const (
	ReasonStartFailed    = "CreateContainerError"
	ReasonSupervisorLost = "SupervisorLost"
)

// EventType says what an Event is about.
type EventType string

// The types of event.
const (
	EventStarted EventType = "started"
	EventExited  EventType = "exited"
	EventRemoved EventType = "removed"
	EventDrifted EventType = "drifted" // somebody may have changed what containers were given: Repair
	EventLost    EventType = "lost"    // hints were dropped or the supervisor is gone: List again
)

// Event is a hint that a container changed.
type Event struct {
	Type EventType `json:"type"`
	ID   ID        `json:"id,omitempty"`
	Name Name      `json:"name,omitzero"`
	Time time.Time `json:"time"`
}
