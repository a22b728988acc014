package manifest

// Probe asks a container how it is. Exactly one of Exec, HTTPGet and TCPSocket is set.
type Probe struct {
	// Exec runs a command inside; exit code 0 is success.
	Exec *ExecAction `json:"exec,omitempty"`
	// HTTPGet sends a request; a status from 200 to 399 is success.
	HTTPGet *HTTPGetAction `json:"httpGet,omitempty"`
	// TCPSocket opens a connection.
	TCPSocket *TCPSocketAction `json:"tcpSocket,omitempty"`
	// InitialDelaySeconds is the time from the start, or from the startup probe's success, to the first probe; 0 where absent.
	InitialDelaySeconds *int64 `json:"initialDelaySeconds,omitempty"`
	// PeriodSeconds is the time from one probe to the next; 10 where absent.
	PeriodSeconds *int64 `json:"periodSeconds,omitempty"`
	// TimeoutSeconds is how long one probe may take; 1 where absent.
	TimeoutSeconds *int64 `json:"timeoutSeconds,omitempty"`
	// SuccessThreshold is how many successes in a row count as success; 1 where absent.
	SuccessThreshold *int64 `json:"successThreshold,omitempty"`
	// FailureThreshold is how many failures in a row count as failure; 3 where absent.
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
	// Host is connected to, and named in the request, instead of the container; a header Host only names another.
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
