package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Advance is one look at the work that ends: what of it is over, and what of it is due.
type Advance struct {
	Set      *manifest.Set // in force; nil: none
	Observed []runtime.Status
	// InFlight are the names whose step is being carried out.
	InFlight map[manifest.Name]InFlight
	Clock    Clock
	// NotBefore is a time that has come for certain, such as when this program was built: no CronJob runs by a clock before it.
	NotBefore time.Time
	// Seen is when the last look was; zero: there was none since the agent started.
	Seen Moment
	// NewNode means that no set was in force before this one.
	NewNode bool
}

// Note is something that happened to a Job or a run of a CronJob.
type Note struct {
	Name    manifest.Name // as in the ledger
	Reason  string
	Message string
	// Record is set where a Job is over.
	Record *JobRecord
}

// Reasons of a Note besides the results and reasons of Jobs.
const (
	NoteMissed  = "RunMissed"  // a run was too late to start
	NoteSkipped = "RunSkipped" // the run before still runs
)

// Advance brings l, which it changes, up to date, and returns what happened.
func (l *Ledger) Advance(a Advance) (notes []Note, changed bool) {
	l.open()
	adv := advance{Advance: a, l: l, wanted: map[manifest.Name]*manifest.Workload{}, here: map[manifest.Name][]*runtime.Status{}}
	if a.Set != nil {
		for i := range a.Set.Workloads {
			if w := &a.Set.Workloads[i]; w.Kind != manifest.KindContainer {
				adv.wanted[w.Name] = w
			}
		}
	}
	if len(adv.wanted) == 0 && len(l.Jobs) == 0 && len(l.Crons) == 0 {
		return nil, false
	}
	for i := range a.Observed {
		if s := &a.Observed[i]; len(s.Spec.Origin) > 0 {
			name := manifest.Name(s.Spec.Name)
			adv.here[name] = append(adv.here[name], s)
		}
	}
	adv.jobs()
	adv.crons()
	return adv.notes, adv.changed
}

// open makes what a ledger that was never written has not.
func (l *Ledger) open() {
	if l.Jobs == nil {
		l.Jobs = map[manifest.Name]JobRecord{}
	}
	if l.Crons == nil {
		l.Crons = map[manifest.Name]CronRecord{}
	}
	if l.Done == nil {
		l.Done = map[manifest.Name][]DoneJob{}
	}
}

type advance struct {
	Advance

	l       *Ledger
	wanted  map[manifest.Name]*manifest.Workload // Jobs and CronJobs
	here    map[manifest.Name][]*runtime.Status
	notes   []Note
	changed bool
}

func (a *advance) put(name manifest.Name, r JobRecord) {
	a.l.Jobs[name] = r
	a.changed = true
}

func (a *advance) drop(name manifest.Name) {
	delete(a.l.Jobs, name)
	a.changed = true
}

