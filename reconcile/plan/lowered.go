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
	now, before map[loweredKey]*runtime.Spec
}

type loweredKey struct {
	digest string
	source manifest.Position // which the digest leaves out
}

// turn begins a plan: what the one before the last needed goes.
func (l *Lowered) turn() {
	if l != nil {
		l.now, l.before = map[loweredKey]*runtime.Spec{}, l.now
	}
}

// lowerers is how many workloads are lowered at a time.
const lowerers = 4

// ahead lowers list several at a time: of the first plan of a new server, that is most of the work. What cannot be lowered is
// left to spec.
func (l *Lowered) ahead(list []*manifest.Workload) {
	specs, done := make([]*runtime.Spec, len(list)), make(chan struct{})
	for k := range lowerers {
		go func() {
			for i := len(list) * k / lowerers; i < len(list)*(k+1)/lowerers; i++ {
				if s, err := Lower(*list[i]); err == nil {
					specs[i] = &s
				}
			}
			done <- struct{}{}
		}()
	}
	for range lowerers {
		<-done
	}
	for i, w := range list {
		if specs[i] != nil {
			l.now[loweredKey{w.Digest, w.Source}] = specs[i]
		}
	}
}

// lacks reports whether w is to be lowered, where it is needed.
func (l *Lowered) lacks(w *manifest.Workload) bool {
	if l == nil || w.Digest == "" {
		return false
	}
	key := loweredKey{w.Digest, w.Source}
	return l.now[key] == nil && l.before[key] == nil
}

// spec is Lower. What it returns is shared: nothing that it points at may be written.
func (l *Lowered) spec(w manifest.Workload) (runtime.Spec, error) {
	if l == nil || w.Digest == "" {
		return Lower(w)
	}
	key := loweredKey{w.Digest, w.Source}
	if s := l.now[key]; s != nil {
		return *s, nil
	}
	s := l.before[key]
	if s == nil {
		fresh, err := Lower(w)
		if err != nil {
			return fresh, err
		}
		s = &fresh
	}
	l.now[key] = s
	return *s, nil
}
