package manifest

// Port is a port inside and where it is published.
type Port struct {
	// Name is what probes call the port.
	Name string `json:"name,omitempty"`
	// ContainerPort is the port inside, 1 to 65535.
	ContainerPort int64 `json:"containerPort,omitempty"`
	// HostPort is the port on the server, 1 to 65535; absent: not published. Goes with network bridge; with host only the
	// containerPort.
	HostPort *int64 `json:"hostPort,omitempty"`
	// Protocol is TCP or UDP; TCP where absent.
	Protocol Protocol `json:"protocol,omitempty"`
	// HostIP is the address on the server; every address, IPv4 and IPv6, where absent.
	HostIP string `json:"hostIP,omitempty"`
	// Allow lists the networks that may connect; everybody where absent.
	Allow []string `json:"allow,omitempty"`
}

// DNS says how names are resolved inside.
type DNS struct {
	// Nameservers are addresses of name servers.
	Nameservers []string `json:"nameservers,omitempty"`
	// Search are domains that short names are looked up in.
	Search []string `json:"search,omitempty"`
	// Options are options of resolv.conf.
	Options []string `json:"options,omitempty"`
}

// Resources are what a container is admitted with and what it is held to.
type Resources struct {
	// Requests are set aside on the node; the limits where absent.
	Requests *Requests `json:"requests,omitempty"`
	// Limits are never exceeded.
	Limits *Limits `json:"limits,omitempty"`
}

// Requests are resources that are set aside for a container.
type Requests struct {
	// CPU is in cores: 250m or 0.25 is a quarter.
	CPU *MilliCPU `json:"cpu,omitempty"`
	// Memory is in bytes: 64Mi.
	Memory *Bytes `json:"memory,omitempty"`
}

// Limits are resources that a container cannot exceed.
type Limits struct {
	// CPU is in cores: 250m or 0.25 is a quarter.
	CPU *MilliCPU `json:"cpu,omitempty"`
	// Memory is in bytes: 64Mi; beyond it the container is killed.
	Memory *Bytes `json:"memory,omitempty"`
	// Pids is the number of processes and threads.
	Pids *int64 `json:"pids,omitempty"`
	// Disk is the size of the writable layer in bytes, set aside on the server's disk at each start: 1Gi.
	Disk *Bytes `json:"disk,omitempty"`
	// Ingress is the bandwidth towards the container in bits a second: 10M.
	Ingress *BitRate `json:"ingress,omitempty"`
	// Egress is the bandwidth from the container in bits a second: 10M.
	Egress *BitRate `json:"egress,omitempty"`
}

// Logs bounds the output that is kept of a container.
type Logs struct {
	// MaxSize is the size of one file.
	MaxSize *Bytes `json:"maxSize,omitempty"`
	// MaxFiles is the number of files.
	MaxFiles *int64 `json:"maxFiles,omitempty"`
}

// Mount is one path inside with something else than the image's files: exactly one of volume, config, secret,
// hostPath and tmpfs.
type Mount struct {
	// Path is the absolute path inside.
	Path string `json:"path,omitempty"`
	// Volume names a directory that is kept when the container goes.
	Volume *VolumeSource `json:"volume,omitempty"`
	// Shared lets several containers have the volume; it must stand on every mount of it.
	Shared *bool `json:"shared,omitempty"`
	// Config names a Config whose files appear at the path.
	Config string `json:"config,omitempty"`
	// Secret names a Secret whose files appear at the path, in memory only.
	Secret string `json:"secret,omitempty"`
	// Key mounts this one key of the Config or Secret as a file at the path.
	Key string `json:"key,omitempty"`
	// Mode is the permission of the files of a Config or Secret, octal: "0640".
	Mode *FileMode `json:"mode,omitempty"`
	// HostPath is a path of the server.
	HostPath string `json:"hostPath,omitempty"`
	// ReadOnly forbids writing to a volume or hostPath.
	ReadOnly *bool `json:"readOnly,omitempty"`
	// Tmpfs is the size of an empty file system in memory.
	Tmpfs *Bytes `json:"tmpfs,omitempty"`
	// OnChange says what happens when the content of the Config or Secret changes: restart, {signal: NAME} or none.
	OnChange *OnChange `json:"onChange,omitempty"`
}