// jobs looks after Jobs, and after the runs that are known.
func (a *advance) jobs() {
	for _, name := range slices.SortedFunc(maps.Keys(a.wanted), manifest.Name.Compare) {
		w := a.wanted[name]
		if w.Kind != manifest.KindJob {
			continue
		}
		r, known := a.l.Jobs[name]
		now := renewed(r, *w, a.l.Done[name])
		if known && now.Digest == r.Digest {
			continue
		}
		if known && now.Core != r.Core {
			a.l.remember(name, r)
		}
		if a.NewNode && !known && w.Spec.OnNewNode == manifest.OnNewNodeSkip {
			now = now.over(JobSkipped, "", "the server was new when it came", a.Clock)
			now.Read = true
		}
		a.put(name, now)
	}
	for name := range a.here {
		if cron, at, ok := RunOf(name); ok && a.wanted[cron] != nil {
			if _, known := a.l.Jobs[name]; !known { // what kept the ledger was lost
				a.put(name, JobRecord{Digest: a.here[name][0].Spec.OriginDigest, Scheduled: at})
			}
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(a.l.Jobs), manifest.Name.Compare) {
		a.look(name)
	}
}

// renewed returns the record of a Job whose spec may be another than the one that r is about. done are those that ran before.
func renewed(r JobRecord, w manifest.Workload, done []DoneJob) JobRecord {
	if r.Digest == w.Digest {
		return r
	}
	core, err := manifest.RunDigest(w)
	if err != nil {
		core = w.Digest
	}
	if r.Core == core && r.Result != JobFailed {
		r.Digest = w.Digest
		return r
	}
	fresh := JobRecord{Digest: w.Digest, Core: core, Stale: r.Container}
	if i := slices.IndexFunc(done, func(d DoneJob) bool { return d.Core == core }); i >= 0 {
		fresh.Result, fresh.Message = JobSucceeded, "this spec of it ran here before"
		fresh.Finished, fresh.Read, fresh.Expired = done[i].Finished, true, true
	}
	return fresh
}

// again returns the record of a Job that is to run once more.
func (r JobRecord) again() JobRecord {
	return JobRecord{Digest: r.Digest, Core: r.Core, Scheduled: r.Scheduled, Stale: r.Container}
}

// Again has a Job run once more: a CronJob now, besides its times. It reports false where there is no such Job.
func (l *Ledger) Again(w manifest.Workload, c Clock) bool {
	l.open()
	switch w.Kind {
	case manifest.KindJob:
		l.Jobs[w.Name] = renewed(l.Jobs[w.Name], w, nil).again()
	case manifest.KindCronJob:
		name := RunName(w.Name, c.Now)
		if _, known := l.Jobs[name]; !known {
			l.Jobs[name] = JobRecord{Digest: w.Digest, Scheduled: c.Now.UTC().Truncate(time.Second)}
		}
	default:
		return false
	}
	return true
}

// spec returns what a record's Job was made from.
func (a *advance) spec(name manifest.Name, s *runtime.Status) (manifest.Workload, bool) {
	w := a.wanted[Owner(name)]
	if w != nil && (s == nil || s.Spec.OriginDigest == w.Digest || w.Kind == manifest.KindJob) {
		return *w, true
	}
	if s == nil {
		return manifest.Workload{}, false
	}
	old, err := manifest.DecodeWorkload(s.Spec.Origin)
	return old, err == nil
}

// container returns the one that a record is about; nil where it is not here.
func (a *advance) container(name manifest.Name, r JobRecord) *runtime.Status {
	list := a.here[name]
	if i := slices.IndexFunc(list, func(s *runtime.Status) bool { return s.ID == r.Container }); i >= 0 {
		return list[i]
	}
	for _, s := range slices.Backward(list) {
		if s.ID != r.Stale && s.Spec.OriginDigest == r.Digest && s.State != runtime.StateRemoving {
			return s
		}
	}
	return nil
}

// look brings one record up to date.
func (a *advance) look(name manifest.Name) {
	before := a.l.Jobs[name]
	r := before
	s := a.container(name, r)
	_, flying := a.InFlight[name]
	w := a.wanted[Owner(name)]
	_, _, isRun := RunOf(name)
	if w == nil || !isRun && w.Kind != manifest.KindJob {
		a.retire(name, r, s, flying)
		return
	}
	of, ok := a.spec(name, s)
	if !ok {
		return
	}
	spec := of.Spec
	switch {
	case flying: // a step is starting or ending it
	case s != nil:
		r = r.see(s, spec, a.Clock)
	case r.Container != "":
		r = r.lost(spec, a.Clock)
	case isRun && r.Result == "":
		r.Digest = w.Digest // it has not begun: it begins as what is wanted now
	}
	if r.Result == "" && !r.Started.Wall.IsZero() && spec.ActiveDeadlineSeconds != nil {
		if limit := time.Duration(*spec.ActiveDeadlineSeconds) * time.Second; a.Clock.Since(r.Started) >= limit {
			r = r.over(JobFailed, ReasonJobDeadline, fmt.Sprintf("took longer than %v", limit), a.Clock)
		}
	}
	if r.Result != "" && before.Result == "" {
		done := r
		a.notes = append(a.notes, Note{Name: name, Reason: string(r.Result), Message: r.Message, Record: &done})
	}
	if ttl := spec.TTLSecondsAfterFinished; ttl != nil && r.Result != "" && !r.Expired && a.Clock.Since(r.Finished) >= time.Duration(*ttl)*time.Second {
		r.Expired = r.Read || s == nil
	}
	if r.Expired {
		r.Output = ""
	}
	if isRun && r.Result != "" && s == nil && !flying && (r.Expired || r.Result == JobReplaced) {
		a.drop(name)
		return
	}
	if r != before { // a new exit code comes with a new attempt that was counted
		a.put(name, r)
	}
}

// retire forgets a Job that is not wanted any more, but for what ran: when it comes again it need not run again.
func (a *advance) retire(name manifest.Name, r JobRecord, s *runtime.Status, flying bool) {
	_, _, isRun := RunOf(name)
	switch {
	case s != nil || flying || len(a.here[name]) > 0: // the plan takes it away
	default:
		if !isRun {
			a.l.remember(name, r)
		}
		a.drop(name)
	}
}

// see takes notice of how a Job's container is.
func (r JobRecord) see(s *runtime.Status, spec manifest.Spec, c Clock) JobRecord {
	if s.ID != r.Container {
		r.Before, r.Starts, r.Container = r.Before+r.Starts, 0, s.ID
	}
	if r.Stale != "" {
		r.Stale = ""
	}
	if s.Starts != r.Starts && r.Result == "" {
		if r.Starts = s.Starts; r.Started.Wall.IsZero() {
			r.Started = c.Before(s.Ran)
		}
		r.Commit = s.Spec.Revision
	}
	ended := s.State == runtime.StateExited && s.Starts > 0 && r.Attempts() > r.Counted
	if !ended {
		return r
	}
	if r.Result != "" || s.Stopped || s.Reason == runtime.ReasonStartFailed { // ended by us, or never begun: neither is a failure
		if r.Counted = r.Attempts(); r.Result != "" {
			r.ExitCode = s.ExitCode
		}
		return r
	}
	r.Counted, r.ExitCode = r.Attempts(), s.ExitCode
	if s.ExitCode != nil && *s.ExitCode == 0 {
		return r.over(JobSucceeded, "", "", c)
	}
	return r.failed(exitText(s, 0), spec, c)
}

// lost takes notice of a container that went without our doing.
func (r JobRecord) lost(spec manifest.Spec, c Clock) JobRecord {
	unseen := r.Attempts() > r.Counted
	r.Before, r.Starts, r.Container, r.Read = r.Attempts(), 0, "", true
	if r.Result != "" || !unseen {
		return r
	}
	r.Read, r.Counted, r.ExitCode = false, r.Attempts(), nil
	return r.failed("its container is gone and nobody saw how it ended", spec, c)
}

// failed counts an attempt that did not succeed.
func (r JobRecord) failed(why string, spec manifest.Spec, c Clock) JobRecord {
	r.Failures++
	r.Failed, r.Message = c.Moment(), why
	if int64(r.Failures) <= valueOr(spec.BackoffLimit, manifest.DefaultBackoffLimit) {
		return r
	}
	if r.Failures > 1 {
		why = fmt.Sprintf("%s, the last of %d attempts", why, r.Failures)
	}
	return r.over(JobFailed, ReasonBackoffLimit, why, c)
}

func (r JobRecord) over(result JobResult, reason, message string, c Clock) JobRecord {
	r.Result, r.Reason, r.Message, r.Finished = result, reason, message, c.Moment()
	return r
}

// Remember keeps the end of a Job's output.
func (l *Ledger) Remember(name manifest.Name, container runtime.ID, output string) bool {
	r, ok := l.Jobs[name]
	if !ok || r.Container != container || r.Result == "" {
		return false
	}
	r.Output, r.Read = output[max(0, len(output)-MaxOutput):], true
	l.Jobs[name] = r
	return true
}

// Unread are the Jobs that are over and whose output has yet to be read.
func (l Ledger) Unread(observed []runtime.Status) map[manifest.Name]runtime.ID {
	out := map[manifest.Name]runtime.ID{}
	for i := range observed {
		s := &observed[i]
		name := manifest.Name(s.Spec.Name)
		if r, ok := l.Jobs[name]; ok && r.Result != "" && !r.Read && r.Container == s.ID && s.State == runtime.StateExited {
			out[name] = s.ID
		}
	}
	return out
}
