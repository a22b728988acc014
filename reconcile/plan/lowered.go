package plan

import (
	"reconciler/manifest"
	"reconciler/runtime"
)

// Lowered keeps what Lower made of the workloads that a plan needed, for the plan after it: nothing of them is lowered again
// while they wait to begin, and the runs of a CronJob share one. Nothing in it goes stale, since Lower needs nothing but the
// workload: its digest and its place in the repository stand for all of it. It is as large as what the last two plans needed.
// The zero value is empty.
type Lowered struct {
	now, before map[loweredKey]runtime.Spec
}

type loweredKey struct {
	digest string
	source manifest.Position // which the digest leaves out
}

// turn begins a plan: what the one before the last needed goes.
func (l *Lowered) turn() {
	if l != nil {
		l.now, l.before = map[loweredKey]runtime.Spec{}, l.now
	}
}

// spec is Lower. What it returns is shared: nothing that it points at may be written.
func (l *Lowered) spec(w manifest.Workload) (runtime.Spec, error) {
	if l == nil || w.Digest == "" {
		return Lower(w)
	}
	key := loweredKey{w.Digest, w.Source}
	if s, ok := l.now[key]; ok {
		return s, nil
	}
	s, ok := l.before[key]
	if !ok {
		var err error
		if s, err = Lower(w); err != nil {
			return s, err
		}
	}
	l.now[key] = s
	return s, nil
}
