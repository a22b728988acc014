package plan

import (
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Input is everything that a decision depends on. Compute reads nothing else: no clock, no disk, no kernel.
type Input struct {
	// Desired is what the commit in question asks of this node.
	Desired manifest.Set
	// Accepted is the set in force so far, which the guards compare Desired with; nil before the first one.
	Accepted *manifest.Set
	// Observed is what Runtime.List said.
	Observed []runtime.Status
	// History is what failed before and when, by name. Absent: nothing did.
	History map[manifest.Name]History
	// Health is what the probes say of running containers. One that is not in it was not probed since it started: it is
	// neither ready nor failed yet where it has probes. Nil: nobody probes, and everything that runs counts as ready.
	Health map[runtime.ID]Health
	// InFlight are the steps being carried out now.
	InFlight map[manifest.Name]InFlight
	// ImageDigests are the digests that references were last resolved to in their registries, for PullAlways: of the
	// platform's manifest, as in Prepared.ImageDigest. A reference that is not in it was not looked up.
	ImageDigests map[string]string
	// SecretDigests identify the present content of each Secret's directory (keyed, so that they tell nothing), by
	// directory. One that is not in it could not be read, and replaces nothing.
	SecretDigests map[string]string
	// Facts are what this server is; Policy is what its administrator allows.
	Facts  Facts
	Policy Policy
	// Approved are the commits that somebody let through on this node.
	Approved map[string]bool
	// Ancestry says how Desired.Revision follows the last applied commit.
	Ancestry Ancestry
	// KeptNode is the node name kept at first start; empty before.
	KeptNode string
	// Ledger is what is remembered of Jobs and CronJobs: see Ledger.Advance.
	Ledger Ledger
	// Lowered, if not nil, holds what workloads were lowered to for the plan before.
	Lowered *Lowered
	// Now is the present time; Boot and BootID are as in Clock. By a time before NotBefore no CronJob runs.
	Now       time.Time
	Boot      time.Duration
	BootID    string
	NotBefore time.Time
}

// Ancestry says how a commit relates to the one that was applied last.
type Ancestry string

// The relations.
const (
	AncestryForward Ancestry = ""          // the same, a descendant, or the first
	AncestryMoved   Ancestry = "moved"     // not a descendant: the branch was moved
	AncestryUnknown Ancestry = "unrelated" // the last applied commit is not in the repository
)

// Facts are what the server is.
type Facts struct {
	Architecture string // in the words of OCI, such as amd64
	Variant      string
	Kernel       string // such as 6.1.0-28-cloud-amd64
	// Capacity is what the server has in all; 0: not known, and then nothing is held for want of it.
	Capacity Amounts
	// Taken are the ports that others have. See WantsPorts.
	Taken []TakenPort
}

// Policy is what the administrator of this server allows.
type Policy struct {
	// MaxRemove is the share of this node's containers, in percent, that one commit may remove without approval.
	MaxRemove       int
	AllowCapture    []string // path prefixes
	AllowHostPath   []string // path prefixes
	AllowSecretPath []string // path prefixes
	AllowDevice     []string // paths, or path prefixes
	AllowPrivileged bool
	// Reserve is what of Facts.Capacity is not for containers.
	Reserve Amounts
}

// Unrestricted returns a policy that allows all that an administrator can allow, and the removal of maxRemove percent:
// for plans that are made where it is not known what he does allow.
func Unrestricted(maxRemove int) Policy {
	all := []string{"/"}
	return Policy{MaxRemove: maxRemove, AllowCapture: all, AllowHostPath: all, AllowSecretPath: all, AllowPrivileged: true}
}

// History is what is remembered of a name between plans: failures of steps, crashes, and restarts. Compute only reads
// it; Failed and Restarted say what it becomes.
type History struct {
	// Digest is of the workload that failed, empty for a removal that failed; a History of another digest gates
	// nothing.
	Digest string `json:"digest,omitempty"`
	// Failures counts failed steps in a row; LastFailure is when the last one failed, Error why, Reason in one word.
	Failures    int       `json:"failures,omitempty"`
	LastFailure time.Time `json:"lastFailure,omitzero"`
	Error       string    `json:"error,omitempty"`
	Hint        string    `json:"hint,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	Permanent   bool      `json:"permanent,omitempty"`
	// NextTry is when a failed step may be tried again. Zero with Permanent: when the digest changes, or on retry.
	NextTry time.Time `json:"nextTry,omitzero"`
	// Crashes counts the restarts after exits in a row without a long run between them, whatever the digest: it sets
	// the delay of the next one. Restarted counts it up when a restart begins.
	Crashes int `json:"crashes,omitempty"`
	// Restart asks for one restart at the next chance (the restart verb), whatever the digest. The shell clears it
	// when a step that starts the name's container anew is done.
	Restart bool `json:"restart,omitempty"`
	// Good is the container of the name that proved itself last: an update goes back to it when the new one does not.
	Good runtime.ID `json:"good,omitempty"`
	// FailedID is the container of the last update that failed. It is kept, stopped, so that its output can be read.
	FailedID runtime.ID `json:"failedID,omitempty"`
	// Attempt tells tries of one digest apart that failed, with ReasonRolledBack: what its image meant, what its Secrets held.
	Attempt string `json:"attempt,omitempty"`
	// Undo is why going back, or taking away what is left of an update, did not work.
	Undo Trouble `json:"undo,omitzero"`
}

// Trouble is a thing that failed and is tried again.
type Trouble struct {
	Failures int       `json:"failures"`
	Next     time.Time `json:"next"`
	Reason   string    `json:"reason"`
	Error    string    `json:"error"`
}

// Health is what the probes say of one start of a container.
type Health struct {
	// Starts says which: the Starts that its Status has. A Health of another start says nothing.
	Starts int `json:"starts"`
	// PostStarted is true once its postStart hook was run; nothing is asked before that.
	PostStarted bool `json:"postStarted,omitempty"`
	// Started is true once, after that, the startup probe succeeded; Ready while the readiness probe does besides, and ReadyFor
	// how long already. All are true of a container without such a hook or probe.
	Started  bool          `json:"started"`
	Ready    bool          `json:"ready"`
	ReadyFor time.Duration `json:"readyFor,omitempty"`
	// Failed says why it must be started again, where its startup or liveness probe gave it up or its postStart hook failed;
	// Grace is what it is given to end then, if not its own.
	Failed string         `json:"failed,omitempty"`
	Grace  *time.Duration `json:"grace,omitempty"`
	// Message is what the last probe that did not succeed said.
	Message string `json:"message,omitempty"`
}

// IsProbed reports whether a container that was made from s is started and ready only once its Health says so.
func IsProbed(s manifest.Spec) bool {
	return s.StartupProbe != nil || s.ReadinessProbe != nil || s.Lifecycle != nil && s.Lifecycle.PostStart != nil
}

// InFlight is a step that is being carried out.
type InFlight struct {
	Op     Op
	Digest string // Step.Workload.Digest: what it brings about; empty for a removal
	// Requests are RequestedBy of Step.Workload; Beside is the step's.
	Requests Amounts
	Beside   bool
}

// Op is what a Step does.
type Op string

// The operations.
const (
	OpCreate  Op = "create"  // nothing that could be kept is here: prepare, take away Remove, create, start
	OpReplace Op = "replace" // prepare the new, stop Stop, take away Remove, create and start the new
	OpUpdate  Op = "update"  // Runtime.Update of ID with Spec: the process is not touched
	OpRestart Op = "restart" // take away Remove, stop Stop, which is ID if it runs, start ID
	OpRemove  Op = "remove"  // stop and take away Remove; the name may keep another container (Step.ID)

	OpEnd      Op = "end"      // stop Stop, which is over, and keep it
	OpSwitch   Op = "switch"   // ID answers for the name from now on
	OpRollback Op = "rollback" // stop Stop, take away Remove, ID answers for the name again, and is started where Start says so
)

// Plan is what to do now. An empty one means that what should run does.
type Plan struct {
	Revision manifest.Revision `json:"revision"`
	// Blocked is why the desired set may not be applied; Steps then keep the accepted set alive.
	Blocked *Block `json:"blocked"`
	// Steps in the order they should be shown and begun; Step.After says what they really wait for.
	Steps []Step `json:"steps"`
	// Cancel are names whose step in flight brings about something that is not wanted any more: it is to be ended
	// before a step of the same name begins.
	Cancel []manifest.Name `json:"cancel,omitempty"`
	// Held are names that are not as they should be, with nothing to do for them now.
	Held []Hold `json:"held,omitempty"`
	// Proven are containers that are now the good ones of their names, and Failed updates that failed. The shell keeps both
	// in the names' histories (see Proved and RolledBack) before it begins a step: what undoes an update comes after it is
	// known for good that it failed.
	Proven []Proof   `json:"proven,omitempty"`
	Failed []Failure `json:"failed,omitempty"`
	// Unready are names of which nothing serves while their new container is not ready: they count as unavailable.
	Unready []manifest.Name `json:"unready,omitempty"`
	// Wake is when to plan again though nothing happens; zero: no need.
	Wake time.Time `json:"wake,omitzero"`
}

// Proof is a container that proved itself.
type Proof struct {
	Name manifest.Name `json:"name"`
	ID   runtime.ID    `json:"id"`
}

// Failure is an update that did not prove itself, and is gone back from.
type Failure struct {
	Name    manifest.Name `json:"name"`
	Digest  string        `json:"digest"`
	Attempt string        `json:"attempt,omitempty"`
	ID      runtime.ID    `json:"id"` // the container that failed
	Message string        `json:"message"`
}

// Block is a guard that said no.
type Block struct {
	Reason  string `json:"reason"`  // UnknownNode, Emptying, MovedBranch, NodeRenamed
	Message string `json:"message"` // what would happen, and what to do to let it
}

// Step is one thing to do for one name.
type Step struct {
	Op   Op            `json:"op"`
	Name manifest.Name `json:"name"`
	// Workload is what the step brings about; zero for a removal. Spec is what it lowers to, with Revision, pinned
	// image and secrets' digests filled in; for a restart the container's own spec.
	Workload manifest.Workload `json:"-"`
	Spec     runtime.Spec      `json:"-"`
	// ID is the container that an update, restart, switch or rollback is for, or that stays where a leftover is removed.
	ID runtime.ID `json:"-"`
	// Stop are containers that are stopped and stay.
	Stop []Removal `json:"-"`
	// Good is the container that counts until the one that a replacement makes has proved itself; empty: none does. With
	// Beside it runs on; with GoesBack it is gone back to where the new one fails.
	Good             runtime.ID `json:"-"`
	Beside, GoesBack bool       `json:"-"`
	// Start says that a rollback starts ID.
	Start bool `json:"-"`
	// Crash says that a restart of what runs counts as one after a crash: its probes gave it up.
	Crash bool `json:"-"`
	// Remove are the containers that go, with the grace period each is given.
	Remove  []Removal         `json:"-"`
	Reason  string            `json:"reason"` // for people: "image changed: web:1.4 -> web:1.5"
	Changes []manifest.Change `json:"changes,omitempty"`
	// After are names whose steps, in this plan or in flight, must be done before this one may begin (preparation may
	// begin at once). If one of them fails, this one is dropped: the next plan says what becomes of it.
	After []manifest.Name `json:"after,omitempty"`
}

// Removal is a container that a step takes away.
type Removal struct {
	ID    runtime.ID
	Grace time.Duration
	// Drain gives established connections time to end, up to Grace, before it is stopped.
	Drain bool
	// Ended says that it has ended already: there is nothing to stop.
	Ended bool
}

// Hold is a name that is not as it should be and why nothing is done for it now.
type Hold struct {
	Name    manifest.Name `json:"name"`
	Reason  string        `json:"reason"` // CrashLoopBackOff, ImagePullBackOff, DependencyNotReady, NotAllowed, …
	Message string        `json:"message"`
	// Until is when it is tried again; zero: when something changes.
	Until time.Time `json:"until,omitzero"`
}