// VolumeSource is a volume: written as its name, or as {name, size} where it is to hold no more than that.
type VolumeSource struct {
	// Name is unique in the namespace, on a node.
	Name string `json:"name"`
	// Size is how much the volume holds, set aside on the disk; without, as much as the disk does. It must stand on every
	// mount of the volume. It can grow, and shrink to no less than what is in the volume.
	Size *Bytes `json:"size,omitempty"`
}

// OnChange says what happens when a mounted Config or Secret changes. The zero value means restart.
type OnChange struct {
	// Action is restart, signal or none.
	Action string `json:"-"`
	// Signal is sent to process 1 after the files were swapped, with the action signal.
	Signal string `json:"signal,omitempty"`
}

// The actions of OnChange.
const (
	OnChangeRestart = "restart"
	OnChangeSignal  = "signal"
	OnChangeNone    = "none"
)

// Device is a device node of the server.
type Device struct {
	// Path is the device on the server and inside, below /dev.
	Path string `json:"path,omitempty"`
	// Permissions are r, w and m for read, write and mknod; rw where absent.
	Permissions string `json:"permissions,omitempty"`
}

// SecurityContext says who the container's processes are and what they may do.
type SecurityContext struct {
	// HostUsers says whose user ids the container has: the server's (true) or a range of its own (false). Absent: its own
	// where the server can give it any.
	HostUsers *bool `json:"hostUsers,omitempty"`
	// RunAsUser is the user: a number, or a name of the image's /etc/passwd; the image's user where absent.
	RunAsUser UserRef `json:"runAsUser,omitempty"`
	// RunAsGroup is the group: a number, or a name of the image's /etc/group; the user's, or the image's, where absent.
	RunAsGroup UserRef `json:"runAsGroup,omitempty"`
	// SupplementalGroups are further group ids.
	SupplementalGroups []int64 `json:"supplementalGroups,omitempty"`
	// ReadOnlyRootFilesystem forbids writing outside of mounts.
	ReadOnlyRootFilesystem *bool `json:"readOnlyRootFilesystem,omitempty"`
	// AllowPrivilegeEscalation lets a program gain rights by setuid or file capabilities.
	AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation,omitempty"`
	// Privileged lifts nearly every restriction: the server's user ids, all capabilities but those dropped, all devices, no
	// filter on system calls. Needs --allow-privileged.
	Privileged *bool `json:"privileged,omitempty"`
	// Capabilities changes the usual small set.
	Capabilities *Capabilities `json:"capabilities,omitempty"`
	// SeccompProfile is the filter on system calls.
	SeccompProfile *SeccompProfile `json:"seccompProfile,omitempty"`
	// AppArmorProfile is the AppArmor profile, on servers that have AppArmor.
	AppArmorProfile *AppArmorProfile `json:"appArmorProfile,omitempty"`
}

// Capabilities changes the usual small set; Drop goes first. Names are without CAP_ after Load, or ALL.
type Capabilities struct {
	// Drop takes capabilities away; ALL takes every one.
	Drop []string `json:"drop,omitempty"`
	// Add gives capabilities.
	Add []string `json:"add,omitempty"`
}

// SeccompProfile is a filter on system calls.
type SeccompProfile struct {
	// Type is RuntimeDefault, Unconfined or Localhost.
	Type ProfileType `json:"type,omitempty"`
	// LocalhostProfile is the file of a Localhost profile in the repository: JSON as Docker and OCI have it.
	LocalhostProfile string `json:"localhostProfile,omitempty"`
	// Content is what LocalhostProfile held when it was loaded; it is not a field of the manifest.
	Content []byte `json:"content,omitempty" manifest:"-"`
}

// AppArmorProfile is an AppArmor profile.
type AppArmorProfile struct {
	// Type is RuntimeDefault, which is nothing where the server has no AppArmor, Unconfined, or Localhost.
	Type ProfileType `json:"type,omitempty"`
	// LocalhostProfile is the name of a Localhost profile that is loaded on the server.
	LocalhostProfile string `json:"localhostProfile,omitempty"`
}
