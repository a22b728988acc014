package manifest

import (
	"slices"
	"strings"
	"time"
)

// The defaults of this release. A later release may have others: what runs is kept with what it was made from.
const (
	DefaultBackoffInitial     = 10 * time.Second
	DefaultBackoffMax         = 5 * time.Minute
	DefaultGracePeriodSeconds = 10
	DefaultLogSize            = 10 << 20 // bytes a file
	DefaultLogFiles           = 3
	DefaultShmSize            = 64 << 20 // bytes
	DefaultFileMode           = 0o644    // of the files of a Config or Secret
	DefaultProbePeriod        = 10       // seconds
	DefaultProbeTimeout       = 1        // seconds
	DefaultProbeFailures      = 3

	DefaultProgressDeadlineSeconds = 60

	DefaultBackoffLimit   = 6
	DefaultSuccessfulKept = 3 // runs of a CronJob
	DefaultFailedKept     = 1
)

// DefaultedFor is Defaulted with the defaults that only workloads of this kind have.
func DefaultedFor(kind Kind, s Spec) Spec {
	if kind != KindJob && kind != KindCronJob {
		return Defaulted(s)
	}
	orDefault(&s.RestartPolicy, RestartOnFailure)
	s.BackoffLimit = orPointer(s.BackoffLimit, DefaultBackoffLimit)
	if kind == KindJob {
		orDefault(&s.OnNewNode, OnNewNodeRun)
		return Defaulted(s)
	}
	orDefault(&s.ConcurrencyPolicy, ConcurrencyAllow)
	s.Suspend = orPointer(s.Suspend, false)
	s.SuccessfulJobsHistoryLimit = orPointer(s.SuccessfulJobsHistoryLimit, DefaultSuccessfulKept)
	s.FailedJobsHistoryLimit = orPointer(s.FailedJobsHistoryLimit, DefaultFailedKept)
	return Defaulted(s)
}

// Defaulted returns s with this release's defaults where the manifest does not say; s is not changed. What the image
// decides (command, user, working directory, stop signal) and what the name decides (host name) stays absent, as does what another manifest decides (the condition of a dependency).
func Defaulted(s Spec) Spec {
	orDefault(&s.ImagePullPolicy, pullPolicyOf(s.Image))
	orDefault(&s.Network, NetworkBridge)
	orDefault(&s.RestartPolicy, RestartAlways)
	s.Init = orPointer(s.Init, false)
	s.TerminationGracePeriodSeconds = orPointer(s.TerminationGracePeriodSeconds, DefaultGracePeriodSeconds)
	s.ShmSize = orPointer(s.ShmSize, DefaultShmSize)

	s.StartupProbe, s.ReadinessProbe = defaultedProbe(s.StartupProbe), defaultedProbe(s.ReadinessProbe)
	s.LivenessProbe = defaultedProbe(s.LivenessProbe)

	logs := valueOf(s.Logs)
	logs.MaxSize = orPointer(logs.MaxSize, DefaultLogSize)
	logs.MaxFiles = orPointer(logs.MaxFiles, DefaultLogFiles)
	s.Logs = &logs

	backoff := valueOf(s.RestartBackoff)
	backoff.Initial = orPointer(backoff.Initial, Duration(DefaultBackoffInitial))
	backoff.Max = orPointer(backoff.Max, Duration(DefaultBackoffMax))
	s.RestartBackoff = &backoff

	s.Strategy = defaultedStrategy(s)

	resources := valueOf(s.Resources)
	limits := valueOf(resources.Limits)
	resources.Limits = &limits
	s.Resources = &resources

	s.SecurityContext = defaultedSecurity(s.SecurityContext)
	s.Mounts = defaultedMounts(s.Mounts)
	s.InitContainers = defaultedInits(s)
	s.Capture = defaultedCapture(s.Capture)
	s.Devices = slices.Clone(s.Devices)
	for i := range s.Devices {
		orDefault(&s.Devices[i].Permissions, "rw")
	}
	s.Ports = slices.Clone(s.Ports)
	for i := range s.Ports {
		orDefault(&s.Ports[i].Protocol, ProtocolTCP)
	}
	return s
}

