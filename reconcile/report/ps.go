package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// Row is one container in ps.
type Row struct {
	Namespace       string     `json:"namespace"`
	Name            string     `json:"name"`
	Kind            string     `json:"kind"`
	ID              string     `json:"id"`
	State           string     `json:"state"`
	Health          string     `json:"health"`
	Reason          string     `json:"reason"`
	Message         string     `json:"message"`
	Ready           bool       `json:"ready"` // it runs, and its probes say so where it has any
	Pid             int        `json:"pid"`
	Restarts        int        `json:"restarts"`
	StartedAt       *time.Time `json:"startedAt"`
	FinishedAt      *time.Time `json:"finishedAt"`
	ExitCode        *int       `json:"exitCode"`
	OOMKilled       bool       `json:"oomKilled"`
	IP              string     `json:"ip"`
	MAC             string     `json:"mac"`
	Hostname        string     `json:"hostname"`
	Ports           []string   `json:"ports"`
	Image           string     `json:"image"`
	ImageDigest     string     `json:"imageDigest"`
	Digest          string     `json:"digest"`
	Revision        string     `json:"revision"`        // the commit that it runs as
	DesiredRevision string     `json:"desiredRevision"` // empty where it is not meant to be here
	NextRetryAt     *time.Time `json:"nextRetryAt"`
	NextRunAt       *time.Time `json:"nextRunAt"` // of a CronJob
}

// FullName returns the row's name with its namespace.
func (r Row) FullName() manifest.Name { return manifest.Name{Namespace: r.Namespace, Name: r.Name} }

// Rows returns one row for each name that is meant to be here or still is, sorted by namespace and name. With all, a
// name's other instances follow its row.
func Rows(v View, all bool) []Row {
	rows := []Row{}
	for _, s := range subjects(v) {
		rows = append(rows, s.row(v))
		if !all {
			continue
		}
		for i := range s.instances {
			if s.shown == nil || s.instances[i].ID != s.shown.ID {
				other := subject{name: s.spareName(s.instances[i]), want: s.want, spare: true}
				other.show(v, &s.instances[i])
				rows = append(rows, other.row(v))
			}
		}
	}
	return rows
}

// subject is everything that is known of one name.
type subject struct {
	name      manifest.Name
	want      *manifest.Workload // nil: not meant to be here
	instances []runtime.Status   // as Instances sorts them
	shown     *runtime.Status    // the instance that serves; nil: none is here
	hold      *plan.Hold
	step      *plan.Step
	working   *Activity
	history   plan.History
	health    plan.Health // of shown
	waits     bool        // what is shown is ready only once its probes say so
	runs      []run       // of a CronJob, the last one first; a Job has one
	runHold   *plan.Hold  // of a run
	next      time.Time   // when a CronJob is due
	spare     bool        // an instance beside the one that serves
}

// subjects gathers what the view says of each name, sorted.
func subjects(v View) []*subject {
	byName := map[manifest.Name]*subject{}
	at := func(n manifest.Name) *subject {
		s, ok := byName[n]
		if !ok {
			s = &subject{name: n}
			byName[n] = s
		}
		return s
	}
	if v.State.Accepted != nil {
		for i := range v.State.Accepted.Workloads {
			w := &v.State.Accepted.Workloads[i]
			at(w.Name).want = w
		}
	}
	for _, o := range v.Observed {
		if len(o.Spec.Origin) == 0 {
			continue // not of our making
		}
		s := at(plan.Owner(manifest.Name(o.Spec.Name)))
		s.instances = append(s.instances, o)
	}
	for i := range v.Plan.Held {
		hold := &v.Plan.Held[i]
		if s, ok := byName[hold.Name]; ok {
			s.hold = hold
		} else if s, ok := byName[plan.Owner(hold.Name)]; ok {
			s.runHold = hold
		}
	}
	for i := range v.Plan.Steps {
		if s, ok := byName[v.Plan.Steps[i].Name]; ok {
			s.step = &v.Plan.Steps[i]
		}
	}
	jobs(v, byName)
	list := make([]*subject, 0, len(byName))
	for n, s := range byName {
		if w, ok := v.Working[n]; ok {
			s.working = &w
		}
		h := v.State.Histories[n]
		if s.want != nil && h.Digest == s.want.Digest {
			s.history = h
		}
		if sortInstances(s.instances); len(s.instances) > 0 {
			s.show(v, &s.instances[0])
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *subject) int { return a.name.Compare(b.name) })
	return list
}

