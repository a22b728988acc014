package runtime

// InitContainer runs to completion before each start of its container, one after the other: with the container's user ids,
// in its network, held to its limits. If one fails, the start failed with ReasonInitFailed.
type InitContainer struct {
	Name  string `json:"name"`
	Image *Image `json:"image,omitempty"` // nil: the container's image or capture

	Command    []string `json:"command,omitempty"` // replaces ENTRYPOINT and drops CMD
	Args       []string `json:"args,omitempty"`    // replaces CMD
	WorkingDir string   `json:"workingDir,omitempty"`
	// Env and EnvFrom are all of its variables, those of the container that it has too among them.
	Env     []EnvVar    `json:"env,omitempty"`
	EnvFrom []EnvSource `json:"envFrom,omitempty"`
	Mounts  []Mount     `json:"mounts,omitempty"` // none: the container's
	// Security is nil for the container's. Its HostUsers and Privileged give no other user ids than the container has.
	Security *Security `json:"security,omitempty"`
}

// Reasons that have to do with init containers.
const (
	ReasonInitFailed   = "InitContainerFailed"
	ReasonInitializing = "Initializing" // of a container whose init containers run now
)

// ForInit returns the spec that an init container runs with: the container's, but for what it says itself and what only
// the container is.
func (s Spec) ForInit(ic InitContainer) Spec {
	s.InitContainers, s.Ports, s.Origin, s.OriginDigest = nil, nil, nil, ""
	s.Command, s.Args, s.WorkingDir = ic.Command, ic.Args, ic.WorkingDir
	s.Env, s.EnvFrom = ic.Env, ic.EnvFrom
	// Process 1 is an init, so that one that says nothing of signals ends on the stop signal of its own image.
	s.Init, s.StopSignal = true, ""
	if ic.Image != nil {
		s.Image, s.Capture = ic.Image, nil
	}
	if len(ic.Mounts) > 0 {
		s.Mounts = ic.Mounts
	}
	if ic.Security != nil {
		s.Security = *ic.Security
	}
	return s
}