// Requested returns what is set aside for the container: its requests and, where it has none, its limits. Defaulted leaves
// them apart, so that a limit that changes is one change.
func (s Spec) Requested() Requests {
	resources := valueOf(s.Resources)
	requests, limits := valueOf(resources.Requests), valueOf(resources.Limits)
	orDefault(&requests.CPU, limits.CPU)
	orDefault(&requests.Memory, limits.Memory)
	return requests
}

// defaultedProbe has Kubernetes' defaults.
func defaultedProbe(given *Probe) *Probe {
	if given == nil {
		return nil
	}
	p := *given
	p.InitialDelaySeconds = orPointer(p.InitialDelaySeconds, 0)
	p.PeriodSeconds = orPointer(p.PeriodSeconds, DefaultProbePeriod)
	p.TimeoutSeconds = orPointer(p.TimeoutSeconds, DefaultProbeTimeout)
	p.SuccessThreshold = orPointer(p.SuccessThreshold, 1)
	p.FailureThreshold = orPointer(p.FailureThreshold, DefaultProbeFailures)
	return &p
}

func defaultedSecurity(given *SecurityContext) *SecurityContext {
	sc := valueOf(given)
	sc.ReadOnlyRootFilesystem = orPointer(sc.ReadOnlyRootFilesystem, false)
	sc.Privileged = orPointer(sc.Privileged, false)
	sc.AllowPrivilegeEscalation = orPointer(sc.AllowPrivilegeEscalation, *sc.Privileged)
	profile := valueOf(sc.SeccompProfile)
	appArmor := valueOf(sc.AppArmorProfile)
	usual := ProfileRuntimeDefault
	if *sc.Privileged {
		usual = ProfileUnconfined
	}
	orDefault(&profile.Type, usual)
	orDefault(&appArmor.Type, usual)
	sc.SeccompProfile, sc.AppArmorProfile = &profile, &appArmor
	caps := valueOf(sc.Capabilities)
	sc.Capabilities = &caps
	return &sc
}

// defaultedInits leaves absent what an init container has of its container. s is defaulted but for them.
func defaultedInits(s Spec) []InitContainer {
	inits := slices.Clone(s.InitContainers)
	for i := range inits {
		ic := &inits[i]
		policy := s.ImagePullPolicy
		if ic.Image != "" {
			policy = pullPolicyOf(ic.Image)
		}
		orDefault(&ic.ImagePullPolicy, policy)
		ic.Mounts = defaultedMounts(ic.Mounts)
		if ic.SecurityContext != nil {
			ic.SecurityContext = defaultedSecurity(ic.SecurityContext)
		}
	}
	return inits
}

func defaultedMounts(given []Mount) []Mount {
	mounts := slices.Clone(given)
	for i := range mounts {
		m := &mounts[i]
		switch {
		case m.Config != "", m.Secret != "":
			m.Mode = orPointer(m.Mode, FileMode(DefaultFileMode))
			m.OnChange = orPointer(m.OnChange, OnChange{Action: OnChangeRestart})
		case m.Volume != nil:
			m.Shared = orPointer(m.Shared, false)
			m.ReadOnly = orPointer(m.ReadOnly, false)
		case m.HostPath != "":
			m.ReadOnly = orPointer(m.ReadOnly, false)
		}
	}
	return mounts
}

func defaultedCapture(given *Capture) *Capture {
	if given == nil {
		return nil
	}
	paths := slices.Clone(given.Paths)
	for i := range paths {
		orDefault(&paths[i].To, paths[i].From)
	}
	return &Capture{Paths: paths}
}

// pullPolicyOf is Kubernetes' rule: a reference that says nothing, or latest, is looked up again.
func pullPolicyOf(image string) PullPolicy {
	if image == "" || strings.Contains(image, "@") {
		return PullIfNotPresent
	}
	for _, prefix := range []string{imageOCI, imageOCIArchive, imageDockerArchive} {
		if strings.HasPrefix(image, prefix) {
			return PullIfNotPresent
		}
	}
	_, last, found := strings.Cut(image[strings.LastIndexByte(image, '/')+1:], ":")
	if !found || last == "latest" {
		return PullAlways
	}
	return PullIfNotPresent
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func orPointer[T any](v *T, def T) *T {
	if v != nil {
		return v
	}
	return &def
}

func valueOf[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