// show makes o the instance that is shown.
func (s *subject) show(v View, o *runtime.Status) {
	s.shown = o
	if w, err := manifest.DecodeWorkload(o.Spec.Origin); err == nil {
		s.waits = plan.IsProbed(w.Spec)
	}
	if h := v.Health[o.ID]; h.Starts == o.Starts {
		s.health = h
	}
}

// ready reports whether the instance that is shown runs and can serve.
func (s *subject) ready() bool {
	return s.shown != nil && s.shown.State == runtime.StateRunning && s.health.Failed == "" && (s.health.Ready || !s.waits)
}

// Instances returns the containers of a name, of a CronJob those of its runs: first the one that serves; then what runs before what does not, then the newest.
func Instances(list []runtime.Status, name manifest.Name) []runtime.Status {
	var found []runtime.Status
	for _, o := range list {
		if of := manifest.Name(o.Spec.Name); of == name || plan.Owner(of) == name {
			found = append(found, o)
		}
	}
	sortInstances(found)
	return found
}

func sortInstances(list []runtime.Status) {
	slices.SortStableFunc(list, func(a, b runtime.Status) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), b.CreatedAt.Compare(a.CreatedAt))
	})
}

func rank(s runtime.Status) int {
	switch {
	case s.State == runtime.StateRemoving:
		return 0
	case s.Serving:
		return 3
	case s.State == runtime.StateRunning:
		return 2
	default:
		return 1
	}
}

// current reports whether what is here was made from what is wanted.
func (s *subject) current() bool {
	return s.shown != nil && s.want != nil && s.shown.Spec.OriginDigest == s.want.Digest
}

func (s *subject) row(v View) Row {
	r := Row{
		Namespace: s.name.Namespace, Name: s.name.Name, Kind: string(manifest.KindContainer),
		Hostname: s.name.Name, Ports: []string{}, State: s.state(),
	}
	if s.want != nil {
		r.Kind, r.Digest = string(s.want.Kind), s.want.Digest
		r.DesiredRevision = v.State.Accepted.Revision.Commit
		if r.Image = s.want.Spec.Image; s.want.Spec.Capture != nil {
			r.Image = imageCapture
		}
	}
	if s.shown != nil {
		s.fill(&r)
	}
	r.Reason, r.Message = s.why()
	if s.hold != nil && !s.hold.Until.IsZero() && !s.spare {
		r.NextRetryAt = timeOrNil(s.hold.Until)
	}
	r.Ready, r.Health = s.ready(), s.healthOf(r.State)
	if s.isKind(manifest.KindCronJob) && !s.spare && r.State != StateSuspended {
		r.NextRunAt = timeOrNil(s.next)
	}
	return r
}

func (s *subject) fill(r *Row) {
	o := s.shown
	r.ID, r.Pid, r.Restarts = string(o.ID), o.Pid, max(0, o.Starts-1)
	r.StartedAt, r.FinishedAt = timeOrNil(o.StartedAt), timeOrNil(o.FinishedAt)
	r.ExitCode, r.OOMKilled = o.ExitCode, o.OOMKilled
	r.IP, r.MAC, r.Ports = o.IP, o.MAC, publishedPorts(*o)
	if o.Hostname != "" {
		r.Hostname = o.Hostname
	}
	r.Image, r.ImageDigest, r.Digest, r.Revision = imageOf(o.Spec), o.ImageDigest, o.Spec.OriginDigest, o.Spec.Revision
	if s.current() {
		r.Revision = r.DesiredRevision // what it was made from is what that commit says too
	}
	if w, err := manifest.DecodeWorkload(o.Spec.Origin); err == nil && w.Kind != "" {
		r.Kind = string(w.Kind)
	}
}

