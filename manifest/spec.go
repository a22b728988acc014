package manifest

// Spec is the spec of a Container, Job or CronJob. A nil pointer, empty string, list or map means that the manifest
// does not say; Defaulted fills in this release's defaults. Its JSON form is the manifest's own.
type Spec struct {
	// Platform says which servers the container can run on.
	Platform *Platform `json:"platform,omitempty"`

	// Image is the image to run: a registry reference, or oci:PATH[:TAG], oci-archive:PATH or docker-archive:PATH
	// with a path in the repository. After Load, PATH is relative to the repository's root.
	Image string `json:"image,omitempty"`
	// ImagePullPolicy says when a tag is looked up in its registry: Always, IfNotPresent or Never.
	ImagePullPolicy PullPolicy `json:"imagePullPolicy,omitempty"`
	// Capture makes the image from copies of the server's own files, with the shared libraries that programs load.
	Capture *Capture `json:"capture,omitempty"`

	// Command replaces the image's ENTRYPOINT and drops its CMD. $(VAR) is expanded.
	Command []string `json:"command,omitempty"`
	// Args replaces the image's CMD. $(VAR) is expanded.
	Args []string `json:"args,omitempty"`
	// WorkingDir is the directory that the command starts in; absolute.
	WorkingDir string `json:"workingDir,omitempty"`
	// Env holds variables: plain values, or references to the node, a Config or a Secret. $(VAR) is expanded.
	Env map[string]EnvValue `json:"env,omitempty"`
	// EnvFrom makes every key of a Config or Secret a variable; later ones win, and Env wins over all.
	EnvFrom []EnvFrom `json:"envFrom,omitempty"`
	// Hostname is the host name inside; the container's name where absent.
	Hostname string `json:"hostname,omitempty"`
	// Init runs a small init as process 1, which reaps processes and forwards signals.
	Init *bool `json:"init,omitempty"`

	// Network is bridge, host, none, or container:NAME to share another container's.
	Network Network `json:"network,omitempty"`
	// Ports are the ports that the container listens on and where the server publishes them.
	Ports []Port `json:"ports,omitempty"`
	// DNS says how names are resolved inside.
	DNS *DNS `json:"dns,omitempty"`
	// ExtraHosts adds lines to /etc/hosts: name to address.
	ExtraHosts map[string]string `json:"extraHosts,omitempty"`

	// Resources are what the container is admitted with and held to.
	Resources *Resources `json:"resources,omitempty"`
	// Logs bounds the output that is kept.
	Logs *Logs `json:"logs,omitempty"`

	// Mounts are files and directories besides the image's.
	Mounts []Mount `json:"mounts,omitempty"`
	// Devices are device nodes of the server.
	Devices []Device `json:"devices,omitempty"`
	// ShmSize is the size of /dev/shm.
	ShmSize *Bytes `json:"shmSize,omitempty"`
	// Ulimits are resource limits of each process, such as nofile.
	Ulimits map[string]int64 `json:"ulimits,omitempty"`
	// Sysctls are kernel parameters of the container's own namespaces.
	Sysctls map[string]string `json:"sysctls,omitempty"`

	// StartupProbe holds back the other probes until it succeeded once.
	StartupProbe *Probe `json:"startupProbe,omitempty"`
	// ReadinessProbe says whether the container can serve.
	ReadinessProbe *Probe `json:"readinessProbe,omitempty"`
	// LivenessProbe restarts the container when it fails.
	LivenessProbe *Probe `json:"livenessProbe,omitempty"`
	// Lifecycle holds what is run after a start and before a stop.
	Lifecycle *Lifecycle `json:"lifecycle,omitempty"`
	// InitContainers run to completion, in order, before each start.
	InitContainers []InitContainer `json:"initContainers,omitempty"`
	// RestartPolicy says after which exits the container is started again: Always, OnFailure or Never.
	RestartPolicy RestartPolicy `json:"restartPolicy,omitempty"`
	// RestartBackoff spaces out restarts of a container that keeps exiting.
	RestartBackoff *RestartBackoff `json:"restartBackoff,omitempty"`
	// StopSignal asks the container to end, such as SIGTERM; the image's where absent.
	StopSignal string `json:"stopSignal,omitempty"`
	// TerminationGracePeriodSeconds is how long a stop waits before it kills.
	TerminationGracePeriodSeconds *int64 `json:"terminationGracePeriodSeconds,omitempty"`

	// DependsOn names what must be there before the container starts.
	DependsOn []Dependency `json:"dependsOn,omitempty"`
	// Strategy says how a new version takes the place of the old one.
	Strategy *Strategy `json:"strategy,omitempty"`

	// SecurityContext says who the container's processes are and what they may do.
	SecurityContext *SecurityContext `json:"securityContext,omitempty"`

	JobSpec
	CronJobSpec
}

