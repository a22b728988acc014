package probe

import (
	"fmt"
	"time"

	"reconciler/reconcile/plan"
)

// machine is what is known of one start of a container. It is pure: it is told the time, and does nothing itself.
type machine struct {
	starts    int
	startedAt time.Time
	checks    [kinds]*check
	// hook is true until the postStart hook is done; nothing is asked before.
	hook bool
	// started is true once the startup probe succeeded, at since; ready is what the readiness probe last settled on.
	started, ready bool
	since          time.Time
	readySince     time.Time
	// failed is why it must be started again; grace what it is given to end then, if not its own.
	failed string
	grace  *time.Duration
}

// check is one probe of a machine.
type check struct {
	settings
	due time.Time // when it is to be asked next
	// said and run are the last answer and how often in a row it came.
	said bool
	run  int
	// message is what the last answer said that was not a success; empty after a success.
	message string
}

// answer is what came of asking once.
type answer struct {
	ok      bool
	message string
	// unknown means that it could not be asked, which says nothing of the container.
	unknown bool
}

// newMachine begins with a start of a container that c is said of. before is what an earlier agent knew of the same start;
// nil: nothing. spread, from 0 to 1, puts off the first questions to one that was known by so much of their periods.
func newMachine(c care, starts int, startedAt, now time.Time, before *plan.Health, spread float64) *machine {
	m := &machine{starts: starts, startedAt: startedAt, since: startedAt}
	known := before != nil && before.Starts == starts
	m.hook = c.postStart != nil && (!known || !before.PostStarted)
	m.started = c.probes[startup] == nil || known && before.Started
	m.ready = c.probes[readiness] == nil || known && before.Ready
	m.readySince = now
	for k, s := range c.probes {
		if s != nil {
			m.checks[k] = &check{settings: *s, due: startedAt.Add(s.delay)}
			if known && m.started {
				m.checks[k].due = now.Add(time.Duration(spread * float64(s.period)))
			}
		}
	}
	return m
}

// adopt goes on with probes that were changed on the running container. What they found so far stays true until the new
// ones settle on something else; a probe that is not changed does not notice.
func (m *machine) adopt(c care, now time.Time) {
	for k, s := range c.probes {
		old := m.checks[k]
		switch {
		case s == nil:
			m.checks[k] = nil
		case old == nil || !old.equal(*s):
			m.checks[k] = &check{settings: *s, due: latest(m.from(kind(k)).Add(s.delay), now)}
		}
	}
	if m.checks[startup] == nil && !m.started {
		m.start(now)
	}
	if m.checks[readiness] == nil && !m.ready {
		m.ready, m.readySince = true, now
	}
	m.hook = m.hook && c.postStart != nil
}

// active reports whether a probe is to be asked now or later, as things are.
func (m *machine) active(k kind) bool {
	switch {
	case m.checks[k] == nil, m.hook, m.failed != "":
		return false
	default:
		return m.started != (k == startup)
	}
}

// hooked takes note of how the postStart hook ended.
func (m *machine) hooked(why string, now time.Time) []note {
	m.hook, m.readySince = false, now
	if why == "" {
		return nil
	}
	m.failed = "postStart failed: " + why
	return []note{{reason: ReasonPostStart, message: m.failed, warning: true}}
}

// answered takes a probe's answer, which was asked for at begun, and returns what is worth telling of.
func (m *machine) answered(k kind, a answer, begun, now time.Time) []note {
	c := m.checks[k]
	c.due = latest(begun.Add(c.period), now)
	c.message = a.message
	if a.ok {
		c.message = ""
	}
	if a.unknown || !m.active(k) {
		return nil
	}
	if c.run == 0 || c.said != a.ok {
		c.said, c.run = a.ok, 0
	}
	c.run++
	switch {
	case a.ok && c.run == c.successes:
		return m.succeeded(k, now)
	case !a.ok && c.run == c.failures:
		return m.gaveUp(k)
	}
	return nil
}

func (m *machine) succeeded(k kind, now time.Time) []note {
	was := m.isReady()
	switch k {
	case startup:
		m.start(now)
	case readiness:
		if !m.ready {
			m.ready, m.readySince = true, now
		}
	case liveness, kinds:
	}
	if was || !m.isReady() {
		return nil
	}
	return []note{{reason: ReasonReady, message: fmt.Sprintf("ready %v after its start", now.Sub(m.startedAt).Round(time.Millisecond))}}
}

// start ends the startup probe and lets the others begin.
func (m *machine) start(now time.Time) {
	m.started, m.since = true, now
	m.readySince = now
	for _, k := range []kind{liveness, readiness} {
		if c := m.checks[k]; c != nil {
			c.due = now.Add(c.delay)
		}
	}
}

func (m *machine) gaveUp(k kind) []note {
	c := m.checks[k]
	text := fmt.Sprintf("%s failed: %s", k, c.message)
	if c.failures > 1 {
		text = fmt.Sprintf("%s failed %d times: %s", k, c.failures, c.message)
	}
	if k == readiness {
		m.ready = false
		return []note{{reason: ReasonUnhealthy, message: text + "; not ready", warning: true}}
	}
	m.failed, m.grace = text, c.grace
	return []note{{reason: ReasonUnhealthy, message: text, warning: true}}
}

// from is the moment that a probe's initial delay is counted from.
func (m *machine) from(k kind) time.Time {
	if k == startup {
		return m.startedAt
	}
	return m.since
}

// known reports whether there is a reason to say that it is ready, or not.
func (m *machine) known() bool {
	switch {
	case m.hook || m.failed != "":
		return true
	case !m.started:
		return m.checks[startup].run > 0
	default:
		return m.ready || m.checks[readiness].run > 0
	}
}

func (m *machine) isReady() bool { return !m.hook && m.started && m.ready && m.failed == "" }

// health is what the plan is told.
func (m *machine) health(now time.Time) plan.Health {
	h := plan.Health{
		Starts: m.starts, PostStarted: !m.hook, Started: m.started && !m.hook, Ready: m.isReady(), Failed: m.failed, Grace: m.grace,
		Message: m.message(),
	}
	if h.Ready {
		h.ReadyFor = now.Sub(m.readySince)
	}
	return h
}

// message is what was said by the probe that counts most of those that did not succeed.
func (m *machine) message() string {
	if m.failed != "" {
		return m.failed
	}
	if m.hook {
		return "postStart is not done yet"
	}
	for k, c := range m.checks {
		if c != nil && c.message != "" && m.active(kind(k)) {
			return kind(k).String() + " failed: " + c.message
		}
	}
	return ""
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