// publishedPorts says where a running container can be reached, as docker does: 0.0.0.0:80->8080/tcp.
func publishedPorts(o runtime.Status) []string {
	out := []string{}
	if o.State != runtime.StateRunning {
		return out
	}
	for _, p := range o.Spec.Ports {
		addresses := []netip.Addr{p.HostIP}
		if !p.HostIP.IsValid() { // every address, as far as the container has one of the family
			addresses = []netip.Addr{netip.IPv4Unspecified()}
			if o.IPv6 != "" {
				addresses = append(addresses, netip.IPv6Unspecified())
			}
		}
		for _, a := range addresses {
			out = append(out, fmt.Sprintf("%s->%d/%s", netip.AddrPortFrom(a, p.HostPort), p.ContainerPort, strings.ToLower(p.Protocol)))
		}
	}
	return out
}

func (s *subject) state() string {
	if s.working != nil && s.working.Op == plan.OpRemove && s.shown != nil {
		return StateRemoving
	}
	if state, ok := s.jobState(); ok {
		return state
	}
	switch {
	case s.shown == nil && s.working != nil && s.working.Phase == PhasePreparing:
		return StatePulling
	case s.shown == nil:
		return StatePending
	case s.shown.State == runtime.StateExited && s.done():
		return StateCompleted
	default:
		return string(s.shown.State)
	}
}

// done reports whether the instance ended well and nothing wants it to run again.
func (s *subject) done() bool {
	code := s.shown.ExitCode
	return code != nil && *code == 0 && !s.shown.Stopped &&
		s.want != nil && s.step == nil && s.working == nil && s.hold == nil
}

// why gives the reason in one word, and in a sentence.
func (s *subject) why() (reason, message string) {
	o := s.shown
	if reason, message, ok := s.jobWhy(); ok {
		return reason, message
	}
	switch {
	case s.hold != nil && !s.spare:
		return s.hold.Reason, s.hold.Message
	case s.history.Failures > 0 && !s.spare:
		return s.history.Reason, s.history.Error
	case o == nil && s.working != nil:
		return "", s.working.progress()
	case o == nil:
		return "", ""
	case o.Reason != "":
		return o.Reason, o.Message
	case o.State == runtime.StateExited && o.OOMKilled:
		return ReasonOOMKilled, ExitMessage(*o)
	case o.State == runtime.StateExited:
		return "", ExitMessage(*o)
	case o.State == runtime.StateRunning && !s.ready():
		return plan.ReasonNotReady, s.health.Message
	default:
		return "", o.Message
	}
}

// ExitMessage says in a sentence how a container ended.
func ExitMessage(o runtime.Status) string {
	switch {
	case o.ExitCode == nil:
		return "exited, nobody saw with what code"
	case o.Stopped:
		return fmt.Sprintf("stopped, exit code %d", *o.ExitCode)
	default:
		return fmt.Sprintf("exited with code %d", *o.ExitCode)
	}
}

func (s *subject) healthOf(state string) string {
	busy := s.working != nil || s.step != nil
	switch {
	case s.spare && s.shown.State != runtime.StateRunning:
		return Unknown // it is kept to be read, or to go back to
	case s.isKind(manifest.KindCronJob) && !s.spare:
		return s.cronHealth()
	case s.want == nil || s.spare:
		return Progressing // it is to go, or to take the place of the other
	case s.shown != nil && s.shown.Reason == runtime.ReasonSupervisorLost && !busy:
		return Unknown
	case s.hold != nil && (s.hold.Reason == ReasonNotReady || s.hold.Reason == plan.ReasonProgressing):
		return Progressing
	case s.hold != nil || s.history.Failures > 0:
		return Degraded
	case busy:
		return Progressing
	case state == StateRunning && !s.ready():
		return Progressing // the next plan says whether that takes too long
	case state == StateRunning && s.current(), state == StateCompleted:
		return Healthy
	case state == StateRunning || state == StatePending:
		return Progressing
	default:
		return Degraded
	}
}

func imageOf(spec runtime.Spec) string {
	if spec.Image != nil {
		return spec.Image.Ref
	}
	return imageCapture
}

// imageCapture stands for an image where the root file system is a capture of this server's files.
const imageCapture = "capture"

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// joinSentences joins what is known, leaving out what is not.
func joinSentences(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}
