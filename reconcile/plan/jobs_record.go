package plan

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Ledger is what is remembered of work that ends: over reboots, and over the loss of its containers.
type Ledger struct {
	// Jobs are Jobs and the runs of CronJobs, by their name: see RunName.
	Jobs map[manifest.Name]JobRecord `json:"jobs,omitempty"`
	// Crons are CronJobs.
	Crons map[manifest.Name]CronRecord `json:"crons,omitempty"`
	// Done are specs of Jobs that ran here and are no longer wanted, oldest first: where one comes back, it need not run again.
	Done map[manifest.Name][]DoneJob `json:"done,omitempty"`
}

// Clone returns a ledger that does not change with l.
func (l Ledger) Clone() Ledger {
	return Ledger{Jobs: maps.Clone(l.Jobs), Crons: maps.Clone(l.Crons), Done: maps.Clone(l.Done)}
}

// JobResult is how a Job ended; empty: it has not.
type JobResult string

// The results of a Job.
const (
	JobSucceeded JobResult = "Succeeded"
	JobFailed    JobResult = "Failed"
	JobSkipped   JobResult = "Skipped"  // onNewNode: Skip, on a node that was new
	JobReplaced  JobResult = "Replaced" // a later run of its CronJob took its place
)

// Reasons that a Job failed for.
const (
	ReasonBackoffLimit = "BackoffLimitExceeded"
	ReasonJobDeadline  = "DeadlineExceeded"
)

// MaxOutput is how many bytes of the end of a Job's output are remembered.
const MaxOutput = 4 << 10

