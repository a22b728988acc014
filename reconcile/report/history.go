package report

import (
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
)

// HistoryOf returns the commits that this node dealt with, newest first. With a name, only those that did something to
// it, with the steps for it alone. What Jobs wrote is of the ledger, as long as it is kept.
func HistoryOf(records []journal.Record, name *manifest.Name, ledger plan.Ledger) []journal.Entry {
	all := journal.Fold(records)
	for _, e := range all {
		for i := range e.Steps {
			e.Steps[i].Output = outputOf(e.Steps[i], e.Revision, ledger)
		}
	}
	if name == nil {
		return append([]journal.Entry{}, all...)
	}
	entries := []journal.Entry{}
	for _, e := range all {
		steps := []journal.StepEntry{}
		for _, s := range e.Steps {
			if s.Name == *name {
				steps = append(steps, s)
			}
		}
		if len(steps) > 0 {
			e.Steps = steps
			entries = append(entries, e)
		}
	}
	return entries
}

// outputOf returns what is kept of what the Job that a step tells of wrote.
func outputOf(s journal.StepEntry, commit string, ledger plan.Ledger) string {
	switch {
	case s.Op != journal.OpRun:
		return ""
	case s.Run != nil:
		return ledger.Jobs[plan.RunName(s.Name, *s.Run)].Output
	case ledger.Jobs[s.Name].Commit == commit:
		return ledger.Jobs[s.Name].Output
	default:
		return ""
	}
}

// Event is one thing that happened.
type Event struct {
	Time    time.Time      `json:"time"`
	Type    string         `json:"type"` // Normal or Warning
	Reason  string         `json:"reason"`
	Name    *manifest.Name `json:"name"` // null where it is about the node
	Message string         `json:"message"`
	Commit  string         `json:"commit,omitempty"`
}

// The types of an Event.
const (
	EventNormal  = "Normal"
	EventWarning = "Warning"
)

// EventOf turns a record into what users see; false for records that tell them nothing.
func EventOf(r journal.Record) (Event, bool) {
	e := Event{Time: r.Time, Type: EventNormal, Name: r.Name, Commit: r.Commit, Message: r.Message}
	if r.Revision != nil {
		e.Commit = r.Revision.Commit
	}
	switch r.Type {
	case journal.TypeAccepted:
		if r.Revision == nil {
			return Event{}, false // of another release
		}
		by := ""
		if r.Revision.Author != "" { // a directory has none
			by = " by " + r.Revision.Author
		}
		e.Reason, e.Message = "Accepted", fmt.Sprintf("%s %q%s is in force", r.Revision.Short(), r.Revision.Subject, by)
	case journal.TypeRejected:
		e.Type, e.Reason = EventWarning, ReasonRejected
	case journal.TypeBlocked:
		e.Type, e.Reason = EventWarning, r.Reason
	case journal.TypeIntent:
		e.Reason, e.Message = "Starting", joinSentences(string(r.Op), r.Reason)
	case journal.TypeResult:
		return resultEvent(e, r), true
	case journal.TypeRan:
		e.Reason, e.Message = "Job"+r.Result, ranMessage(r)
		if r.Result == string(plan.JobFailed) {
			e.Type = EventWarning
		}
	case journal.TypeSettled:
		e.Reason = r.Result
		if r.Result != journal.ResultApplied {
			e.Type = EventWarning
		}
	case journal.TypeExited:
		e.Type, e.Reason = EventWarning, orElse(r.Reason, "Exited")
	case journal.TypeHealth:
		e.Reason = r.Reason
		if r.Result == journal.HealthWarning {
			e.Type = EventWarning
		}
	case journal.TypeVerb:
		e.Reason = r.Reason
	case journal.TypeNote:
		e.Type, e.Reason = EventWarning, orElse(r.Reason, "Note")
	default:
		return Event{}, false
	}
	return e, true
}

// ranMessage says in a sentence how a Job, or a run of a CronJob, ended.
func ranMessage(r journal.Record) string {
	run, code := "", ""
	if r.Run != nil {
		run = "the run of " + r.Run.UTC().Format(time.RFC3339)
	}
	if r.ExitCode != nil {
		code = fmt.Sprintf("exit code %d after %v", *r.ExitCode, time.Duration(r.DurationMs)*time.Millisecond)
	}
	return joinSentences(run, r.Reason, r.Message, code)
}

func resultEvent(e Event, r journal.Record) Event {
	e.Reason = r.Result
	e.Message = fmt.Sprintf("%s took %v", r.Op, time.Duration(r.DurationMs)*time.Millisecond)
	if r.Result != journal.StepDone {
		e.Message = joinSentences(string(r.Op), r.Error)
	}
	if r.Result == journal.StepFailed {
		e.Type = EventWarning
	}
	return e
}

// EventsOf returns what records tell, oldest first; with a name, only what is about it.
func EventsOf(records []journal.Record, name *manifest.Name) []Event {
	events := []Event{}
	for _, r := range records {
		if name != nil && (r.Name == nil || *r.Name != *name) {
			continue
		}
		if e, ok := EventOf(r); ok {
			events = append(events, e)
		}
	}
	return events
}
