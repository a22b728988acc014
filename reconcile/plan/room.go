package plan

import (
	"fmt"
	"math"
	"strings"

	"reconciler/manifest"
	"reconciler/runtime"
)

// ReasonInsufficient is the reason of a Hold for resources that are given away.
const ReasonInsufficient = "InsufficientResources"

// Amounts are resources of a server.
type Amounts struct {
	CPUMillis int64 // thousandths of a core
	Memory    int64 // bytes
	Disk      int64 // bytes
}

// each returns the amounts with the words for them.
func (a Amounts) each() [3]amount {
	bytes := func(n int64) string { return manifest.Bytes(n).String() }
	return [3]amount{
		{"cpu", a.CPUMillis, func(n int64) string { return fmt.Sprintf("%dm", n) }},
		{"memory", a.Memory, bytes},
		{"disk", a.Disk, bytes},
	}
}

// amount is so much of one resource.
type amount struct {
	name string
	n    int64
	text func(int64) string
}

// RequestedBy returns what is set aside for a container of w while it is meant to run.
func RequestedBy(w manifest.Workload) Amounts {
	r := w.Spec.Requested()
	out := Amounts{CPUMillis: int64(value(r.CPU)), Memory: int64(value(r.Memory))}
	if w.Spec.Resources != nil && w.Spec.Resources.Limits != nil {
		out.Disk = int64(value(w.Spec.Resources.Limits.Disk))
	}
	return out
}

// room is what this server has for containers, and what of it is given away.
type room struct {
	capacity, reserve [3]amount
	used              [3]int64
	holders           [3]int                     // how many names have some of it
	has               map[manifest.Name][3]int64 // what is set aside, by name; absent: nothing runs of it or is to
}

// newRoom counts everything that runs, that is started again when it ends, and that is being started.
func (c *computation) newRoom() *room {
	r := &room{capacity: c.in.Facts.Capacity.each(), reserve: c.in.Policy.Reserve.each(), has: map[manifest.Name][3]int64{}}
	if c.in.Facts.Capacity == (Amounts{}) {
		return r
	}
	for _, w := range c.works {
		name := w.name
		if to, ok := c.renames.to[name]; ok {
			name = to // its place is the other's
		}
		if has, lives := c.setAsideFor(w); lives {
			r.note(name, has)
		}
	}
	for name, f := range c.in.InFlight {
		if f.Op == OpRemove {
			continue
		}
		n := f.Requests.numbers()
		if w := c.byName[name]; f.Beside && w != nil && w.candidate == nil {
			n = added(n, r.has[name])
		}
		r.note(name, n)
	}
	return r
}

// setAsideFor returns what all of w's containers have; false where nothing of it is meant to run. What was stopped for a
// new one takes its place where that fails: there is need for the larger of both.
func (c *computation) setAsideFor(w *work) (has [3]int64, lives bool) {
	for _, s := range append([]*runtime.Status{w.candidate, w.failed}, w.extra...) {
		if of, ok := c.setAside(w, s); ok {
			has, lives = added(has, of.numbers()), true
		}
	}
	of, ok := c.setAside(w, w.keep)
	switch {
	case !ok:
	case w.candidate != nil && w.keep.State != runtime.StateRunning:
		for i, n := range of.numbers() {
			has[i] = max(has[i], n)
		}
	default:
		has = added(has, of.numbers())
	}
	return has, lives || ok
}

// note sees to it that at least n is set aside for name.
func (r *room) note(name manifest.Name, n [3]int64) {
	has := r.has[name]
	for i := range n {
		if n[i] <= has[i] {
			continue
		}
		if has[i] == 0 {
			r.holders[i]++
		}
		r.used[i] = saturated(r.used[i], n[i]-has[i])
		has[i] = n[i]
	}
	r.has[name] = has
}

// setAside returns what one of w's containers has; false where it has ended and is not started again.
func (c *computation) setAside(w *work, s *runtime.Status) (Amounts, bool) {
	if s == nil || s.State == runtime.StateRemoving {
		return Amounts{}, false
	}
	stays := s == w.keep && (w.want != nil || c.isRenamed(w))
	if s.State != runtime.StateRunning && !stays {
		return Amounts{}, false
	}
	of := manifest.Workload{}
	if w.want != nil && s.Spec.OriginDigest == w.want.Digest {
		of = *w.want
	} else if old, err := manifest.DecodeWorkload(s.Spec.Origin); err == nil {
		of = old
	}
	if over(of, s) {
		return Amounts{}, false
	}
	return RequestedBy(of), true
}

// over reports whether a container made from of has ended and is not started again.
func over(of manifest.Workload, s *runtime.Status) bool {
	return s.State == runtime.StateExited && !s.Stopped && ended(of, s)
}

// take sets aside what w's step needs, beside what its name has.
func (r *room) take(w *work) {
	if r.needed(w) {
		r.note(w.name, r.wanted(w))
	}
}

// wanted returns what w's step needs, with what its name has and goes on to have.
func (r *room) wanted(w *work) [3]int64 {
	n := RequestedBy(w.step.Workload).numbers()
	if w.step.Beside {
		n = added(n, r.has[w.name])
	}
	return n
}

// needed reports whether w's step is for something that runs or is to, once it is carried out.
func (r *room) needed(w *work) bool {
	_, lives := r.has[w.name]
	return lives || w.step.starts() || !over(w.step.Workload, w.keep)
}

// lacks says what w's step needs and is not there; empty: there is room for it. What its name has, and what it takes the
// place of, is its own already.
func (r *room) lacks(w *work) string {
	if !r.needed(w) {
		return ""
	}
	own := r.has[w.name]
	var words []string
	all := r.wanted(w)
	for i, want := range RequestedBy(w.step.Workload).each() {
		total, kept := r.capacity[i], min(r.reserve[i].n, r.capacity[i].n)
		more := all[i] - own[i]
		free := total.n - kept - r.used[i]
		if total.n == 0 || more <= 0 || more <= free {
			continue
		}
		sum := total.text(total.n) + " of this server"
		if kept > 0 {
			sum += " less " + total.text(kept) + " reserved"
		}
		if want.n > total.n-kept {
			words = append(words, fmt.Sprintf("wants %s %s, more than this server can give: %s", want.name, want.text(want.n), sum))
			continue
		}
		others := r.holders[i]
		if w.step.Beside {
			own[i] = 0
		}
		if own[i] > 0 {
			others--
		}
		words = append(words, fmt.Sprintf("wants %s %s, free %s: %s less %s requested by %s",
			want.name, want.text(want.n), want.text(max(0, free+own[i])), sum, want.text(r.used[i]-own[i]), containers(others)))
	}
	return strings.Join(words, "; ")
}

func containers(n int) string {
	if n == 1 {
		return "1 container"
	}
	return fmt.Sprintf("%d containers", n)
}

func (a Amounts) numbers() [3]int64 { return [3]int64{a.CPUMillis, a.Memory, a.Disk} }

func added(a, b [3]int64) [3]int64 {
	for i := range a {
		a[i] = saturated(a[i], b[i])
	}
	return a
}

// saturated adds numbers that are not negative; a manifest may say any.
func saturated(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