// JobRecord is what is remembered of a Job, or of one run of a CronJob.
type JobRecord struct {
	// Digest is of the workload that it is about; Core of what of that makes another Job. Commit is the one it ran as.
	Digest string `json:"digest"`
	Core   string `json:"core,omitempty"`
	Commit string `json:"commit,omitempty"`
	// Result is how it ended, with Reason in a word and Message in a sentence.
	Result  JobResult `json:"result,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	// Scheduled is when a CronJob's run was due.
	Scheduled time.Time `json:"scheduled,omitzero"`
	// Started is when the first attempt began; Failed when the last one that failed was seen to; Finished when all was over.
	Started  Moment `json:"started,omitzero"`
	Failed   Moment `json:"failed,omitzero"`
	Finished Moment `json:"finished,omitzero"`
	// Container is the one it runs in, which was started Starts times; Before are the starts in those that were lost.
	Container runtime.ID `json:"container,omitempty"`
	Starts    int        `json:"starts,omitempty"`
	Before    int        `json:"before,omitempty"`
	// Failures counts attempts that failed; Counted is the last attempt whose end was seen.
	Failures int  `json:"failures,omitempty"`
	Counted  int  `json:"counted,omitempty"`
	ExitCode *int `json:"exitCode,omitempty"` // of the last attempt that ended; nil: nobody saw it
	// Output is the end of what the last attempt wrote, once it was Read.
	Output string `json:"output,omitempty"`
	Read   bool   `json:"read,omitempty"`
	// Expired means that its container and output are not to be kept any longer.
	Expired bool `json:"expired,omitempty"`
	// Stale is a container of an earlier run of the same Job, which is to go before this one begins.
	Stale runtime.ID `json:"stale,omitempty"`
}

// DoneJob is a spec of a Job that ran here.
type DoneJob struct {
	Core     string `json:"core"`
	Finished Moment `json:"finished"`
}

// Of each name so many earlier specs are remembered, and so many names.
const (
	maxDone      = 32
	maxDoneNames = 1000
)

// remember keeps that a Job need not run again.
func (l *Ledger) remember(name manifest.Name, r JobRecord) {
	if r.Result != JobSucceeded && r.Result != JobSkipped {
		return
	}
	list := slices.DeleteFunc(slices.Clone(l.Done[name]), func(d DoneJob) bool { return d.Core == r.Core })
	list = append(list, DoneJob{Core: r.Core, Finished: r.Finished})
	l.Done[name] = list[max(0, len(list)-maxDone):]
	if len(l.Done) <= maxDoneNames {
		return
	}
	var oldest manifest.Name
	var at time.Time
	for n, done := range l.Done {
		if t := done[len(done)-1].Finished.Wall; at.IsZero() || t.Before(at) || t.Equal(at) && n.Compare(oldest) < 0 {
			oldest, at = n, t
		}
	}
	delete(l.Done, oldest)
}

// Attempts is how often it was started.
func (r JobRecord) Attempts() int { return r.Before + r.Starts }

// Took is how long it ran, from the first attempt to the end.
func (r JobRecord) Took() time.Duration {
	if r.Started.Wall.IsZero() || r.Finished.Wall.IsZero() {
		return 0
	}
	return Clock{Now: r.Finished.Wall, Boot: r.Finished.Boot, BootID: r.Finished.BootID}.Since(r.Started)
}

// CronRecord is what is remembered of a CronJob.
type CronRecord struct {
	// Schedule is what Next was computed from, with the zone.
	Schedule string `json:"schedule"`
	// Spans are stretches of the calendar whose times were dealt with, the present one last.
	Spans []Span `json:"spans"`
	// Next is when it is due next; zero: never.
	Next time.Time `json:"next,omitzero"`
}

// Span is a stretch of time, From excluded and To included.
type Span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// maxSpans bounds how many stretches are kept: each step of the clock adds one.
const maxSpans = 8

func (s Span) holds(t time.Time) bool { return t.After(s.From) && !t.After(s.To) }

// last returns the newest time that was dealt with.
func (r CronRecord) last() time.Time { return r.Spans[len(r.Spans)-1].To }

// span returns the stretch, other than the present one, that holds t.
func (r CronRecord) span(t time.Time) (Span, bool) {
	for _, s := range r.Spans[:len(r.Spans)-1] {
		if s.holds(t) {
			return s, true
		}
	}
	return Span{}, false
}

// dealtWith returns r with the times up to t done; gap means that there were others before t that were left out.
func (r CronRecord) dealtWith(t time.Time, gap bool) CronRecord {
	r.Spans = slices.Clone(r.Spans)
	if gap {
		r.Spans = append(r.Spans, Span{From: t.Add(-time.Second), To: t})
		r.Spans = r.Spans[max(0, len(r.Spans)-maxSpans):]
	} else {
		r.Spans[len(r.Spans)-1].To = t
	}
	return r
}

// from returns r going on at t, which the clock has been set back to.
func (r CronRecord) from(t time.Time) CronRecord {
	r.Spans = slices.Clone(r.Spans)
	if last := r.Spans[len(r.Spans)-1]; !last.To.After(last.From) {
		r.Spans = r.Spans[:len(r.Spans)-1] // nothing was dealt with in it
	}
	r.Spans = append(r.Spans, Span{From: t, To: t})
	r.Spans = r.Spans[max(0, len(r.Spans)-maxSpans):]
	return r
}

// runMark separates the name of a CronJob from the time of a run. No manifest's name has one.
const runMark = "#"

// RunName returns what the run of a CronJob that is due at a time is called.
func RunName(cron manifest.Name, at time.Time) manifest.Name {
	cron.Name += runMark + strconv.FormatInt(at.Unix(), 10)
	return cron
}

// RunOf tells a run's name: of which CronJob, and when it was due; false where it is none.
func RunOf(name manifest.Name) (cron manifest.Name, at time.Time, ok bool) {
	base, seconds, found := strings.Cut(name.Name, runMark)
	if !found {
		return name, time.Time{}, false
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return name, time.Time{}, false
	}
	return manifest.Name{Namespace: name.Namespace, Name: base}, time.Unix(n, 0).UTC(), true
}

// Owner returns the name that a manifest gave: for a run of a CronJob, the CronJob's.
func Owner(name manifest.Name) manifest.Name {
	cron, _, _ := RunOf(name)
	return cron
}

// RunsOf returns the names of a CronJob's runs in the ledger, oldest first.
func (l Ledger) RunsOf(cron manifest.Name) []manifest.Name {
	var names []manifest.Name
	for name := range l.Jobs {
		if of, _, ok := RunOf(name); ok && of == cron {
			names = append(names, name)
		}
	}
	l.byTime(names)
	return names
}

func (l Ledger) byTime(names []manifest.Name) {
	slices.SortFunc(names, func(a, b manifest.Name) int {
		if c := l.Jobs[a].Scheduled.Compare(l.Jobs[b].Scheduled); c != 0 {
			return c
		}
		return a.Compare(b)
	})
}

// allRuns returns the runs of every CronJob, oldest first.
func (l Ledger) allRuns() map[manifest.Name][]manifest.Name {
	out := map[manifest.Name][]manifest.Name{}
	for name := range l.Jobs {
		if of, _, ok := RunOf(name); ok {
			out[of] = append(out[of], name)
		}
	}
	for _, names := range out {
		l.byTime(names)
	}
	return out
}
