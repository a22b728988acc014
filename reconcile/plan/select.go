package plan

import (
	"cmp"
	"slices"

	"reconciler/manifest"
	"reconciler/runtime"
)

// sortInstances says which of a name's containers counts, and what the others are.
func (c *computation) sortInstances(w *work) {
	here := c.observed[w.name]
	if w.want != nil && w.want.Kind == manifest.KindContainer && len(here) > 1 {
		w.keep = c.goodOne(w, here)
	}
	if w.keep == nil {
		digest := ""
		if w.want != nil {
			digest = w.want.Digest
		}
		w.keep, w.extra = pick(here, digest)
		return
	}
	w.good = true
	replaces := c.replaces(w)
	_, flying := c.in.InFlight[w.name]
	rolledBack := w.past.Reason == ReasonRolledBack && w.past.Digest == w.want.Digest && w.past.Attempt == c.attempt(w)
	for _, s := range slices.Backward(here) { // the newest first
		ofWant := s.Spec.OriginDigest == w.want.Digest && s.State != runtime.StateRemoving
		switch {
		case s == w.keep:
		case rolledBack && ofWant && w.failed == nil:
			w.failed = s
		case !rolledBack && ofWant && replaces && w.candidate == nil && (flying || s.ID != w.past.FailedID && isTrying(s)) &&
			c.stale(w, s, s.Spec.Image) == "":
			w.candidate = s
		default:
			w.extra = append(w.extra, s)
		}
	}
	slices.Reverse(w.extra)
}

// goodOne returns the one of a name's containers that proved itself, as is known or, where several did, as the one that
// serves does or else the oldest; nil: none did.
func (c *computation) goodOne(w *work, here []*runtime.Status) *runtime.Status {
	var good *runtime.Status
	for _, s := range here {
		switch {
		case s.State == runtime.StateRemoving:
		case !c.isGood(w, s):
		case s.ID == w.past.Good:
			return s
		case good == nil || s.Serving && !good.Serving:
			good = s
		}
	}
	return good
}

// replaces reports whether the container that counts is to be replaced.
func (c *computation) replaces(w *work) bool {
	if w.keep.Spec.OriginDigest == w.want.Digest {
		return c.stale(w, w.keep, w.keep.Spec.Image) != ""
	}
	old, err := manifest.DecodeWorkload(w.keep.Spec.Origin)
	return err != nil || manifest.Strongest(manifest.Diff(old, *w.want)) == manifest.ClassReplace || c.stale(w, w.keep, lookup(w.want.Spec)) != ""
}

// isTrying reports whether a new container runs, or ended by itself. Any other, such as one whose start was interrupted, is
// made anew.
func isTrying(s *runtime.Status) bool {
	return s.State == runtime.StateRunning || s.State == runtime.StateExited && !s.Stopped && s.ExitCode != nil
}

// pick chooses which of a name's containers counts; the others are leftovers, such as of an update that died in the
// middle. One made from what is wanted comes first, then one that runs, then the newest. here is sorted by age.
func pick(here []*runtime.Status, digest string) (keep *runtime.Status, extra []*runtime.Status) {
	best := 0
	for _, s := range here {
		if rank := rank(s, digest); rank > 0 && rank >= best {
			keep, best = s, rank
		}
	}
	if len(here) == 1 && keep != nil {
		return keep, nil
	}
	for _, s := range here {
		if s != keep {
			extra = append(extra, s)
		}
	}
	return keep, extra
}

// rank says how much a container is worth keeping; 0: not at all.
func rank(s *runtime.Status, digest string) int {
	n := 1
	if s.State == runtime.StateRemoving {
		return 0
	}
	if s.State == runtime.StateRunning {
		n++
	}
	if s.Spec.OriginDigest == digest {
		n += 2
	}
	return n
}

func compareAge(a, b *runtime.Status) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
}

// removals lists containers to be taken away.
func removals(lists ...[]*runtime.Status) []Removal {
	var out []Removal
	for _, s := range slices.Concat(lists...) {
		if s != nil {
			out = append(out, Removal{ID: s.ID, Grace: s.Spec.StopGrace, Ended: s.State == runtime.StateExited})
		}
	}
	return out
}
