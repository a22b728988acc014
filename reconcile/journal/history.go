package journal

import (
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
)

// The results of an Entry.
const (
	ResultApplied     = "Applied"
	ResultFailed      = "Failed"
	ResultBlocked     = "Blocked"
	ResultRejected    = "Rejected"
	ResultRolledBack  = "RolledBack"  // an update failed, and what ran before runs again
	ResultProgressing = "Progressing" // in force, steps are still being carried out
)

// The results of a StepEntry.
const (
	StepDone        = "Done"
	StepFailed      = "Failed"
	StepCancelled   = "Cancelled"   // the spec changed, or the agent was told to stop, while it was being carried out
	StepInterrupted = "Interrupted" // the agent ended without recording how it went
)

// Entry is one commit that this node dealt with, folded from the records about it.
type Entry struct {
	Time     time.Time   `json:"time"`
	Revision string      `json:"revision"`
	Author   string      `json:"author"`
	Subject  string      `json:"subject"`
	Result   string      `json:"result"`
	Reason   string      `json:"reason,omitempty"`
	Message  string      `json:"message,omitempty"`
	Steps    []StepEntry `json:"steps"`
}

// StepEntry is what was done for one name; of several tries of the same operation, the last.
type StepEntry struct {
	Op          plan.Op       `json:"op"`
	Name        manifest.Name `json:"name"`
	Reason      string        `json:"reason"`
	Result      string        `json:"result"`
	Error       string        `json:"error"`
	ImageDigest string        `json:"imageDigest"`
	DurationMs  int64         `json:"durationMs"`
	// ExitCode is of a Job that ran (OpRun), with Output, the end of what it wrote, as long as that is kept. Run is when a
	// CronJob's run was due.
	ExitCode *int       `json:"exitCode,omitempty"`
	Output   string     `json:"output,omitempty"`
	Run      *time.Time `json:"run,omitempty"`
}

// OpRun is the operation of a StepEntry that tells how a Job, or the last run of a CronJob, ended: with the result of
// plan.JobResult.
const OpRun plan.Op = "run"

// maxEntries is how many commits are remembered when their records are dropped.
const maxEntries = 500

// Fold turns records, oldest first, into the history of commits, newest first.
func Fold(records []Record) []Entry {
	var f folder
	for _, r := range records {
		f.add(r)
	}
	slices.Reverse(f.entries)
	return f.entries
}

type folder struct{ entries []Entry }

func (f *folder) add(r Record) {
	switch r.Type {
	case TypeEntry:
		if r.Entry != nil {
			f.keep(*r.Entry)
		}
	case TypeAccepted:
		f.open(r, ResultProgressing)
	case TypeRejected:
		f.open(r, ResultRejected)
	case TypeBlocked:
		f.open(r, ResultBlocked)
	case TypeIntent, TypeResult, TypeRan:
		if e := f.find(r.Commit); e != nil {
			e.step(r)
		}
	case TypeSettled:
		if e := f.find(r.Commit); e != nil {
			e.Result, e.Message = r.Result, r.Message
		}
	case TypeVerb, TypeNote, TypeExited, TypeHealth:
	}
}

// keep takes a folded entry over. One that is there already was folded before a crash kept its segment from going.
func (f *folder) keep(e Entry) {
	for i := range f.entries {
		if f.entries[i].Revision == e.Revision && f.entries[i].Time.Equal(e.Time) {
			f.entries[i] = e
			return
		}
	}
	f.entries = append(f.entries, e)
}

// open begins an entry, or goes on with the newest one if it is about the same commit: a blocked commit that was
// approved is one entry, not two.
func (f *folder) open(r Record, result string) {
	if r.Revision == nil {
		return
	}
	if n := len(f.entries); n == 0 || f.entries[n-1].Revision != r.Revision.Commit {
		f.entries = append(f.entries, Entry{
			Time: r.Time, Revision: r.Revision.Commit, Author: r.Revision.Author, Subject: r.Revision.Subject,
			Steps: []StepEntry{},
		})
	}
	e := &f.entries[len(f.entries)-1]
	e.Result, e.Reason, e.Message = result, r.Reason, r.Message
}

func (f *folder) find(commit string) *Entry {
	for i := range slices.Backward(f.entries) {
		if e := &f.entries[i]; e.Revision == commit && e.Result != ResultRejected && e.Result != ResultBlocked {
			return e
		}
	}
	return nil
}

func (e *Entry) step(r Record) {
	if r.Name == nil {
		return
	}
	s := StepEntry{
		Op: r.Op, Name: *r.Name, Reason: r.Reason, Result: r.Result, Error: r.Error,
		ImageDigest: r.ImageDigest, DurationMs: r.DurationMs,
	}
	if r.Type == TypeRan {
		s.Op, s.Reason, s.Error, s.ExitCode, s.Run = OpRun, r.Reason, r.Message, r.ExitCode, r.Run
	}
	if r.Type == TypeIntent {
		s.Result = StepInterrupted // until its result is read
	}
	at := slices.IndexFunc(e.Steps, func(o StepEntry) bool { return o.Op == s.Op && o.Name == s.Name })
	if at >= 0 {
		e.Steps[at] = s
		return
	}
	e.Steps = append(e.Steps, s)
}
