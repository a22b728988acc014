package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// ReasonRolledBack is the reason of a Hold for an update that failed: what ran before runs again.
const ReasonRolledBack = "RolledBack"

const (
	// updateFailed begins the error of an update that was gone back from.
	updateFailed = "the update failed: "
	// maxStarts is how often a new container may fail to start for a reason that may pass.
	maxStarts = 3
)

// fail ends w's update, which failed, and goes back.
func (c *computation) fail(w *work, why string) {
	f := Failure{Name: w.name, Digest: w.want.Digest, Attempt: c.attempt(w), ID: w.candidate.ID, Message: why}
	c.failed = append(c.failed, f)
	w.past = RolledBack(w.past, f, c.in.Now)
	w.failed, w.candidate = w.candidate, nil
	c.gated(w)
	if !c.tidy(w) {
		c.keepAlive(w, c.madeFrom(w, w.keep))
	}
}

// RolledBack returns what h becomes when an update failed. It is not tried again before its digest changes, what its image
// means, what its Secrets hold, or somebody asks for it.
func RolledBack(h History, f Failure, now time.Time) History {
	return History{
		Digest: f.Digest, Failures: 1, LastFailure: now, Error: updateFailed + f.Message, Reason: ReasonRolledBack, Permanent: true,
		Restart: h.Restart, Good: h.Good, FailedID: f.ID, Attempt: f.Attempt, Undo: h.Undo,
	}
}

// Retried returns what h becomes when somebody asks to try again what failed.
func Retried(h History) History {
	return History{Restart: h.Restart, Good: h.Good, FailedID: h.FailedID}
}

// NotStartedError is why a container was not made or started for which everything was ready.
type NotStartedError struct{ Err error }

// Error says why.
func (e *NotStartedError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *NotStartedError) Unwrap() error { return e.Err }

// endsUpdate reports whether a failed step ends the update that it is of: what the server or the registry is to blame for is
// tried again, the rest is not, or not for ever.
func endsUpdate(h History, err error) bool {
	switch h.Reason {
	case runtime.ReasonDependencyNotReady, runtime.ReasonSupervisorLost, runtime.ReasonNotAllowed, runtime.ReasonIncompatible, runtime.ReasonVolumeConflict:
		return false
	}
	_, notStarted := errors.AsType[*NotStartedError](err)
	return h.Permanent || notStarted && h.Failures >= maxStarts
}

// attempt tells tries of one workload apart.
func (c *computation) attempt(w *work) string {
	return attempt(c.lookedUp(lookup(w.want.Spec)), c.secretDigests(w))
}

// lookup returns the image of a spec as far as lookedUp needs it.
func lookup(s manifest.Spec) *runtime.Image {
	if s.Image == "" {
		return nil
	}
	return &runtime.Image{Ref: s.Image, PullPolicy: runtime.PullPolicy(manifest.Defaulted(s).ImagePullPolicy)}
}

// attempt is as computation.attempt was when s was made.
func (s Step) attempt() string {
	image := ""
	if s.Spec.Image != nil && s.Spec.Image.PullPolicy == runtime.PullAlways {
		image = s.Spec.Image.Digest
	}
	return attempt(image, s.Spec.SecretDigests)
}

func attempt(image string, secrets map[string]string) string {
	if image == "" && len(secrets) == 0 {
		return ""
	}
	b, err := json.Marshal([]any{image, secrets})
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// undoes reports whether s only goes back or takes away what an update left: if it fails, that says nothing of what is
// wanted.
func (s Step) undoes() bool {
	return s.Op == OpSwitch || s.Op == OpRollback || s.Op == OpRemove && s.Workload.Digest != ""
}

// undoGated reports whether such a step failed not long enough ago.
func (c *computation) undoGated(w *work) bool {
	t := w.past.Undo
	if t.Failures == 0 || !t.Next.After(c.in.Now) {
		return false
	}
	if w.hold == nil {
		w.hold = &Hold{Name: w.name, Reason: t.Reason, Message: t.Error, Until: t.Next}
	} else {
		c.wakeAt(t.Next)
	}
	return true
}

// tidy sees to it that the good container of w serves, and that nothing but the one that failed last, stopped, is beside it. It
// reports whether there is something to do.
func (c *computation) tidy(w *work) bool {
	if !w.good || c.isReplacing(w) {
		return false
	}
	failedRuns := w.failed != nil && w.failed.State == runtime.StateRunning
	old := c.madeFrom(w, w.keep)
	up := w.keep.State == runtime.StateRunning || over(old, w.keep)
	extraRuns := slices.ContainsFunc(w.extra, func(s *runtime.Status) bool { return s.State == runtime.StateRunning })
	switch {
	case w.keep.Serving && !failedRuns && (len(w.extra) == 0 || !up && !extraRuns):
		return false
	case w.keep.Serving && !failedRuns && up:
		c.removeLeftovers(w)
		return w.step != nil
	case c.undoGated(w):
		return true
	}
	w.step = &Step{
		Op: OpRollback, Workload: old, Spec: w.keep.Spec, ID: w.keep.ID, Start: !up, Reason: w.whyBack(c.in.History[w.name]),
		Remove: removals(w.extra),
	}
	if failedRuns {
		w.step.Stop = removals([]*runtime.Status{w.failed})
	}
	if w.past.Digest == w.want.Digest {
		c.gated(w)
	}
	return true
}

// whyBack says why what ran before is gone back to. before is what was known before this plan.
func (w *work) whyBack(before History) string {
	switch {
	case w.failed != nil && w.past != before:
		return w.past.Error
	case w.failed != nil:
		return w.past.Error + "; going back was interrupted"
	case w.past.Digest == w.want.Digest && w.past.Failures > 0:
		return "the new one could not be started: " + w.past.Error
	case w.want.Digest == w.keep.Spec.OriginDigest:
		return "it is what is wanted, the update is not any more"
	default:
		return "the update before was overtaken by another one"
	}
}

// whyLeft says why what is beside the container that counts is taken away.
func (w *work) whyLeft() string {
	if len(w.extra) == 1 && w.good {
		if w.extra[0].CreatedAt.Before(w.keep.CreatedAt) {
			return "the one that took its place has proved itself"
		}
		if w.extra[0].State == runtime.StateRunning {
			return "its update was overtaken"
		}
	}
	if len(w.extra) > 1 {
		return fmt.Sprintf("%d leftovers of updates that were interrupted", len(w.extra))
	}
	return "a leftover of an update that was interrupted"
}

// drained lists what is beside the container that counts: what does not serve any more is given time for its connections.
func (w *work) drained() []Removal {
	out := removals(w.extra)
	for i, s := range w.extra {
		out[i].Drain = w.keep.Serving && !s.Serving && s.State == runtime.StateRunning
	}
	return out
}
