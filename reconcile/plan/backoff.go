package plan

import (
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

const (
	// longRun is the run after which restarts are counted from the beginning.
	longRun = 10 * time.Minute
	// lostShare is the share of the usual delay after a step that failed because the supervisor died in it.
	lostShare = 20
	// restartMin keeps a manifest that says 0s from making a busy loop.
	restartMin = time.Second
)

// Restarted returns what h becomes when a restart of s, as it was before, begins: a crash counts up, anything else
// does not.
func Restarted(h History, s runtime.Status) History {
	if s.State != runtime.StateExited || s.Stopped || h.Restart {
		return h
	}
	return Crashed(h, s)
}

// Crashed returns what h becomes when s, which ended by itself or was given up by its probes, is started again.
func Crashed(h History, s runtime.Status) History {
	if s.Ran >= longRun {
		h.Crashes = 0
	}
	h.Crashes++
	return h
}

// Succeeded returns what h becomes when step s is done.
func Succeeded(h History, s Step) History {
	if s.Op == OpRestart && h.Digest != s.Workload.Digest {
		// The old container was started again; the new one still failed.
		h.Restart = false
		return h
	}
	if s.undoes() {
		h.Undo = Trouble{}
		return h
	}
	out := History{Restart: h.Restart, Crashes: h.Crashes, Good: h.Good, FailedID: h.FailedID}
	switch s.Op {
	case OpCreate, OpReplace:
		out.Restart, out.Crashes = false, 0
	case OpRestart:
		out.Restart = false
	}
	return out
}

// Failed returns what h becomes when step s failed with err at now; delay says how long to wait after the n-th
// failure in a row. A step that was cancelled did not fail.
func Failed(h History, s Step, err error, now time.Time, delay func(n int) time.Duration) History {
	if s.undoes() {
		n := h.Undo.Failures + 1
		h.Undo = Trouble{Failures: n, Next: now.Add(delay(n)), Reason: runtime.ReasonOf(err), Error: err.Error()}
		return h
	}
	h.LastFailure = now
	if s.Op == OpRestart && h.Failures > 0 && h.Digest != s.Workload.Digest {
		// The old container did not start again: that must not let the new one, which failed before, be tried sooner.
		return h
	}
	digest := s.Workload.Digest
	if s.Op == OpRemove {
		digest = ""
	}
	if h.Digest != digest {
		h.Failures = 0
	}
	h.Digest, h.Failures = digest, h.Failures+1
	h.Error, h.Hint = err.Error(), runtime.HintOf(err)
	h.Reason, h.Permanent = runtime.ReasonOf(err), runtime.IsPermanent(err)
	h.NextTry, h.Attempt = time.Time{}, ""
	switch {
	case s.GoesBack && endsUpdate(h, err):
		h.Reason, h.Permanent, h.Attempt = ReasonRolledBack, true, s.attempt()
		h.Error = updateFailed + h.Error
	case h.Reason == runtime.ReasonInitFailed && s.Workload.Kind == manifest.KindContainer:
		h = initFailed(h, s.Workload, now)
	case h.Reason == runtime.ReasonSupervisorLost: // which another one's start mends
		h.NextTry = now.Add(delay(h.Failures) / lostShare)
	case !h.Permanent:
		h.NextTry = now.Add(delay(h.Failures))
	}
	return h
}

// initFailed makes the failure of an init container one that goes by the manifest's own words: it is the container that
// failed. The first time it is tried again at once, as after a crash.
func initFailed(h History, of manifest.Workload, now time.Time) History {
	h.Permanent = of.Spec.RestartPolicy == manifest.RestartNever
	switch {
	case h.Permanent:
	case h.Failures == 1:
		h.NextTry = now
	default:
		h.NextTry = now.Add(crashDelay(h.Failures-1, *manifest.Defaulted(of.Spec).RestartBackoff))
	}
	return h
}

// gated holds w while a step for what is wanted failed not long enough ago.
func (c *computation) gated(w *work) bool {
	h := w.past
	if h.Digest != w.want.Digest || h.Reason == ReasonRolledBack && h.Attempt != c.attempt(w) {
		return false
	}
	return c.hold(w, h)
}

// removalGated holds w while taking containers away failed not long enough ago.
func (c *computation) removalGated(w *work) bool {
	h := w.past
	if h.Digest != "" {
		return false
	}
	return c.hold(w, h)
}

func (c *computation) hold(w *work, h History) bool {
	switch {
	case h.Failures == 0:
		return false
	case h.Permanent && h.NextTry.IsZero():
	case !h.NextTry.After(c.in.Now) || h.LastFailure.After(c.in.Now): // the latter: the clock was set back
		return false
	}
	reason, message := h.Reason, h.Error
	switch {
	case h.NextTry.IsZero():
	case reason == runtime.ReasonErrImagePull:
		reason = ReasonImagePull
	case reason == runtime.ReasonInitFailed:
		reason = ReasonCrashLoop
	}
	if h.Hint != "" {
		message += "; " + h.Hint
	}
	if h.NextTry.IsZero() {
		message += "; not tried again until it changes or by `reconciler retry " + w.name.Short() + "`"
	}
	w.hold = &Hold{Name: w.name, Reason: reason, Message: message, Until: h.NextTry}
	return true
}

// due says why s, which is here, is to be started now; empty: it is not. Where it is to be started later, w is held; where
// it ran to its end, w is done. of is the workload that it was made from.
func (c *computation) due(w *work, s *runtime.Status, of manifest.Workload) string {
	h := w.past
	switch s.State {
	case runtime.StateRunning:
		if h.Restart {
			return "a restart was asked for"
		}
		if why := c.gaveUp(s); why != "" {
			return c.dueUnwell(w, s, of, why)
		}
		return c.cutOff(s)
	case runtime.StateCreated:
		return c.dueFirst(w, s, of)
	}
	if h.Restart {
		return "a restart was asked for"
	}
	if s.Stopped {
		return "it was stopped and not started again"
	}
	if ended(of, s) {
		w.done = true
		return ""
	}
	until := c.restartAt(s, h, of.Digest, *manifest.Defaulted(of.Spec).RestartBackoff)
	if until.After(c.in.Now) {
		w.hold = &Hold{Name: w.name, Reason: ReasonCrashLoop, Message: exitText(s, h.Crashes), Until: until}
		return ""
	}
	return exitText(s, h.Crashes)
}

// ended reports whether a container that exited by itself is not to be started again. of is what it was made from.
func ended(of manifest.Workload, s *runtime.Status) bool {
	if of.Kind == manifest.KindJob || of.Kind == manifest.KindCronJob {
		return true // what comes after is another attempt
	}
	switch of.Spec.RestartPolicy {
	case manifest.RestartNever:
		return true
	case manifest.RestartOnFailure:
		return s.ExitCode != nil && *s.ExitCode == 0
	default:
		return false
	}
}

// dueFirst says why a container that was made and never ran is to be started now.
func (c *computation) dueFirst(w *work, s *runtime.Status, of manifest.Workload) string {
	switch {
	case s.Reason == "" && !c.set.Node.Unschedulable:
		return "it was made and not started"
	case s.Reason == "":
		c.unschedulable(w, "is not started")
		return ""
	case w.want == nil || of.Digest != w.want.Digest:
		return "" // it never ran, so there is nothing to keep alive until the new one can be made
	default:
		return "starting it failed before: " + s.Message
	}
}

// restartAt returns when a container that exited is to be started again: the first time at once, then after initial,
// doubling up to max; from the beginning after a long run.
func (c *computation) restartAt(s *runtime.Status, h History, digest string, b manifest.RestartBackoff) time.Time {
	if h.Crashes == 0 || s.Ran >= longRun {
		return time.Time{}
	}
	delay := crashDelay(h.Crashes, b)
	from := s.FinishedAt
	if h.Digest != digest && h.LastFailure.After(from) {
		from = h.LastFailure
	}
	if from.After(c.in.Now.Add(delay)) {
		return time.Time{} // the clock was set back
	}
	return from.Add(delay)
}

// crashDelay is how long to wait after the n-th crash in a row, n at least 1.
func crashDelay(n int, b manifest.RestartBackoff) time.Duration {
	delay := max(time.Duration(value(b.Initial)), restartMin)
	longest := max(time.Duration(value(b.Max)), delay)
	for i := 1; i < n && delay < longest; i++ {
		delay = min(2*delay, longest)
	}
	return delay
}

// exitText says how a container ended.
func exitText(s *runtime.Status, crashes int) string {
	text := "its exit was not seen"
	switch {
	case s.OOMKilled:
		text = "ran out of memory"
		if s.Spec.Limits.Memory > 0 {
			text += " (limit " + manifest.Bytes(s.Spec.Limits.Memory).String() + ")"
		}
	case s.ExitCode != nil:
		text = fmt.Sprintf("exited with code %d", *s.ExitCode)
	case s.Message != "":
		text = s.Message
	}
	if crashes > 0 && s.Ran < longRun {
		text += fmt.Sprintf(" after %v, restarted %d times before", s.Ran.Round(time.Millisecond), crashes)
		if crashes == 1 {
			text = text[:len(text)-len("1 times before")] + "once before"
		}
	}
	return text
}
