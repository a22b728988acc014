package plan

import (
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Reasons of a Hold while a new container has not proved itself yet.
const (
	ReasonProgressing = "Progressing"              // it becomes ready, or has to stay so for a while
	ReasonDeadline    = "ProgressDeadlineExceeded" // it did not become ready in time, and nothing goes back
	ReasonNotReady    = "NotReady"                 // it runs and is not ready
	ReasonUnhealthy   = "Unhealthy"                // its probes gave it up, and it is not to be started again
)

// shortestProof is how long a container that nobody probes must run to have proved itself.
const shortestProof = time.Second

// chooseStrategy says how w's step, a replacement, puts the new container in the place of the old one. The old one stays until
// the new one has proved itself, if it did so itself.
func (c *computation) chooseStrategy(w *work) {
	keep := []*runtime.Status{w.keep}
	if !c.isGood(w, w.keep) {
		w.step.Remove = removals(keep, w.extra)
		return
	}
	strategy := manifest.Defaulted(w.want.Spec).Strategy
	w.step.Good, w.step.GoesBack = w.keep.ID, *strategy.Rollback
	w.step.Remove = removals(w.extra, []*runtime.Status{w.failed})
	if strategy.Type == manifest.StrategyStartFirst {
		why := c.exclusive(w)
		if why == "" {
			w.step.Beside = true
			return
		}
		w.step.Reason += recreated(why)
	}
	c.recreate(w)
}

// recreate has w's step stop the old container before the new one starts.
func (c *computation) recreate(w *work) {
	old := removals([]*runtime.Status{w.keep})
	w.step.Beside = false
	if w.step.GoesBack {
		w.step.Stop = old
	} else {
		w.step.Remove = append(w.step.Remove, old...)
	}
}

func recreated(why string) string { return "; Recreate in place of StartFirst: " + why }

// exclusive says why a new container of w cannot run beside the old one; empty: it can.
func (c *computation) exclusive(w *work) string {
	if why := w.want.Spec.Exclusive(); why != "" {
		return why
	}
	for _, other := range c.set.Workloads {
		if name, shares := other.Spec.Network.SharedWith(); shares && name == w.name.Name && other.Name.Namespace == w.name.Namespace {
			return other.Name.Short() + " shares its network"
		}
	}
	return ""
}

// isGood reports whether s is what an update of w goes back to: it proved itself, as is known, or it does well as far as can
// be seen.
func (c *computation) isGood(w *work, s *runtime.Status) bool {
	of := c.madeFrom(w, s)
	switch {
	case of.Kind != manifest.KindContainer:
		return false
	case s.ID == w.past.Good:
		return true
	}
	switch s.State {
	case runtime.StateRunning:
		return c.judge(of, s).ready && (w.past.Crashes == 0 || s.Ran >= shortestProof)
	case runtime.StateExited:
		return s.Ran >= shortestProof
	default:
		return false
	}
}

// isReplacing reports whether a step in flight replaces w's container by what is wanted: what it stops is to be down.
func (c *computation) isReplacing(w *work) bool {
	f, ok := c.in.InFlight[w.name]
	return ok && f.Op == OpReplace && f.Digest == w.want.Digest
}

// madeFrom returns the workload that s was made from; one that says nothing where that cannot be read.
func (c *computation) madeFrom(w *work, s *runtime.Status) manifest.Workload {
	if w.want != nil && s.Spec.OriginDigest == w.want.Digest {
		return *w.want
	}
	old, err := manifest.DecodeWorkload(s.Spec.Origin)
	if err != nil {
		return manifest.Workload{Kind: manifest.KindContainer, Name: w.name, Digest: s.Spec.OriginDigest}
	}
	return old
}

// isDown starts what ran before where it is down by our doing or nobody saw why, before anything else is done for w.
func (c *computation) isDown(w *work) bool {
	s := w.keep
	if c.isReplacing(w) || s.State != runtime.StateExited || !s.Stopped && s.Reason != runtime.ReasonSupervisorLost {
		return false
	}
	of := c.madeFrom(w, s)
	if over(of, s) || w.past.Digest == of.Digest && w.past.Failures > 0 { // the latter: it does not start
		return false
	}
	if refusal, _ := Refuse(of, c.in.Facts, c.in.Policy); refusal != "" || of.Kind != manifest.KindContainer {
		return false
	}
	why := c.due(w, s, of)
	if why == "" {
		w.hold, w.done = nil, false
		return false
	}
	c.restart(w, s, of, why)
	return true
}

// judgement is how far a container is with proving itself.
type judgement struct {
	ready  bool // it may answer for its name
	proven bool
	failed string // why it will not
	late   bool   // failed, because its time is over
	// wait is when to look again though nothing happens; 0: no need.
	wait    time.Duration
	message string // of its probes
}

// judge says how s, made from of, is.
func (c *computation) judge(of manifest.Workload, s *runtime.Status) judgement {
	if s.State != runtime.StateRunning {
		if over(of, s) && (s.ExitCode != nil && *s.ExitCode == 0) {
			return judgement{ready: true, proven: true}
		}
		return judgement{failed: exitText(s, 0) + " after " + s.Ran.Round(time.Millisecond).String()}
	}
	strategy := manifest.Defaulted(of.Spec).Strategy
	h, known := c.health(s)
	if h.Failed != "" {
		return judgement{failed: h.Failed}
	}
	stay := time.Duration(*strategy.MinReadySeconds) * time.Second
	stayed := s.Ran
	if of.Spec.StartupProbe == nil && of.Spec.ReadinessProbe == nil || c.in.Health == nil {
		stay = max(stay, shortestProof)
	}
	if c.isProbed(of.Spec) {
		if !h.Started || !h.Ready {
			return late(judgement{message: h.Message}, known, *strategy.ProgressDeadlineSeconds, *strategy.MinReadySeconds, s.Ran)
		}
		stayed = h.ReadyFor
	}
	return judgement{ready: true, proven: stayed >= stay, wait: max(0, stay-stayed)}
}

// isProbed reports whether it is known when a container of s is ready.
func (c *computation) isProbed(s manifest.Spec) bool {
	return c.in.Health != nil && IsProbed(s)
}

// late says what becomes of a container that is not ready after it ran for so long. known is whether its probes had a say.
func late(j judgement, known bool, deadline, minReady int64, ran time.Duration) judgement {
	limit := time.Duration(deadline+minReady) * time.Second
	switch {
	case ran < limit:
		j.wait = limit - ran
	case known:
		j.failed, j.late = fmt.Sprintf("not ready within %v", time.Duration(deadline)*time.Second), true
		if j.message != "" {
			j.failed += ": " + j.message
		}
	}
	return j
}

// health returns what the probes say of the present start of s; false: nothing.
func (c *computation) health(s *runtime.Status) (Health, bool) {
	h, ok := c.in.Health[s.ID]
	if !ok || h.Starts != s.Starts {
		return Health{}, false
	}
	return h, true
}

// gaveUp says why the probes of s want it started again; empty: they do not.
func (c *computation) gaveUp(s *runtime.Status) string {
	h, _ := c.health(s)
	return h.Failed
}

// dueUnwell says why s, which its probes gave up, is to be started again now. It runs on until then: starts are as far
// apart as those of one that crashes.
func (c *computation) dueUnwell(w *work, s *runtime.Status, of manifest.Workload, why string) string {
	if of.Spec.RestartPolicy == manifest.RestartNever {
		w.hold = &Hold{Name: w.name, Reason: ReasonUnhealthy, Message: why + "; not started again: its restartPolicy is Never"}
		return ""
	}
	if w.past.Crashes == 0 || s.Ran >= longRun {
		return why
	}
	left := crashDelay(w.past.Crashes, *manifest.Defaulted(of.Spec).RestartBackoff) - s.Ran
	if left <= 0 {
		return why
	}
	w.hold = &Hold{Name: w.name, Reason: ReasonCrashLoop, Message: why, Until: c.in.Now.Add(left)}
	return ""
}

// progress looks after a new container that has not proved itself yet, and what it is to take the place of.
func (c *computation) progress(w *work) {
	j := c.judge(*w.want, w.candidate)
	serves := w.keep.State == runtime.StateRunning && w.keep.Serving
	if !j.ready && !serves {
		c.unready = append(c.unready, w.name)
	}
	_, flying := c.in.InFlight[w.name]
	switch {
	case flying: // judged when its step has ended
	case j.failed != "" && *manifest.Defaulted(w.want.Spec).Strategy.Rollback:
		c.fail(w, j.failed)
		return
	case j.failed != "":
		c.persist(w, j)
	case w.candidate.State == runtime.StateRunning && j.ready && !w.candidate.Serving:
		c.switchTo(w, w.candidate, "it is ready")
	case j.proven:
		c.prove(w)
		return
	case !j.ready && w.candidate.Serving && w.keep.State == runtime.StateRunning && c.judge(c.madeFrom(w, w.keep), w.keep).ready:
		c.switchTo(w, w.keep, "the new one is not ready any more")
	}
	if j.wait > 0 {
		c.wakeIn(j.wait)
	}
	if w.hold == nil {
		w.hold = &Hold{Name: w.name, Reason: ReasonProgressing, Message: progressText(w, j)}
	}
	if w.step == nil && !flying {
		c.keepServing(w)
	}
}

func progressText(w *work, j judgement) string {
	text := "the new container is not ready yet"
	switch {
	case j.ready && j.proven:
		text = "the new container is ready"
	case j.ready:
		text = fmt.Sprintf("the new container is ready and has to stay so for %v more", j.wait.Round(time.Millisecond))
	case j.message != "":
		text += ": " + j.message
	}
	if w.keep.State == runtime.StateRunning && w.keep.Serving {
		text += "; what ran before serves until then"
	}
	return text
}

// switchTo has s answer for w's name.
func (c *computation) switchTo(w *work, s *runtime.Status, why string) {
	if c.undoGated(w) {
		return
	}
	w.step = &Step{Op: OpSwitch, Workload: *w.want, Spec: s.Spec, ID: s.ID, Reason: why}
}

// keepServing starts the old container again, where it ended beside a new one that does not serve yet.
func (c *computation) keepServing(w *work) {
	if w.candidate.Serving || w.keep.State == runtime.StateRunning || c.exclusive(w) != "" {
		return
	}
	candidate := w.candidate
	w.candidate = nil
	c.keepAlive(w, c.madeFrom(w, w.keep))
	w.candidate = candidate
	if w.step != nil {
		w.step.Remove = nil
	}
}

// persist looks after a new container that failed and is not gone back from: it is started again as any other.
func (c *computation) persist(w *work, j judgement) {
	if !j.late {
		if why := c.due(w, w.candidate, *w.want); why != "" {
			c.restart(w, w.candidate, *w.want, why)
			w.step.Remove = nil
		}
		return
	}
	w.hold = &Hold{Name: w.name, Reason: ReasonDeadline, Message: j.failed}
}

// prove makes the new container the one that counts, and takes the old one away.
func (c *computation) prove(w *work) {
	c.proven = append(c.proven, Proof{Name: w.name, ID: w.candidate.ID})
	w.past = Proved(w.past, w.candidate.ID)
	w.extra = append(w.extra, w.keep)
	w.keep, w.candidate = w.candidate, nil
	c.removeLeftovers(w)
}

// Proved returns what h becomes when a container has proved itself.
func Proved(h History, id runtime.ID) History {
	h.Good = id
	return h
}

// Began returns what h becomes when s begins: what an update goes back to is known before anything is done.
func Began(h History, s Step) History {
	if s.Op == OpReplace && s.Good != "" {
		h.Good = s.Good
	}
	return h
}

// watch holds w while its container runs and is not ready, has one that is ready answer for its name, and notes when it has
// proved itself.
func (c *computation) watch(w *work) {
	if w.keep.State != runtime.StateRunning {
		return
	}
	if w.keep.ID == w.past.Good && w.keep.Serving && !c.isProbed(w.want.Spec) {
		return // as nearly always
	}
	j := c.judge(*w.want, w.keep)
	if j.wait > 0 {
		c.wakeIn(j.wait)
	}
	switch {
	case j.ready && !w.keep.Serving:
		c.switchTo(w, w.keep, "it is ready, and nothing else of the name is here")
	case j.proven && w.keep.ID != w.past.Good:
		c.proven = append(c.proven, Proof{Name: w.name, ID: w.keep.ID})
	case j.ready:
	case !j.late:
		w.hold = &Hold{Name: w.name, Reason: ReasonProgressing, Message: notReady(j)}
	default:
		w.hold = &Hold{Name: w.name, Reason: ReasonNotReady, Message: notReady(j)}
	}
}

func notReady(j judgement) string {
	if j.message == "" {
		return "not ready yet"
	}
	return "not ready: " + j.message
}
