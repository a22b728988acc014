package probe

import "reconciler/manifest"

// Reasons of a Note, in Kubernetes' words where it has them.
const (
	ReasonReady     = "Ready"
	ReasonUnhealthy = "Unhealthy"
	ReasonPostStart = "FailedPostStartHook"
	ReasonPreStop   = "FailedPreStopHook"
)

// Note is something about a container that is worth telling of.
type Note struct {
	Name    manifest.Name
	Commit  string // that the container was made from
	Reason  string
	Message string
	Warning bool
}

// note is a Note of a container that is known.
type note struct {
	reason, message string
	warning         bool
}
