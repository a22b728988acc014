package report

import (
	"fmt"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// Status is how the node is as a whole.
type Status struct {
	Node       string     `json:"node"`
	Instance   string     `json:"instance"`
	Source     Source     `json:"source"`
	Fetched    *Revision  `json:"fetched"`  // was seen
	Accepted   *Revision  `json:"accepted"` // is valid and in force
	Applied    *Revision  `json:"applied"`  // is what runs
	Sync       string     `json:"sync"`
	Health     string     `json:"health"`
	Reason     string     `json:"reason"`
	Message    string     `json:"message"`
	LastFetch  LastFetch  `json:"lastFetch"`
	NextFetch  *time.Time `json:"nextFetch"`
	Plan       string     `json:"plan"` // ID of the plan that is being carried out; empty: nothing to do
	Containers Counts     `json:"containers"`
	Warnings   []string   `json:"warnings"`
}

// Revision is a commit as status shows it.
type Revision struct {
	Commit  string     `json:"commit"`
	Author  string     `json:"author"`
	Subject string     `json:"subject"`
	Time    *time.Time `json:"time"` // null where there is none, as of a directory
}

// LastFetch is how the last look at the source went.
type LastFetch struct {
	Time  *time.Time `json:"time"`
	OK    bool       `json:"ok"`
	Error string     `json:"error"`
	Hint  string     `json:"hint"`
}

// Counts are numbers of containers.
type Counts struct {
	Desired int `json:"desired"`
	Running int `json:"running"`
	Healthy int `json:"healthy"`
}

// StatusOf sums v up.
func StatusOf(v View) Status {
	s := Status{
		Node: v.Node, Instance: v.Instance, Source: v.Source,
		Fetched: revisionOrNil(v.Fetch.Revision), Accepted: revisionOrNil(v.State.AcceptedRevision),
		Applied: revisionOrNil(v.State.Applied),
		LastFetch: LastFetch{
			Time: timeOrNil(v.Fetch.Time), OK: v.Fetch.Error == "" && !v.Fetch.Time.IsZero(),
			Error: v.Fetch.Error, Hint: v.Fetch.Hint,
		},
		NextFetch: timeOrNil(v.Fetch.Next), Warnings: append([]string{}, v.Warnings...),
	}
	if v.State.Accepted != nil {
		s.Accepted = revisionOrNil(v.State.Accepted.Revision)
		for _, w := range v.State.Accepted.Warnings {
			s.Warnings = append(s.Warnings, w.Error())
		}
	}
	if len(v.Plan.Steps) > 0 {
		s.Plan = v.Plan.ID()
	}
	list := subjects(v)
	s.count(v, list)
	s.Health = healthOf(v, list)
	s.Sync, s.Reason, s.Message = syncOf(v, list)
	return s
}

func (s *Status) count(v View, list []*subject) {
	for _, sub := range list {
		if sub.want != nil {
			s.Containers.Desired++
		}
		if sub.shown != nil && sub.shown.State == runtime.StateRunning {
			s.Containers.Running++
		}
		if sub.want != nil && sub.row(v).Health == Healthy {
			s.Containers.Healthy++
		}
	}
}

// healthOf is the worst health of any container.
func healthOf(v View, list []*subject) string {
	if v.ObservedError != "" || v.State.Accepted == nil {
		return Unknown
	}
	worst := Healthy
	order := map[string]int{Healthy: 0, Unknown: 1, Progressing: 2, Degraded: 3}
	for _, sub := range list {
		if h := sub.row(v).Health; order[h] > order[worst] {
			worst = h
		}
	}
	return worst
}

// syncOf says whether what runs is what the newest commit says, and if not, why.
func syncOf(v View, list []*subject) (sync, reason, message string) {
	accepted := v.State.Accepted
	fetched := v.Fetch.Revision.Commit
	fetchReason, fetchMessage := "", ""
	if v.Fetch.Error != "" {
		fetchReason = ReasonFetchFailed
		fetchMessage = v.Fetch.Error
		if !v.Fetch.Next.IsZero() {
			fetchMessage += "; next try at " + v.Fetch.Next.UTC().Format(time.RFC3339)
		}
	}
	behind := accepted != nil && fetched != "" && fetched != accepted.Revision.Commit
	switch {
	case v.State.Down:
		return Suspended, "Down", joinSentences("everything was taken down; bring it back with: reconciler resume", fetchMessage)
	case v.ObservedError != "":
		return Unknown, ReasonUnavailable, v.ObservedError
	case v.State.Suspended:
		return Suspended, Suspended, joinSentences("syncing is suspended; let it go on with: reconciler resume", fetchMessage)
	case v.Fetch.Gone != "" && accepted != nil:
		return Blocked, v.Fetch.Gone, joinSentences(fetchMessage, orElse(v.Fetch.Hint, "nothing is removed"))
	case v.Plan.Blocked != nil:
		return Blocked, v.Plan.Blocked.Reason, v.Plan.Blocked.Message
	case v.State.Rejected.Revision.Commit != "":
		return OutOfSync, ReasonRejected, fmt.Sprintf("commit %s cannot be used: %s",
			v.State.Rejected.Revision.Short(), v.State.Rejected.Message)
	case accepted == nil:
		return Unknown, fetchReason, fetchMessage
	case behind:
		return OutOfSync, fetchReason, fetchMessage
	}
	for _, sub := range list {
		if !sub.settled() {
			reason, message = sub.why()
			if message != "" {
				message = sub.name.Short() + ": " + message
			}
			return OutOfSync, orElse(reason, fetchReason), joinSentences(message, fetchMessage)
		}
	}
	for _, sub := range list {
		if row := sub.row(v); row.Health == Degraded {
			return Synced, orElse(row.Reason, fetchReason), joinSentences(sub.name.Short()+": "+row.Message, fetchMessage)
		}
	}
	return Synced, fetchReason, fetchMessage
}

// settled reports whether a name is as it should be, or was refused for good.
func (s *subject) settled() bool {
	switch {
	case s.want == nil || s.step != nil || s.working != nil:
		return false
	case s.hold != nil && (s.hold.Reason == plan.ReasonProgressing || s.hold.Reason == plan.ReasonRolledBack):
		return false
	case s.isKind(manifest.KindCronJob) || s.result() != "":
		return true
	case s.current():
		return len(s.instances) == 1
	default:
		return s.hold != nil && s.hold.Until.IsZero() && s.hold.Reason != ReasonNotReady
	}
}

// Converged reports whether nothing is left to do, and if so, whether every container is as it should be. why says
// what is not.
func Converged(v View) (done, healthy bool, why string) {
	v = withoutRuns(v)
	if v.ObservedError != "" || v.State.Accepted == nil || len(v.Plan.Steps) > 0 || len(v.Working) > 0 {
		return false, false, ""
	}
	if slices.ContainsFunc(v.Plan.Held, func(h plan.Hold) bool { return h.Reason == plan.ReasonProgressing }) {
		return false, false, ""
	}
	healthy = true
	for _, sub := range subjects(v) {
		row := sub.row(v)
		if row.Health == Healthy {
			continue
		}
		healthy = false
		why = joinSentences(why, joinSentences(sub.name.Short()+": "+orElse(row.Reason, row.State), row.Message))
	}
	return true, healthy, why
}

func revisionOrNil(r manifest.Revision) *Revision {
	if r.Commit == "" {
		return nil
	}
	return &Revision{Commit: r.Commit, Author: r.Author, Subject: r.Subject, Time: timeOrNil(r.Time)}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
