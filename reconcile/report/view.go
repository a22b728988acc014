package report

import (
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// View is everything that the reports are made from, as of one moment.
type View struct {
	Node     string
	Instance string
	Source   Source
	// State is what is kept on disk: the accepted set, histories, approvals.
	State journal.State
	// Observed is what Runtime.List said; ObservedError why it could not say anything.
	Observed      []runtime.Status
	ObservedError string
	// Health is what the probes say of those that run and have any.
	Health map[runtime.ID]plan.Health
	// Plan is what there is to do now, for the set in force.
	Plan plan.Plan
	// Working are the steps being carried out.
	Working map[manifest.Name]Activity
	// Fetch is how the last look at the source went. Its zero value: there was none yet.
	Fetch Fetch
	// Warnings are problems of this server that stop nothing, such as a state file that was repaired.
	Warnings []string
	Now      time.Time
}

// Source says where the manifests come from. The URL carries no credentials.
type Source struct {
	URL    string `json:"url"`
	Branch string `json:"branch"`
	Path   string `json:"path"`
}

// Fetch is how the last look at the source went.
type Fetch struct {
	Revision manifest.Revision // the newest seen
	Time     time.Time
	Error    string
	Hint     string // what a person can do about Error
	Gone     string // in one word, where Error says that what is followed is not there any more
	Next     time.Time
}

// Activity is a step being carried out.
type Activity struct {
	Op    plan.Op
	Phase Phase
	Since time.Time
	// What is being brought here, and how much of it: bytes, Total is 0 while unknown.
	What        string
	Done, Total int64
}

// progress says in words what is being brought here and how much of it is.
func (a Activity) progress() string {
	switch {
	case a.What == "" || a.Done == 0 && a.Total == 0:
		return a.What
	case a.Total == 0:
		return fmt.Sprintf("%s: %s", a.What, size(a.Done))
	default:
		return fmt.Sprintf("%s: %s of %s, %d %%", a.What, size(a.Done), size(a.Total), 100*min(a.Done, a.Total)/a.Total)
	}
}

func size(n int64) string {
	const mi = 1 << 20
	if n < mi {
		return fmt.Sprintf("%d KiB", (n+1<<10-1)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/mi)
}

// Phase is how far a step is.
type Phase string

// The phases of a step.
const (
	PhasePreparing Phase = "preparing" // pulling, unpacking, checking: nothing visible changed yet
	PhaseWaiting   Phase = "waiting"   // for what it depends on, or for its turn
	PhaseDraining  Phase = "draining"  // the connections of what goes are given time to end
	PhaseStopping  Phase = "stopping"
	PhaseStarting  Phase = "starting"
)

// The words for a container's state.
const (
	StatePending   = "Pending"
	StatePulling   = "Pulling"
	StateCreated   = "Created"
	StateRunning   = "Running"
	StateExited    = "Exited"
	StateCompleted = "Completed"
	StateRemoving  = "Removing"
)

// The words for health.
const (
	Healthy     = "Healthy"
	Progressing = "Progressing"
	Degraded    = "Degraded"
	Unknown     = "Unknown"
)

// The words for sync, besides Unknown.
const (
	Synced    = "Synced"
	OutOfSync = "OutOfSync"
	Blocked   = "Blocked"
	Suspended = "Suspended"
)

// Reasons that reports give beyond those of a plan and of a runtime.
const (
	ReasonRejected    = "Rejected"           // the newest commit cannot be used
	ReasonFetchFailed = "FetchFailed"        // the source could not be read
	ReasonUnavailable = "RuntimeUnavailable" // the containers cannot be listed
	ReasonOOMKilled   = "OOMKilled"
	ReasonNotReady    = "DependencyNotReady"
)
