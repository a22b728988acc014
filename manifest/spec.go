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

	// Network is bridge, host, none, or container:NAME to share another container's; bridge where absent.
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
	// Devices are device nodes of the server, below --allow-device.
	Devices []Device `json:"devices,omitempty"`
	// ShmSize is the size of /dev/shm.
	ShmSize *Bytes `json:"shmSize,omitempty"`
	// Ulimits are resource limits of each process by name, such as nofile; -1 is no limit.
	Ulimits map[string]int64 `json:"ulimits,omitempty"`
	// Sysctls are kernel parameters of the container's own namespaces: kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and
	// net.*, the last with a network of its own only.
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
	// Script is code from the commit that is run inside: by itself, or by command, which gets its path as the last argument.
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

// Script is code from the commit: exactly one of the two.
type Script struct {
	// File is a file of the repository; after Load relative to its root.
	File string `json:"file,omitempty"`
	// Inline is the code itself.
	Inline string `json:"inline,omitempty"`
	// Content is what File held when it was loaded; it is not a field of the manifest.
	Content []byte `json:"content,omitempty" manifest:"-"`
}
