package manifest

import "strings"

// PullPolicy says when an image reference is looked up in its registry.
type PullPolicy string

// The pull policies.
const (
	PullAlways       PullPolicy = "Always"
	PullIfNotPresent PullPolicy = "IfNotPresent"
	PullNever        PullPolicy = "Never"
)

func (PullPolicy) words() []string {
	return []string{string(PullAlways), string(PullIfNotPresent), string(PullNever)}
}

// Network is how a container reaches the world: one of the constants, or container:NAME.
type Network string

// The networks.
const (
	NetworkBridge Network = "bridge" // an address of its own
	NetworkHost   Network = "host"   // the server's
	NetworkNone   Network = "none"   // loopback only
	// NetworkContainer is the prefix of container:NAME.
	NetworkContainer = "container:"
)

// SharedWith returns the name of the container whose network this is; false where it is none's.
func (n Network) SharedWith() (string, bool) {
	return strings.CutPrefix(string(n), NetworkContainer)
}

// RestartPolicy says after which exits a container is started again.
type RestartPolicy string

// The restart policies.
const (
	RestartAlways    RestartPolicy = "Always"
	RestartOnFailure RestartPolicy = "OnFailure"
	RestartNever     RestartPolicy = "Never"
)

func (RestartPolicy) words() []string {
	return []string{string(RestartAlways), string(RestartOnFailure), string(RestartNever)}
}

// Condition is what a dependency waits for.
type Condition string

// The conditions.
const (
	ConditionStarted   Condition = "Started"
	ConditionHealthy   Condition = "Healthy"
	ConditionCompleted Condition = "Completed"
)

func (Condition) words() []string {
	return []string{string(ConditionStarted), string(ConditionHealthy), string(ConditionCompleted)}
}

// StrategyType says how a new version takes the place of the old one.
type StrategyType string

// The strategies.
const (
	StrategyStartFirst StrategyType = "StartFirst"
	StrategyRecreate   StrategyType = "Recreate"
)

func (StrategyType) words() []string {
	return []string{string(StrategyStartFirst), string(StrategyRecreate)}
}

// ProfileType says where a filter on system calls or an AppArmor profile comes from.
type ProfileType string

// The types of profile.
const (
	ProfileRuntimeDefault ProfileType = "RuntimeDefault"
	ProfileUnconfined     ProfileType = "Unconfined"
	ProfileLocalhost      ProfileType = "Localhost"
)

func (ProfileType) words() []string {
	return []string{string(ProfileRuntimeDefault), string(ProfileUnconfined), string(ProfileLocalhost)}
}

// Protocol is what a port speaks.
type Protocol string

// The protocols.
const (
	ProtocolTCP Protocol = "TCP"
	ProtocolUDP Protocol = "UDP"
)

func (Protocol) words() []string { return []string{string(ProtocolTCP), string(ProtocolUDP)} }

// URIScheme is how an HTTP probe asks.
type URIScheme string

// The schemes.
const (
	SchemeHTTP  URIScheme = "HTTP"
	SchemeHTTPS URIScheme = "HTTPS"
)

func (URIScheme) words() []string { return []string{string(SchemeHTTP), string(SchemeHTTPS)} }

// OnNewNode says whether a server that first starts after the commit runs a Job.
type OnNewNode string

// What a new node does with a Job.
const (
	OnNewNodeRun  OnNewNode = "Run"
	OnNewNodeSkip OnNewNode = "Skip"
)

func (OnNewNode) words() []string { return []string{string(OnNewNodeRun), string(OnNewNodeSkip)} }

// ConcurrencyPolicy says what happens when a run of a CronJob is due while another runs.
type ConcurrencyPolicy string

// The concurrency policies.
const (
	ConcurrencyAllow   ConcurrencyPolicy = "Allow"
	ConcurrencyForbid  ConcurrencyPolicy = "Forbid"
	ConcurrencyReplace ConcurrencyPolicy = "Replace"
)

func (ConcurrencyPolicy) words() []string {
	return []string{string(ConcurrencyAllow), string(ConcurrencyForbid), string(ConcurrencyReplace)}
}
