package plan

import (
	"fmt"
	"slices"
	"strings"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Reasons of a Hold that are not a runtime's.
const (
	ReasonCrashLoop     = "CrashLoopBackOff"
	ReasonImagePull     = "ImagePullBackOff"
	ReasonDependency    = runtime.ReasonDependencyNotReady
	ReasonUnschedulable = "Unschedulable"
	ReasonConfig        = "CreateContainerConfigError" // the manifest cannot be lowered
)

// decide says what a name needs now, its dependencies apart.
func (c *computation) decide(w *work) {
	switch {
	case c.isRenamed(w): // see renamed
	case w.ends():
		c.job(w)
	case w.want == nil:
		c.remove(w)
	case w.keep == nil:
		c.create(w)
	case w.candidate != nil:
		c.progress(w)
	case c.tidy(w):
	case w.keep.Spec.OriginDigest != w.want.Digest:
		c.change(w)
	default:
		c.upkeep(w)
	}
	if w.step == nil && w.hold == nil && w.keep != nil && w.want != nil && len(w.extra) > 0 {
		c.removeLeftovers(w)
	}
}

// create makes a container where there is none.
func (c *computation) create(w *work) {
	op, reason, remove := OpCreate, "new", removals(w.extra)
	if from, ok := c.renames.from[w.name]; ok {
		// What it was called before goes when everything that the new one needs is here.
		op, reason, remove = OpReplace, "renamed from "+from.Short(), removals(w.extra, c.observed[from])
	} else if c.accepted(w.name) != nil {
		reason = "missing: it has no container"
	}
	if c.unschedulable(w, "is not started") || c.refused(w) || c.gated(w) {
		return
	}
	spec, ok := c.spec(w)
	if !ok {
		return
	}
	w.step = &Step{Op: op, Workload: *w.want, Spec: spec, Remove: remove, Reason: reason}
}

// change brings a container from what it was made from to what is wanted. While that is not possible, the old one is
// kept alive.
func (c *computation) change(w *work) {
	if old, ok := c.become(w); ok && w.step == nil {
		c.keepAlive(w, old)
	}
}

// become has a container take over what it can of what is wanted, and replaces it for the rest. It returns what the container
// was made from; false where that cannot be read.
func (c *computation) become(w *work) (old manifest.Workload, ok bool) {
	old, err := manifest.DecodeWorkload(w.keep.Spec.Origin)
	if err != nil {
		c.replace(w, "what it was made from cannot be read: "+err.Error(), nil)
		return old, false
	}
	changes := manifest.Diff(old, *w.want)
	if manifest.Strongest(changes) == manifest.ClassReplace {
		c.replace(w, summary(changes), changes)
	} else {
		c.update(w, changes)
	}
	return old, true
}

// replace makes a new container in the place of the old.
func (c *computation) replace(w *work, reason string, changes []manifest.Change) {
	if c.unschedulable(w, "is not replaced") || c.refused(w) || c.gated(w) {
		return
	}
	// What ran before comes first, however long it takes to get the new one ready, but for the moment between the two.
	if f, busy := c.in.InFlight[w.name]; (!busy || f.Digest != w.want.Digest) && c.isDown(w) {
		return
	}
	spec, ok := c.spec(w)
	if !ok {
		return
	}
	w.step = &Step{Op: OpReplace, Workload: *w.want, Spec: spec, Reason: reason, Changes: changes}
	c.chooseStrategy(w)
}

// update makes what is wanted the container's spec without touching its process.
func (c *computation) update(w *work, changes []manifest.Change) {
	if c.refused(w) || c.gated(w) {
		return
	}
	spec, ok := c.spec(w)
	if !ok {
		return
	}
	if why := c.stale(w, w.keep, spec.Image); why != "" {
		c.replace(w, why, changes)
		return
	}
	w.step = &Step{
		Op: OpUpdate, Workload: *w.want, Spec: spec, ID: w.keep.ID, Reason: summary(changes), Changes: changes,
	}
}

// upkeep looks after a container that was made from what is wanted.
func (c *computation) upkeep(w *work) {
	if why := c.stale(w, w.keep, w.keep.Spec.Image); why != "" {
		c.replace(w, why, nil)
		if w.step == nil {
			c.keepAlive(w, *w.want)
		}
		return
	}
	if why := c.newSecret(w); why != "" && !c.refused(w) && !c.gated(w) {
		spec := w.keep.Spec
		spec.SecretDigests = c.secretDigests(w)
		w.step = &Step{Op: OpUpdate, Workload: *w.want, Spec: spec, ID: w.keep.ID, Reason: why}
		return
	}
	if why := c.due(w, w.keep, *w.want); why != "" && !c.refused(w) && !c.gated(w) {
		c.restart(w, w.keep, *w.want, why)
	}
	if w.step == nil && w.hold == nil {
		c.watch(w)
	}
}

// keepAlive starts the old container again where it is due, while the new one is held for a reason of its own.
func (c *computation) keepAlive(w *work, old manifest.Workload) {
	if old.Kind != manifest.KindContainer {
		return
	}
	held := w.hold
	why := c.due(w, w.keep, old)
	if refusal, _ := Refuse(old, c.in.Facts, c.in.Policy); why != "" && refusal == "" {
		c.restart(w, w.keep, old, why)
	}
	if held != nil {
		if w.hold != held {
			c.wakeAt(w.hold.Until)
		}
		w.hold = held
	}
}

// restart starts s, which was made from of, again.
func (c *computation) restart(w *work, s *runtime.Status, of manifest.Workload, why string) {
	w.step = &Step{Op: OpRestart, Workload: of, Spec: s.Spec, ID: s.ID, Remove: removals(w.extra), Reason: why}
	if s.State != runtime.StateRunning {
		return
	}
	w.step.Stop = removals([]*runtime.Status{s})
	if h, _ := c.health(s); h.Failed != "" && !w.past.Restart {
		w.step.Crash = true
		if h.Grace != nil {
			w.step.Stop[0].Grace = *h.Grace
		}
	}
}

// remove takes away every container of a name that is not wanted any more.
func (c *computation) remove(w *work) {
	if c.unschedulable(w, "is not removed") || c.removalGated(w) {
		return
	}
	w.step = &Step{
		Op: OpRemove, Remove: removals(w.extra, []*runtime.Status{w.keep, w.candidate, w.failed}),
		Reason: "not in " + c.set.Revision.Short() + " any more",
	}
}

// removeLeftovers takes away what is beside the container that counts.
func (c *computation) removeLeftovers(w *work) {
	if c.set.Node.Unschedulable || c.undoGated(w) {
		return
	}
	w.step = &Step{
		Op: OpRemove, Workload: *w.want, Spec: w.keep.Spec, ID: w.keep.ID, Remove: w.drained(), Reason: w.whyLeft(),
	}
}

// unschedulable holds w where the node starts nothing new and stops nothing. Crashed containers still restart.
func (c *computation) unschedulable(w *work, what string) bool {
	if !c.set.Node.Unschedulable {
		return false
	}
	w.hold = &Hold{
		Name: w.name, Reason: ReasonUnschedulable,
		Message: fmt.Sprintf("%s while node %s is unschedulable", what, c.set.Node.Name),
	}
	return true
}

// refused holds w where this server cannot or may not run it.
func (c *computation) refused(w *work) bool {
	reason, message := Refuse(*w.want, c.in.Facts, c.in.Policy)
	if reason == "" {
		return false
	}
	if w.keep != nil && w.keep.State == runtime.StateRunning && w.keep.Spec.OriginDigest != w.want.Digest {
		message += "; what ran before is kept"
	}
	w.hold = &Hold{Name: w.name, Reason: reason, Message: message}
	return true
}

// spec lowers what is wanted, pinned to the image that is known for it. It holds w where that cannot be done.
func (c *computation) spec(w *work) (runtime.Spec, bool) {
	spec, err := c.in.Lowered.spec(*w.want)
	if err != nil {
		w.hold = &Hold{Name: w.name, Reason: ReasonConfig, Message: err.Error()}
		return runtime.Spec{}, false
	}
	spec.Name = runtimeName(w.name) // a run of a CronJob has a name of its own
	spec.Revision = c.set.Revision.Commit
	spec.SecretDigests = c.secretDigests(w)
	if spec.Image != nil {
		pinned := *spec.Image
		pinned.Digest = c.pin(w, spec.Image)
		spec.Image = &pinned
	}
	return spec, true
}

// pin returns the digest that an image reference is taken to mean: what it was last looked up as with Always, else what
// it meant for the container that is here. References are resolved once: empty, where nobody did yet.
func (c *computation) pin(w *work, image *runtime.Image) string {
	if digest := c.lookedUp(image); digest != "" {
		return digest
	}
	before := w.keep
	if from, ok := c.renames.from[w.name]; ok {
		before, _ = pick(c.observed[from], "")
	}
	if before != nil && before.Spec.Image != nil && before.Spec.Image.Ref == image.Ref {
		return before.ImageDigest
	}
	return ""
}

// lookedUp returns the present digest of an image that is to be looked up always; empty for others, for references that
// name a digest themselves, and where the registry was not asked.
func (c *computation) lookedUp(image *runtime.Image) string {
	if image == nil || image.PullPolicy != runtime.PullAlways || strings.Contains(image.Ref, "@") {
		return ""
	}
	return c.in.ImageDigests[image.Ref]
}

// stale says why a container of w must be replaced though its manifest did not change; empty: it need not.
func (c *computation) stale(w *work, s *runtime.Status, image *runtime.Image) string {
	if now := c.lookedUp(image); now != "" && now != s.ImageDigest && (s.Spec.Image == nil || now != s.Spec.Image.Digest) {
		return fmt.Sprintf("image %s is a newer one: %s -> %s", image.Ref, abbreviate(s.ImageDigest), abbreviate(now))
	}
	for _, name := range c.changedSecrets(w, s) {
		if manifest.SecretClass(w.want.Spec, name) == manifest.ClassReplace {
			return contentChanged(name)
		}
	}
	return ""
}

func contentChanged(secret string) string { return "content of Secret " + secret + " changed" }

// changedSecrets returns the Secrets of w whose files are known to be others than those that s has, sorted.
func (c *computation) changedSecrets(w *work, s *runtime.Status) (changed []string) {
	for name, from := range w.want.Secrets {
		now, had := c.in.SecretDigests[from.FromDirectory], s.Spec.SecretDigests[from.FromDirectory]
		if now != "" && had != "" && now != had {
			changed = append(changed, name)
		}
	}
	slices.Sort(changed)
	return changed
}

// newSecret says of which Secret the files can be swapped, or were not known when the container was made and now are.
func (c *computation) newSecret(w *work) string {
	if changed := c.changedSecrets(w, w.keep); len(changed) > 0 {
		return contentChanged(changed[0])
	}
	var known []string
	for name, from := range w.want.Secrets {
		if c.in.SecretDigests[from.FromDirectory] != "" && w.keep.Spec.SecretDigests[from.FromDirectory] == "" {
			known = append(known, name)
		}
	}
	if len(known) == 0 {
		return ""
	}
	return "content of Secret " + slices.Min(known) + " is known now"
}

func (c *computation) secretDigests(w *work) map[string]string {
	if len(w.want.Secrets) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, s := range w.want.Secrets {
		if digest := c.in.SecretDigests[s.FromDirectory]; digest != "" {
			out[s.FromDirectory] = digest
		} else if w.keep != nil && w.keep.Spec.SecretDigests[s.FromDirectory] != "" {
			out[s.FromDirectory] = w.keep.Spec.SecretDigests[s.FromDirectory]
		}
	}
	return out
}