// JobSpec holds the fields that Job and CronJob have besides those of a Container.
type JobSpec struct {
	// BackoffLimit is how often a failed run is tried again before the Job has failed.
	BackoffLimit *int64 `json:"backoffLimit,omitempty"`
	// ActiveDeadlineSeconds ends a Job that takes longer.
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty"`
	// TTLSecondsAfterFinished is how long the result and output of a finished Job are kept.
	TTLSecondsAfterFinished *int64 `json:"ttlSecondsAfterFinished,omitempty"`
	// Script is code from the commit that is run inside.
	Script *Script `json:"script,omitempty"`
	// OnNewNode says whether a server that first starts after the commit runs the Job: Run or Skip. Not for a CronJob.
	OnNewNode OnNewNode `json:"onNewNode,omitempty"`
}

// CronJobSpec holds the fields that only a CronJob has.
type CronJobSpec struct {
	// Schedule is when to run: five fields as in cron, @hourly and the like, or "@every 10m".
	Schedule string `json:"schedule,omitempty"`
	// TimeZone is the zone of the schedule, such as Europe/Berlin; UTC where absent.
	TimeZone string `json:"timeZone,omitempty"`
	// ConcurrencyPolicy says what happens when a run is due while one runs: Allow, Forbid or Replace.
	ConcurrencyPolicy ConcurrencyPolicy `json:"concurrencyPolicy,omitempty"`
	// StartingDeadlineSeconds is how late a run that was missed may still start.
	StartingDeadlineSeconds *int64 `json:"startingDeadlineSeconds,omitempty"`
	// Suspend stops new runs.
	Suspend *bool `json:"suspend,omitempty"`
	// SuccessfulJobsHistoryLimit is how many successful runs are kept.
	SuccessfulJobsHistoryLimit *int64 `json:"successfulJobsHistoryLimit,omitempty"`
	// FailedJobsHistoryLimit is how many failed runs are kept.
	FailedJobsHistoryLimit *int64 `json:"failedJobsHistoryLimit,omitempty"`
}

// Platform says which servers a container can run on; elsewhere it is Incompatible and nothing is started.
type Platform struct {
	// Architectures lists CPU architectures in the words of OCI, such as amd64; empty: any that the image has.
	Architectures []string `json:"architectures,omitempty"`
	// Kernel is a condition on the kernel's version, such as ">= 5.10"; see KernelSatisfies.
	Kernel string `json:"kernel,omitempty"`
}

// Capture lists files and directories of the server to make an image from.
type Capture struct {
	// Paths are absolute paths on the server.
	Paths []CapturePath `json:"paths,omitempty"`
}

// CapturePath is one captured file or directory: written as a path, or as {from, to} where it has another place inside.
type CapturePath struct {
	// From is the absolute path on the server.
	From string `json:"from"`
	// To is the absolute path inside; From where absent.
	To string `json:"to,omitempty"`
}

// EnvValue is the value of a variable. Exactly one of Value (which may be empty), Node, Label, Secret and Config
// counts: the first of the others that is not empty, else Value.
type EnvValue struct {
	// Value is the plain value.
	Value string `json:"-"`
	// Node is "name": the name of the node.
	Node string `json:"node,omitempty"`
	// Label is the value of this label of the node.
	Label string `json:"label,omitempty"`
	// Secret names the Secret that Key is in.
	Secret string `json:"secret,omitempty"`
	// Config names the Config that Key is in.
	Config string `json:"config,omitempty"`
	// Key is the key of the Secret or Config.
	Key string `json:"key,omitempty"`
}

// EnvFrom names a Config or a Secret whose keys become variables; exactly one of the two.
type EnvFrom struct {
	// Config names a Config.
	Config string `json:"config,omitempty"`
	// Secret names a Secret.
	Secret string `json:"secret,omitempty"`
}

