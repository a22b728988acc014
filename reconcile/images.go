package reconcile

import (
	"context"
	"maps"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// imageState is when references with imagePullPolicy Always were looked up.
type imageState struct {
	busy bool
	used bool // there are such references
	next time.Time
}

type imageRef struct {
	image    runtime.Image
	platform *runtime.Platform
}

// startResolve looks up what the set in force pulls Always, if it is time, in a goroutine of its own. A reference that
// cannot be looked up keeps its last meaning: a registry that is down changes nothing.
func (l *loop) startResolve(ctx context.Context) {
	if l.cfg.Resolve == nil || l.images.busy || l.state.Accepted == nil || time.Now().Before(l.images.next) {
		return
	}
	refs := map[string]imageRef{}
	for _, w := range l.state.Accepted.Workloads {
		if reason, _ := plan.Refuse(w, l.cfg.Facts, l.cfg.Policy); reason != "" {
			continue // never pulled either
		}
		if spec, err := plan.Lower(w); err == nil && alwaysPulled(spec) {
			refs[spec.Image.Ref] = imageRef{*spec.Image, spec.Platform}
		}
	}
	first := l.images.next.IsZero()
	l.images.next = time.Now().Add(l.cfg.ImageInterval)
	l.images.used = len(refs) > 0
	if len(refs) == 0 || first && len(l.state.ImageDigests) == 0 {
		return // preparing looks them up anyway
	}
	l.images.busy = true
	l.wg.Go(func() {
		digests := map[string]string{}
		for _, ref := range slices.Sorted(maps.Keys(refs)) {
			digest, err := l.cfg.Resolve(ctx, refs[ref].image, refs[ref].platform)
			if err != nil {
				l.log.Warn("cannot look up an image", "image", ref, "error", err)
				continue
			}
			digests[ref] = digest
		}
		l.a.post(func(l *loop) {
			l.images.busy = false
			for ref, digest := range digests {
				l.setImageDigest(ref, digest)
			}
		})
	})
}

func alwaysPulled(spec runtime.Spec) bool {
	return spec.Image != nil && spec.Image.PullPolicy == runtime.PullAlways
}

func (l *loop) setImageDigest(ref, digest string) {
	if digest == "" || l.state.ImageDigests[ref] == digest {
		return
	}
	l.state.ImageDigests = maps.Clone(l.state.ImageDigests) // the saved state may hold the old map
	if l.state.ImageDigests == nil {
		l.state.ImageDigests = map[string]string{}
	}
	l.state.ImageDigests[ref] = digest
	l.dirty = true
}

// dropImageDigests forgets what references meant that are not in set.
func (l *loop) dropImageDigests(set *manifest.Set) {
	used := map[string]bool{}
	for _, w := range set.Workloads {
		used[w.Spec.Image] = true
	}
	l.state.ImageDigests = maps.Clone(l.state.ImageDigests) // as in setImageDigest
	maps.DeleteFunc(l.state.ImageDigests, func(ref, _ string) bool { return !used[ref] })
}

// collect takes away images that nobody needs, in the background. What containers have, the runtime keeps by itself.
func (l *loop) collect(ctx context.Context) {
	if l.cfg.Collect == nil {
		return
	}
	keep := l.state.NeededImages()
	l.wg.Go(func() {
		if err := l.cfg.Collect(ctx, keep); err != nil && ctx.Err() == nil {
			l.log.Warn("cannot collect unused images", "error", err)
		}
	})
}

// keepImages remembers what the generation that has just proved good runs with.
func (l *loop) keepImages() {
	images := map[string]bool{}
	for _, o := range l.observed {
		if o.ImageDigest != "" {
			images[o.ImageDigest] = true
		}
	}
	if now := slices.Sorted(maps.Keys(images)); !slices.Equal(now, l.state.Images) {
		l.state.PreviousImages, l.state.Images = l.state.Images, now
	}
}
