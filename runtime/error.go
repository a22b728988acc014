package runtime

import (
	"errors"
	"strings"
)

// Error is what every method of a Runtime fails with.
type Error struct {
	Op   string // what was tried, such as "pull image docker.io/library/nginx:1.27"
	ID   ID     // the container it was about, if there was one
	Name Name   // its name, if known
	Err  error  // why it failed
	// Reason is the word for it that users see, such as ErrImagePull. Empty: CreateContainerError.
	Reason string
	// Permanent means that trying again without a change of the spec or the server is no use.
	Permanent bool
	// Hint says what a person can do. Empty where nobody knows.
	Hint string
}

// Reasons that errors carry in Error.Reason.
const (
	ReasonErrImagePull   = "ErrImagePull"
	ReasonInvalidImage   = "InvalidImage"
	ReasonIncompatible   = "Incompatible"
	ReasonNotAllowed     = "NotAllowed"
	ReasonVolumeConflict = "VolumeConflict"
	// ReasonDependencyNotReady is of a container that needs another one, which does not run.
	ReasonDependencyNotReady = "DependencyNotReady"
)

// Error returns "op: why". The hint is not part of it.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// ErrNotFound is wrapped by the error of a method whose container does not exist (but not of Remove and Stop, which
// have nothing to do then).
var ErrNotFound = errors.New("no such container")

// ErrNotRunning is wrapped by the error of a method that needs a running container where it is not.
var ErrNotRunning = errors.New("the container is not running")

// IsPermanent reports whether err says that trying again is no use.
func IsPermanent(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Permanent
}

// HintOf returns the hint that err carries, or "".
func HintOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}

// ReasonOf returns the reason that err carries, or ReasonStartFailed.
func ReasonOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Reason != "" {
		return e.Reason
	}
	return ReasonStartFailed
}
