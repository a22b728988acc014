package plan

import (
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// The backoff of a Job's attempts: Kubernetes'.
const (
	jobBackoffInitial = 10 * time.Second
	jobBackoffMax     = 6 * time.Minute
)

// ReasonClock is the reason of a Hold for CronJobs of a server whose clock is wrong.
const ReasonClock = "ClockNotSet"

// gatherRuns adds a work for each run of a CronJob that is known or here.
func (c *computation) gatherRuns() {
	c.crons = cronsOf(c.set)
	for name := range c.in.Ledger.Jobs {
		if _, _, ok := RunOf(name); ok {
			c.work(name).want = c.runSpec(name)
		}
	}
	for name := range c.runs {
		if c.byName[name] == nil {
			c.work(name).want = c.runSpec(name)
		}
	}
}

// containers returns those of a name, oldest first.
func (c *computation) containers(name manifest.Name) []*runtime.Status {
	if list, ok := c.runs[name]; ok {
		return list
	}
	return c.observed[name]
}

// owners returns the names that manifests gave to what is here.
func (c *computation) owners() map[manifest.Name]bool {
	out := make(map[manifest.Name]bool, len(c.observed))
	for name := range c.observed {
		out[name] = true
	}
	for name := range c.runs {
		out[Owner(name)] = true
	}
	return out
}

// digest returns what identifies what is wanted; empty: nothing is.
func (w *work) digest() string {
	if w.want == nil {
		return ""
	}
	return w.want.Digest
}

func (w *work) isRun() bool {
	_, _, ok := RunOf(w.name)
	return ok
}

// ends reports whether w is work that comes to an end.
func (w *work) ends() bool {
	return w.isRun() || w.want != nil && w.want.Kind != manifest.KindContainer
}

// runSpec returns what a run is made from: what it was begun as, else what its CronJob is now; nil where that is not wanted any
// more.
func (c *computation) runSpec(name manifest.Name) *manifest.Workload {
	w := c.crons[Owner(name)]
	if w == nil || c.in.Ledger.Jobs[name].Result == JobReplaced {
		return nil
	}
	list := c.runs[name]
	if len(list) == 0 || list[len(list)-1].Spec.OriginDigest == w.Digest {
		return w
	}
	if old, err := manifest.DecodeWorkload(list[len(list)-1].Spec.Origin); err == nil {
		return &old
	}
	return w
}

// cronsOf returns the CronJobs of a set.
func cronsOf(set *manifest.Set) map[manifest.Name]*manifest.Workload {
	var out map[manifest.Name]*manifest.Workload
	for i := range set.Workloads {
		if w := &set.Workloads[i]; w.Kind == manifest.KindCronJob {
			if out == nil {
				out = map[manifest.Name]*manifest.Workload{}
			}
			out[w.Name] = w
		}
	}
	return out
}

// job says what a Job, a CronJob or a run of one needs now.
func (c *computation) job(w *work) {
	switch {
	case w.want == nil:
		c.removeRun(w)
	case w.want.Kind == manifest.KindCronJob && !w.isRun():
		c.cron(w)
	case c.isOver(w):
		c.ended(w)
	default:
		c.pursue(w)
	}
}

// removeRun takes away a run whose CronJob is gone, or whose place another one takes.
func (c *computation) removeRun(w *work) {
	if w.keep == nil && len(w.extra) == 0 {
		return
	}
	if c.remove(w); w.step != nil && c.crons[Owner(w.name)] != nil {
		w.step.Reason = "the next run took its place"
	}
}

// cron looks after a CronJob: its runs have works of their own.
func (c *computation) cron(w *work) {
	now := c.in.Now
	switch {
	case w.keep != nil:
		c.takeAway(w, "it is of another kind now") // had the name before
	case now.Before(c.in.NotBefore):
		w.hold = &Hold{Name: w.name, Reason: ReasonClock, Message: fmt.Sprintf(
			"the clock of this server says %s, which is over: no run begins until it is set", now.UTC().Format(time.RFC3339))}
	case !value(w.want.Spec.Suspend) && !c.set.Node.Unschedulable:
		c.wakeAt(c.in.Ledger.Crons[w.name].Next)
	}
}

// record returns what is remembered of w, as it is for what is wanted now.
func (c *computation) record(w *work) JobRecord {
	r := c.in.Ledger.Jobs[w.name]
	if w.isRun() {
		return r
	}
	return renewed(r, *w.want, c.in.Ledger.Done[w.name])
}

// isOver reports whether w need not run any more.
func (c *computation) isOver(w *work) bool {
	_, known := c.in.Ledger.Jobs[w.name]
	skips := w.want.Spec.OnNewNode == manifest.OnNewNodeSkip && c.in.Accepted == nil
	return !known && skips || c.record(w).Result != ""
}

// completed reports whether w is a Job whose work is done.
func (c *computation) completed(w *work) bool {
	return w.want != nil && w.want.Kind == manifest.KindJob && c.isOver(w) && c.record(w).Result != JobFailed
}

// ended takes away what is left of a Job that is over.
func (c *computation) ended(w *work) {
	r := c.record(w)
	w.done = c.completed(w)
	if r.Result == JobFailed && !w.isRun() {
		w.hold = &Hold{
			Name: w.name, Reason: r.Reason,
			Message: r.Message + "; not run again until it changes or by `reconciler retry " + w.name.Short() + "`",
		}
	}
	ttl := w.want.Spec.TTLSecondsAfterFinished
	switch {
	case w.keep == nil:
	case w.keep.ID == r.Stale || w.keep.Spec.OriginDigest != w.want.Digest && w.keep.ID != r.Container:
		c.takeAway(w, "it is of an earlier spec, and what is wanted now has run")
	case w.keep.State == runtime.StateRunning:
		w.step = &Step{
			Op: OpEnd, Workload: *w.want, Spec: w.keep.Spec, ID: w.keep.ID, Reason: r.Message,
			Stop: removals([]*runtime.Status{w.keep}),
		}
	case r.Expired:
		c.takeAway(w, "it is over, and its output is not to be kept any longer")
	case ttl != nil && r.Read:
		c.wakeIn(max(time.Millisecond, time.Duration(*ttl)*time.Second-c.since(r.Finished)))
	}
	if w.step != nil && (c.set.Node.Unschedulable || c.removalGated(w)) {
		w.step = nil
	}
}

func (c *computation) takeAway(w *work, why string) {
	w.step = &Step{Op: OpRemove, Remove: removals(w.extra, []*runtime.Status{w.keep}), Reason: why}
}

func (c *computation) since(m Moment) time.Duration {
	return Clock{Now: c.in.Now, Boot: c.in.Boot, BootID: c.in.BootID}.Since(m)
}

// pursue begins a Job, or looks after an attempt of it.
func (c *computation) pursue(w *work) {
	r, s := c.record(w), w.keep
	switch {
	case s == nil:
		if w.isRun() && c.brings(w) || c.rests(w, r) || w.isRun() && c.replacing(w) {
			return
		}
		if c.create(w); w.step != nil && w.isRun() {
			w.step.Reason = "due at " + r.Scheduled.UTC().Format(time.RFC3339)
		}
	case s.ID == r.Stale:
		c.replace(w, c.whyAgain(w), nil)
	case s.Spec.OriginDigest != w.want.Digest:
		c.become(w)
	case s.State == runtime.StateRunning:
		c.watchJob(w, r)
	case s.State == runtime.StateCreated:
		if why := c.dueFirst(w, s, *w.want); why != "" && !c.refused(w) && !c.gated(w) {
			c.restart(w, s, *w.want, why)
		}
	case r.Attempts() > r.Counted: // its end is yet to be taken notice of
	case !c.rests(w, r) && !c.refused(w) && !c.gated(w):
		why := r.Message
		if s.Stopped || why == "" {
			why = "it was stopped and not started again"
		}
		c.restart(w, s, *w.want, why)
	}
}

// brings reports whether a step in flight is making what w wants: nothing is to be decided until it has ended. See
// respectFlight, which would drop the step; runs of CronJobs may wait to be started by the hundred.
func (c *computation) brings(w *work) bool {
	f, ok := c.in.InFlight[w.name]
	return ok && f.Op == OpCreate && f.Digest == w.want.Digest
}

// whyAgain says why a Job runs that ran before.
func (c *computation) whyAgain(w *work) string {
	old, err := manifest.DecodeWorkload(w.keep.Spec.Origin)
	if changes := manifest.Diff(old, *w.want); err == nil && len(changes) > 0 {
		return summary(changes)
	}
	return "it was asked to run again"
}

// watchJob waits for a Job that runs.
func (c *computation) watchJob(w *work, r JobRecord) {
	if limit := w.want.Spec.ActiveDeadlineSeconds; limit != nil {
		c.wakeIn(max(time.Millisecond, time.Duration(*limit)*time.Second-c.since(r.Started)))
	}
	if !w.isRun() {
		w.hold = &Hold{Name: w.name, Reason: ReasonProgressing, Message: "it runs, and has yet to end"}
	}
}

// rests holds w while its last attempt failed not long enough ago.
func (c *computation) rests(w *work, r JobRecord) bool {
	if r.Failures == 0 {
		return false
	}
	delay := jobBackoffInitial
	for i := 1; i < r.Failures && delay < jobBackoffMax; i++ {
		delay = min(2*delay, jobBackoffMax)
	}
	left := delay - c.since(r.Failed)
	if left <= 0 {
		return false
	}
	w.hold = &Hold{
		Name: w.name, Reason: ReasonCrashLoop, Until: c.in.Now.Add(left),
		Message: fmt.Sprintf("%s; attempt %d of %d", r.Message, r.Failures, 1+valueOr(w.want.Spec.BackoffLimit, manifest.DefaultBackoffLimit)),
	}
	return true
}

// replacing holds w while a run whose place it takes is still here.
func (c *computation) replacing(w *work) bool {
	if w.want.Spec.ConcurrencyPolicy != manifest.ConcurrencyReplace {
		return false
	}
	for _, name := range c.in.Ledger.RunsOf(Owner(w.name)) {
		_, flying := c.in.InFlight[name]
		if c.in.Ledger.Jobs[name].Result == JobReplaced && (flying || len(c.runs[name]) > 0) {
			w.hold = &Hold{Name: w.name, Reason: ReasonProgressing, Message: "the run before it has yet to go"}
			return true
		}
	}
	return false
}
