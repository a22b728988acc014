package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"reconciler/manifest"
)

// lateness is how late a look may be, the clock being steady, for every run that came due meanwhile to be started: a busy
// server misses none. What is older was missed, and the latest of it is caught up with.
const lateness = 10 * time.Second

// crons begins the runs that are due, and says which ended ones are not to be kept.
func (a *advance) crons() {
	runs := a.l.allRuns()
	for name, w := range a.wanted {
		if w.Kind == manifest.KindCronJob {
			a.prune(*w, runs[name])
		}
	}
	for name := range a.l.Crons {
		if w := a.wanted[name]; w == nil || w.Kind != manifest.KindCronJob {
			delete(a.l.Crons, name)
			a.changed = true
		}
	}
	if a.Clock.Now.Before(a.NotBefore) {
		return
	}
	for _, name := range slices.SortedFunc(maps.Keys(a.wanted), manifest.Name.Compare) {
		if w := a.wanted[name]; w.Kind == manifest.KindCronJob {
			a.cron(*w, runs[name])
		}
	}
}

// prune marks the ended runs beyond the limits of what is kept of them.
func (a *advance) prune(w manifest.Workload, runs []manifest.Name) {
	left := map[JobResult]int64{
		JobSucceeded: valueOr(w.Spec.SuccessfulJobsHistoryLimit, manifest.DefaultSuccessfulKept),
		JobFailed:    valueOr(w.Spec.FailedJobsHistoryLimit, manifest.DefaultFailedKept),
	}
	for _, name := range slices.Backward(runs) {
		r, ok := a.l.Jobs[name]
		if !ok || r.Result == "" || r.Result == JobReplaced {
			continue
		}
		if left[r.Result]--; left[r.Result] < 0 && r.Read && !r.Expired {
			r.Expired, r.Output = true, ""
			a.put(name, r)
		}
	}
}

// cron begins the runs of one CronJob that are due.
func (a *advance) cron(w manifest.Workload, runs []manifest.Name) {
	now := a.Clock.Now.UTC().Round(0)
	r, known := a.l.Crons[w.Name]
	if key := w.Spec.Schedule + " " + w.Spec.TimeZone; !known || r.Schedule != key {
		a.firstTime(w, key, runs)
		return
	}
	if now.Before(r.last()) { // the clock was set back: what was dealt with already is not again
		s, err := parseSchedule(w.Spec)
		if err != nil {
			return
		}
		r = r.from(now)
		r.Next = r.following(s, now)
		a.keep(w.Name, r)
	}
	if value(w.Spec.Suspend) || a.Set.Node.Unschedulable || r.Next.IsZero() || r.Next.After(now) {
		return
	}
	s, err := parseSchedule(w.Spec)
	if err != nil {
		return
	}
	due, gap := r.due(s, a.window(now), now)
	for i, at := range due {
		a.begin(w, at, &runs)
		r = r.dealtWith(at, gap && i == 0)
	}
	r.Next = r.following(s, now)
	a.keep(w.Name, r)
}

// firstTime notes a CronJob that is new, or has a new schedule: it is due from now on.
func (a *advance) firstTime(w manifest.Workload, key string, runs []manifest.Name) {
	s, err := parseSchedule(w.Spec)
	if err != nil {
		return // no valid manifest has such a one
	}
	from := a.Clock.Now.UTC().Round(0)
	r := CronRecord{Schedule: key, Spans: []Span{{From: from, To: from}}}
	for _, name := range runs { // those that ran already, where what kept the record was lost
		if at := a.l.Jobs[name].Scheduled; !at.Before(from) {
			r = r.dealtWith(at, false)
		}
	}
	r.Next = r.following(s, from)
	a.keep(w.Name, r)
}

func (a *advance) keep(name manifest.Name, r CronRecord) {
	a.l.Crons[name] = r
	a.changed = true
}

// window is from when on every run is to start, and not only the latest.
func (a *advance) window(now time.Time) time.Time {
	if a.Clock.steadySince(a.Seen) && a.Clock.Boot-a.Seen.Boot <= lateness {
		return a.Seen.Wall
	}
	return now
}

// due returns the times up to now that are to run: each that came since window, else the latest of those that were missed. gap
// says that others were missed before the first of them.
func (r CronRecord) due(s schedule, window, now time.Time) (due []time.Time, gap bool) {
	from := r.last()
	if window.Before(from) {
		window = from
	}
	for t := r.following(s, window); !t.IsZero() && !t.After(now); t = r.following(s, t) {
		due = append(due, t)
	}
	if len(due) > 0 {
		first := r.following(s, from)
		return due, !first.Equal(due[0])
	}
	for to := window; ; {
		t, only, ok := s.last(from, to)
		if !ok {
			return nil, false
		}
		if span, done := r.span(t); done { // dealt with before the clock was set back
			if to = span.From; !to.After(from) {
				return nil, false
			}
			continue
		}
		return []time.Time{t}, !only
	}
}

// following returns the first time after t that was not dealt with.
func (r CronRecord) following(s schedule, t time.Time) time.Time {
	for {
		n := s.next(t)
		span, done := r.span(n)
		if n.IsZero() || !done {
			return n
		}
		t = span.To
	}
}

// begin begins the run that is due at a time, if the others let it. runs are those known, oldest first.
func (a *advance) begin(w manifest.Workload, at time.Time, runs *[]manifest.Name) {
	name := RunName(w.Name, at)
	if _, known := a.l.Jobs[name]; known {
		return
	}
	if deadline := w.Spec.StartingDeadlineSeconds; deadline != nil && a.Clock.Now.Sub(at) > time.Duration(*deadline)*time.Second {
		a.notes = append(a.notes, Note{Name: name, Reason: NoteMissed, Message: fmt.Sprintf(
			"the run of %s did not start: it is more than %d s late", at.Format(time.RFC3339), *deadline)})
		return
	}
	policy := w.Spec.ConcurrencyPolicy
	for _, other := range *runs {
		r, ok := a.l.Jobs[other]
		if !ok || r.Result != "" || policy == "" || policy == manifest.ConcurrencyAllow {
			continue
		}
		if policy == manifest.ConcurrencyForbid {
			a.notes = append(a.notes, Note{Name: name, Reason: NoteSkipped, Message: fmt.Sprintf(
				"the run of %s did not start: that of %s still runs", at.Format(time.RFC3339), r.Scheduled.Format(time.RFC3339))})
			return
		}
		r = r.over(JobReplaced, "", "the next run took its place", a.Clock)
		r.Read = true
		a.put(other, r)
		a.notes = append(a.notes, Note{Name: other, Reason: string(JobReplaced), Message: r.Message, Record: &r})
	}
	a.put(name, JobRecord{Digest: w.Digest, Scheduled: at})
	*runs = append(*runs, name)
}
