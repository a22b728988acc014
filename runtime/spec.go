package runtime

import (
	"encoding/json"
	"io/fs"
	"net/netip"
	"time"
)

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