// Port is a port inside and where it is published.
type Port struct {
	// Name is what probes call the port.
	Name string `json:"name,omitempty"`
	// ContainerPort is the port inside, 1 to 65535.
	ContainerPort int64 `json:"containerPort,omitempty"`
	// HostPort is the port on the server, 1 to 65535; absent: not published.
	HostPort *int64 `json:"hostPort,omitempty"`
	// Protocol is TCP or UDP; TCP where absent.
	Protocol Protocol `json:"protocol,omitempty"`
	// HostIP is the address on the server; every address where absent.
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
	// Disk is the size of the writable layer in bytes.
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
	Volume string `json:"volume,omitempty"`
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
	// Path is the device on the server and inside.
	Path string `json:"path,omitempty"`
	// Permissions are r, w and m for read, write and mknod.
	Permissions string `json:"permissions,omitempty"`
}

// Probe asks a container how it is. Exactly one of Exec, HTTPGet and TCPSocket is set.
type Probe struct {
	// Exec runs a command inside; exit code 0 is success.
	Exec *ExecAction `json:"exec,omitempty"`
	// HTTPGet sends a request; a status from 200 to 399 is success.
	HTTPGet *HTTPGetAction `json:"httpGet,omitempty"`
	// TCPSocket opens a connection.
	TCPSocket *TCPSocketAction `json:"tcpSocket,omitempty"`
	// InitialDelaySeconds is the time from the start to the first probe.
	InitialDelaySeconds *int64 `json:"initialDelaySeconds,omitempty"`
	// PeriodSeconds is the time from one probe to the next.
	PeriodSeconds *int64 `json:"periodSeconds,omitempty"`
	// TimeoutSeconds is how long one probe may take.
	TimeoutSeconds *int64 `json:"timeoutSeconds,omitempty"`
	// SuccessThreshold is how many successes in a row count as success.
	SuccessThreshold *int64 `json:"successThreshold,omitempty"`
	// FailureThreshold is how many failures in a row count as failure.
	FailureThreshold *int64 `json:"failureThreshold,omitempty"`
	// TerminationGracePeriodSeconds replaces the container's for a stop that this probe causes.
	TerminationGracePeriodSeconds *int64 `json:"terminationGracePeriodSeconds,omitempty"`
}

// ExecAction is a command that is run inside.
type ExecAction struct {
	// Command is the program and its arguments; no shell is involved.
	Command []string `json:"command,omitempty"`
}

// HTTPGetAction is an HTTP request to the container.
type HTTPGetAction struct {
	// Path is the path of the URL; / where absent.
	Path string `json:"path,omitempty"`
	// Port is the number or the name of a port.
	Port PortRef `json:"port,omitempty"`
	// Host is sent as the host name.
	Host string `json:"host,omitempty"`
	// Scheme is HTTP or HTTPS (whose certificate is not checked); HTTP where absent.
	Scheme URIScheme `json:"scheme,omitempty"`
	// HTTPHeaders are sent with the request.
	HTTPHeaders []HTTPHeader `json:"httpHeaders,omitempty"`
}

// HTTPHeader is one header of a request.
type HTTPHeader struct {
	// Name of the header.
	Name string `json:"name,omitempty"`
	// Value of the header.
	Value string `json:"value,omitempty"`
}

// TCPSocketAction is a connection to the container.
type TCPSocketAction struct {
	// Port is the number or the name of a port.
	Port PortRef `json:"port,omitempty"`
	// Host is connected to instead of the container.
	Host string `json:"host,omitempty"`
}

// PortRef is the number or the name of a port, as written.
type PortRef string

// Lifecycle holds what is run at the edges of a container's life.
type Lifecycle struct {
	// PostStart is run right after each start.
	PostStart *Handler `json:"postStart,omitempty"`
	// PreStop is run before the stop signal is sent, within the grace period.
	PreStop *Handler `json:"preStop,omitempty"`
}

// Handler is one thing that is done at an edge of a container's life. Exactly one field is set.
type Handler struct {
	// Exec runs a command inside.
	Exec *ExecAction `json:"exec,omitempty"`
	// HTTPGet sends a request.
	HTTPGet *HTTPGetAction `json:"httpGet,omitempty"`
}

