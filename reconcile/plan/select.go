package plan

import (
	"cmp"
	"slices"

	"reconciler/runtime"
)

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
			out = append(out, Removal{ID: s.ID, Grace: s.Spec.StopGrace})
		}
	}
	return out
}
