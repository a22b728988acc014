package runtime

import (
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"net/netip"
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

// Spec is everything a runtime must know to make and run a container: lowered from a manifest, complete, without
// references to anything but the image, host paths and volumes. It is a value and is kept as JSON.
type Spec struct {
	Name Name `json:"name"`
	// Origin is what the spec was lowered from. A runtime keeps it and gives it back; it never looks inside.
	Origin json.RawMessage `json:"origin,omitempty"`
	// OriginDigest identifies Origin. Revision is the commit it came from.
	OriginDigest string `json:"originDigest,omitempty"`
	Revision     string `json:"revision,omitempty"`
	// SecretDigests identify what the secrets' directories held when the container was made, by directory. A runtime
	// keeps them and gives them back, as it does Origin.
	SecretDigests map[string]string `json:"secretDigests,omitempty"`

	Image    *Image    `json:"image,omitempty"`    // exactly one of Image
	Capture  []Path    `json:"capture,omitempty"`  // and Capture
	Platform *Platform `json:"platform,omitempty"` // nil: this server's

	Command    []string `json:"command,omitempty"` // replaces ENTRYPOINT and drops CMD
	Args       []string `json:"args,omitempty"`    // replaces CMD
	WorkingDir string   `json:"workingDir,omitempty"`
	Env        []EnvVar `json:"env,omitempty"` // sorted by name; $(VAR) already expanded
	// EnvFrom are whole sources of variables, read at each start: a later one wins over an earlier one, and Env over
	// all of them. Files of a secret whose name cannot be a variable's ([A-Za-z_][A-Za-z0-9_.-]*) are left out with a
	// warning.
	EnvFrom  []EnvSource `json:"envFrom,omitempty"`
	Hostname string      `json:"hostname"`
	Init     bool        `json:"init,omitempty"`

	Network Network `json:"network"`
	// Ports are published on this server's addresses; only with NetworkBridge.
	Ports []Port `json:"ports,omitempty"`
	DNS   DNS    `json:"dns,omitzero"`
	// ExtraHosts are lines of /etc/hosts: addresses by name.
	ExtraHosts map[string]string `json:"extraHosts,omitempty"`

	Limits  Resources `json:"limits"`
	Logs    Logs      `json:"logs"`
	Mounts  []Mount   `json:"mounts,omitempty"`
	ShmSize int64     `json:"shmSize,omitempty"` // bytes; 0: 64 MiB
	Devices []Device  `json:"devices,omitempty"`
	// Ulimits are resource limits of each process, soft and hard alike, by the names of docker and compose (nofile); -1: none.
	// What this server does not allow to raise is lowered, with a warning.
	Ulimits map[string]int64 `json:"ulimits,omitempty"`
	// Sysctls are kernel parameters of the container's own namespaces, by their names with dots.
	Sysctls map[string]string `json:"sysctls,omitempty"`

	// InitContainers run before each start, in this order.
	InitContainers []InitContainer `json:"initContainers,omitempty"`

	StopSignal string        `json:"stopSignal,omitempty"` // such as SIGTERM; empty: the image's, else SIGTERM
	StopGrace  time.Duration `json:"stopGrace"`

	Security Security `json:"security"`
}

// Image says where a root file system comes from.
type Image struct {
	// Ref is a registry reference, or "oci:PATH[:TAG]", "oci-archive:PATH", "docker-archive:PATH" with PATH relative
	// to the root of Inputs.Tree.
	Ref string `json:"ref"`
	// Digest pins what Ref means ("sha256:…", of the platform's manifest); empty: what Prepare resolves.
	Digest     string     `json:"digest,omitempty"`
	PullPolicy PullPolicy `json:"pullPolicy"`
}

// PullPolicy says when a reference is looked up in its registry.
type PullPolicy string

// The pull policies. The caller decides how often PullAlways looks; a runtime looks in every Prepare.
const (
	PullAlways       PullPolicy = "Always"
	PullIfNotPresent PullPolicy = "IfNotPresent"
	PullNever        PullPolicy = "Never"
)

// Path is one file or directory of this server that is captured.
type Path struct {
	From string `json:"from"` // absolute, on the server
	To   string `json:"to"`   // absolute, inside
}

// Platform is what an image must be made for, in the words of OCI.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// EnvVar is one variable: a value, or a key of a secret on this server, read at each start.
type EnvVar struct {
	Name   string     `json:"name"`
	Value  string     `json:"value,omitempty"`
	Secret *SecretKey `json:"secret,omitempty"`
}

// EnvSource is a group of variables: Values, or one for each file of a secret's directory, named as the file.
type EnvSource struct {
	Values          map[string]string `json:"values,omitempty"`
	SecretDirectory string            `json:"secretDirectory,omitempty"`
}

// SecretKey names a file of a secret's directory on this server.
type SecretKey struct {
	Directory string `json:"directory"`
	Key       string `json:"key"`
}

// Network is how a container reaches the world.
type Network string

// The networks, besides NetworkContainerPrefix with a name behind it.
const (
	NetworkNone   Network = "none"   // a private network namespace with loopback up
	NetworkHost   Network = "host"   // the server's network namespace
	NetworkBridge Network = "bridge" // an address of its own on the instance's bridge
	// NetworkContainerPrefix begins "container:NAME": the network namespace of another container of the same namespace.
	NetworkContainerPrefix = "container:"
)

// Port is one port of a container that is reachable through this server's addresses.
type Port struct {
	Name string `json:"name,omitempty"`
	// HostIP is one of this server's addresses; 0.0.0.0 means all of IPv4, :: all of IPv6, the zero Addr all of both.
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
	Protocol      string     `json:"protocol"` // TCP or UDP
	// Allow are the sources that may use it, this server and its containers included; empty: everybody.
	Allow []netip.Prefix `json:"allow,omitempty"`
}

// Collides reports whether p and q cannot both be published.
func (p Port) Collides(q Port) bool {
	switch {
	case p.Protocol != q.Protocol || p.HostPort != q.HostPort:
		return false
	case !p.HostIP.IsValid() || !q.HostIP.IsValid() || p.HostIP == q.HostIP:
		return true
	default:
		return p.HostIP.Is4() == q.HostIP.Is4() && (p.HostIP.IsUnspecified() || q.HostIP.IsUnspecified())
	}
}

// DNS is what a container's resolv.conf says instead of the instance's own server; empty parts are left as they are.
type DNS struct {
	Nameservers []netip.Addr `json:"nameservers,omitempty"`
	Search      []string     `json:"search,omitempty"`
	Options     []string     `json:"options,omitempty"`
}

// Resources are limits; zero means none.
type Resources struct {
	CPUMillis int64 `json:"cpuMillis,omitempty"` // thousandths of a core
	Memory    int64 `json:"memory,omitempty"`    // bytes, without swap
	Pids      int64 `json:"pids,omitempty"`
	Ingress   int64 `json:"ingress,omitempty"` // bits a second to the container
	Egress    int64 `json:"egress,omitempty"`  // bits a second from it
	Disk      int64 `json:"disk,omitempty"`    // bytes of the writable layer, set aside at each start
}

// Logs bounds a container's kept output.
type Logs struct {
	MaxSize  int64 `json:"maxSize"` // bytes a file
	MaxFiles int   `json:"maxFiles"`
}

// Mount is one path inside with something else than the image's files. Exactly one of the pointers and Tmpfs is set.
type Mount struct {
	Path     string  `json:"path"`
	ReadOnly bool    `json:"readOnly,omitempty"`
	Volume   *Volume `json:"volume,omitempty"`
	Files    *Files  `json:"files,omitempty"`
	Secret   *Secret `json:"secret,omitempty"`
	HostPath string  `json:"hostPath,omitempty"`
	Tmpfs    *Tmpfs  `json:"tmpfs,omitempty"`
}

// Volume is a named directory that outlives its container. Names are unique within a namespace on a node.
type Volume struct {
	Name string `json:"name"`
	// Shared lets several containers have it; without, it belongs to the first container name that used it.
	Shared bool `json:"shared,omitempty"`
	// Size is how many bytes it may hold, which are set aside for it; 0: no limit. One that has a size can get another at
	// a start when nobody else mounts it, no smaller than what it holds; one that has none keeps having none.
	Size int64 `json:"size,omitempty"`
}

// Files is content that came with the spec: a directory of files or, with Key, that one file at the mount's path.
type Files struct {
	Name    string            `json:"name"` // of the Config, for messages
	Key     string            `json:"key,omitempty"`
	Mode    fs.FileMode       `json:"mode"`
	Content map[string][]byte `json:"content"`
	// Signal is sent to process 1, such as SIGHUP, when an Update has swapped the files; empty: none.
	Signal string `json:"signal,omitempty"`
}

// Secret is a directory of this server whose files are copied to memory at each start, or one file of it.
type Secret struct {
	Name      string      `json:"name"` // for messages
	Directory string      `json:"directory"`
	Key       string      `json:"key,omitempty"`
	Mode      fs.FileMode `json:"mode"`
	// Signal is as that of Files. The files are read again when Spec.SecretDigests says another content of the directory
	// than before.
	Signal string `json:"signal,omitempty"`
}

// Tmpfs is a file system in memory.
type Tmpfs struct {
	Size int64 `json:"size"` // bytes
}

// Device is a device of this server that a container may use.
type Device struct {
	Path        string `json:"path"`        // of the node, here and inside
	Permissions string `json:"permissions"` // letters of rwm: read, write, mknod
}

// Security is who a container's processes are and what they may do.
type Security struct {
	// HostUsers says that the container has the server's user ids (true), must have a range of its own (false), or has
	// one where this server can do that (nil).
	HostUsers          *bool   `json:"hostUsers,omitempty"`
	User               *int64  `json:"user,omitempty"`      // nil: UserName
	UserName           string  `json:"userName,omitempty"`  // of the image's /etc/passwd; empty: the image's user
	Group              *int64  `json:"group,omitempty"`     // nil: GroupName
	GroupName          string  `json:"groupName,omitempty"` // of the image's /etc/group; empty: the user's, or the image's
	SupplementalGroups []int64 `json:"supplementalGroups,omitempty"`
	// Privileged gives the server's user ids, all capabilities that this server can give but those dropped, and every device; and
	// takes away what hides or protects the kernel's files. Filters are not touched by it: see SeccompUnconfined.
	Privileged               bool     `json:"privileged,omitempty"`
	ReadOnlyRoot             bool     `json:"readOnlyRoot,omitempty"`
	AllowPrivilegeEscalation bool     `json:"allowPrivilegeEscalation,omitempty"`
	CapAdd                   []string `json:"capAdd,omitempty"`  // without CAP_, or ALL
	CapDrop                  []string `json:"capDrop,omitempty"` // without CAP_, or ALL; dropped before CapAdd is added
	SeccompUnconfined        bool     `json:"seccompUnconfined,omitempty"`
	// SeccompProfile is JSON as Docker and OCI write it, instead of the usual filter on system calls.
	SeccompProfile []byte `json:"seccompProfile,omitempty"`
	// AppArmor names a profile that is loaded on this server, or is AppArmorUnconfined; empty: the runtime's own, where this server
	// has AppArmor.
	AppArmor string `json:"appArmor,omitempty"`
}

// AppArmorUnconfined is what AppArmor itself calls having no profile.
const AppArmorUnconfined = "unconfined"