// InitContainer runs to completion before each start of its container.
type InitContainer struct {
	// Name tells it from the others.
	Name string `json:"name,omitempty"`
	// Image is the container's where absent.
	Image string `json:"image,omitempty"`
	// ImagePullPolicy is the container's where absent.
	ImagePullPolicy PullPolicy `json:"imagePullPolicy,omitempty"`
	// Command replaces the image's ENTRYPOINT and drops its CMD.
	Command []string `json:"command,omitempty"`
	// Args replaces the image's CMD.
	Args []string `json:"args,omitempty"`
	// WorkingDir is the directory that the command starts in.
	WorkingDir string `json:"workingDir,omitempty"`
	// Env is added to the container's.
	Env map[string]EnvValue `json:"env,omitempty"`
	// EnvFrom is added to the container's.
	EnvFrom []EnvFrom `json:"envFrom,omitempty"`
	// Mounts are the container's where absent.
	Mounts []Mount `json:"mounts,omitempty"`
	// SecurityContext is the container's where absent.
	SecurityContext *SecurityContext `json:"securityContext,omitempty"`
}

// RestartBackoff spaces out restarts: the first is at once, then Initial, doubling up to Max.
type RestartBackoff struct {
	// Initial is the delay of the second restart.
	Initial *Duration `json:"initial,omitempty"`
	// Max is the longest delay.
	Max *Duration `json:"max,omitempty"`
}

// Dependency names a workload that must be there first: written as NAME or NAMESPACE/NAME, or as {name, condition}.
type Dependency struct {
	// Name is NAME in the same namespace, or NAMESPACE/NAME; see ParseName.
	Name string `json:"name"`
	// Condition is Started, Healthy or Completed; absent: Healthy where it has a probe, else Started.
	Condition Condition `json:"condition,omitempty"`
}

// Strategy says how a new version takes the place of the old one.
type Strategy struct {
	// Type is StartFirst (new beside old) or Recreate (stop, then start).
	Type StrategyType `json:"type,omitempty"`
	// MinReadySeconds is how long a new container must stay ready.
	MinReadySeconds *int64 `json:"minReadySeconds,omitempty"`
	// ProgressDeadlineSeconds is how long a new container may take to become ready.
	ProgressDeadlineSeconds *int64 `json:"progressDeadlineSeconds,omitempty"`
	// Rollback goes back to the spec that ran before when an update fails.
	Rollback *bool `json:"rollback,omitempty"`
}

// SecurityContext says who the container's processes are and what they may do.
type SecurityContext struct {
	// HostUsers says whose user ids the container has: the server's (true) or a range of its own (false). Absent: its own
	// where the server can give it any.
	HostUsers *bool `json:"hostUsers,omitempty"`
	// RunAsUser is the user id; the image's user where absent.
	RunAsUser *int64 `json:"runAsUser,omitempty"`
	// RunAsGroup is the group id; the image's where absent.
	RunAsGroup *int64 `json:"runAsGroup,omitempty"`
	// SupplementalGroups are further group ids.
	SupplementalGroups []int64 `json:"supplementalGroups,omitempty"`
	// ReadOnlyRootFilesystem forbids writing outside of mounts.
	ReadOnlyRootFilesystem *bool `json:"readOnlyRootFilesystem,omitempty"`
	// AllowPrivilegeEscalation lets a program gain rights by setuid or file capabilities.
	AllowPrivilegeEscalation *bool `json:"allowPrivilegeEscalation,omitempty"`
	// Privileged lifts nearly every restriction.
	Privileged *bool `json:"privileged,omitempty"`
	// Capabilities changes the usual small set.
	Capabilities *Capabilities `json:"capabilities,omitempty"`
	// SeccompProfile is the filter on system calls.
	SeccompProfile *SeccompProfile `json:"seccompProfile,omitempty"`
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
	Type SeccompType `json:"type,omitempty"`
	// LocalhostProfile is the file of a Localhost profile, in the repository.
	LocalhostProfile string `json:"localhostProfile,omitempty"`
}

// Script is code from the commit: exactly one of the two.
type Script struct {
	// File is a file of the repository; after Load relative to its root.
	File string `json:"file,omitempty"`
	// Inline is the code itself.
	Inline string `json:"inline,omitempty"`
	// Content is what File held when it was loaded; it is not a field of the manifest.
	Content []byte `json:"content,omitempty" manifest:"-"`
}
