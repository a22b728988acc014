package probe

import (
	"reflect"
	"testing"
	"time"

	"reconciler/reconcile/plan"
)

// clock is a time to count from; what it is does not matter.
var clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds float64) time.Time { return clock.Add(time.Duration(seconds * float64(time.Second))) }

func every(seconds int, change func(*settings)) *settings {
	s := &settings{
		action: action{command: []string{"check"}}, period: time.Duration(seconds) * time.Second, timeout: time.Second,
		successes: 1, failures: 3,
	}
	if change != nil {
		change(s)
	}
	return s
}

func careFor(probes map[kind]*settings) care {
	var c care
	for k, s := range probes {
		c.probes[k] = s
	}
	return c
}

var (
	yes     = answer{ok: true}
	no      = answer{message: "no"}
	unknown = answer{message: "gone", unknown: true}
)

// say gives m answers of one probe, a second after each other, from second on.
func say(m *machine, k kind, from float64, answers ...answer) (notes []note) {
	for i, a := range answers {
		notes = append(notes, m.answered(k, a, at(from+float64(i)), at(from+float64(i)))...)
	}
	return notes
}

// TestInitialResults fails where a container without probes is not ready, where one is ready or alive for want of an answer,
// or where one probe does not wait for the other.
func TestInitialResults(t *testing.T) {
	for _, c := range []struct {
		name           string
		care           care
		started, ready bool
		active         []kind
	}{
		{"none", care{}, true, true, nil},
		{"liveness", careFor(map[kind]*settings{liveness: every(1, nil)}), true, true, []kind{liveness}},
		{"readiness", careFor(map[kind]*settings{readiness: every(1, nil)}), true, false, []kind{readiness}},
		{
			"all", careFor(map[kind]*settings{startup: every(1, nil), liveness: every(1, nil), readiness: every(1, nil)}),
			false, false,
			[]kind{startup},
		},
		{"startup", careFor(map[kind]*settings{startup: every(1, nil)}), false, false, []kind{startup}},
		{"hook", care{postStart: &action{}, probes: [kinds]*settings{startup: every(1, nil)}}, false, false, nil},
	} {
		m := newMachine(c.care, 1, clock, clock, nil, 0)
		h := m.health(clock)
		if h.Started != c.started || h.Ready != c.ready || h.Failed != "" {
			t.Errorf("%s: %+v, want started %v, ready %v, not failed", c.name, h, c.started, c.ready)
		}
		var active []kind
		for k := range kinds {
			if m.active(k) {
				active = append(active, k)
			}
		}
		if !reflect.DeepEqual(active, c.active) {
			t.Errorf("%s: asks %v, want %v", c.name, active, c.active)
		}
	}
}

// TestThresholds fails where a result counts before its threshold, or where answers that are not in a row add up.
func TestThresholds(t *testing.T) {
	m := newMachine(careFor(map[kind]*settings{readiness: every(1, func(s *settings) { s.successes = 2 })}), 1, clock, clock, nil, 0)
	steps := []struct {
		say   answer
		ready bool
	}{
		{yes, false},
		{no, false},
		{yes, false},
		{yes, true},
		{no, true},
		{no, true},
		{yes, true},
		{no, true},
		{no, true},
		{unknown, true},
		{no, false},
		{yes, false},
		{unknown, false},
		{yes, true},
	}
	for i, s := range steps {
		say(m, readiness, float64(i), s.say)
		if h := m.health(at(float64(i))); h.Ready != s.ready {
			t.Fatalf("after answer %d: ready %v, want %v", i, h.Ready, s.ready)
		}
	}
	if got := m.health(at(20)).ReadyFor; got != 7*time.Second {
		t.Errorf("ready for %v, want 7s", got)
	}
}

// TestLivenessGivesUp fails where a container that does not live is not given up at the threshold, or is asked on.
func TestLivenessGivesUp(t *testing.T) {
	grace := 2 * time.Second
	m := newMachine(careFor(map[kind]*settings{
		liveness: every(1, func(s *settings) { s.grace = &grace }), readiness: every(1, nil),
	}), 1, clock, clock, nil, 0)
	say(m, readiness, 0, yes)
	if notes := say(m, liveness, 0, yes, no, no); len(notes) > 0 || m.health(at(2)).Failed != "" {
		t.Fatalf("given up after two failures: %v", notes)
	}
	notes := say(m, liveness, 3, no)
	h := m.health(at(3))
	if want := "livenessProbe failed 3 times: no"; h.Failed != want || h.Ready || h.Grace == nil || *h.Grace != grace {
		t.Fatalf("%+v, want failed %q with its own grace period and not ready", h, want)
	}
	if len(notes) != 1 || notes[0].reason != ReasonUnhealthy || !notes[0].warning {
		t.Errorf("notes: %v", notes)
	}
	if m.active(liveness) || m.active(readiness) {
		t.Error("one that was given up is still asked")
	}
}

// TestStartupGates fails where the others are asked before the startup probe succeeded, or their delays do not count from
// then, or where a startup probe that never succeeds does not end the container.
func TestStartupGates(t *testing.T) {
	c := careFor(map[kind]*settings{
		startup:   every(1, func(s *settings) { s.delay = 2 * time.Second }),
		liveness:  every(1, func(s *settings) { s.delay = 5 * time.Second }),
		readiness: every(1, nil),
	})
	m := newMachine(c, 1, clock, clock, nil, 0)
	if due := m.checks[startup].due; !due.Equal(at(2)) {
		t.Errorf("startup is asked at %v, want at 2 s", due.Sub(clock))
	}
	say(m, startup, 2, no, no, yes)
	if !m.active(liveness) || !m.active(readiness) || m.active(startup) {
		t.Error("after the startup probe succeeded, only the others are to be asked")
	}
	if l, r := m.checks[liveness].due, m.checks[readiness].due; !l.Equal(at(9)) || !r.Equal(at(4)) {
		t.Errorf("liveness is asked at %v, readiness at %v; want 9s and 4s", l.Sub(clock), r.Sub(clock))
	}
	if h := m.health(at(4)); !h.Started || h.Ready {
		t.Errorf("%+v, want started and not ready", h)
	}

	m = newMachine(c, 1, clock, clock, nil, 0)
	say(m, startup, 2, no, no, no)
	if h := m.health(at(5)); h.Failed != "startupProbe failed 3 times: no" {
		t.Errorf("%+v, want failed", h)
	}
}

// TestPeriod fails where a probe that takes long is asked again before it ended, or too late.
func TestPeriod(t *testing.T) {
	m := newMachine(careFor(map[kind]*settings{readiness: every(10, nil)}), 1, clock, clock, nil, 0)
	for _, c := range []struct{ begun, ended, due float64 }{{0, 1, 10}, {10, 10, 20}, {20, 35, 35}} {
		m.answered(readiness, yes, at(c.begun), at(c.ended))
		if due := m.checks[readiness].due; !due.Equal(at(c.due)) {
			t.Errorf("asked from %v to %v s: next at %v, want %v s", c.begun, c.ended, due.Sub(clock), c.due)
		}
	}
}

// TestInheritedReadiness fails where what an earlier agent knew is not trusted, is trusted against the container's own
// answers, or is taken for another start.
func TestInheritedReadiness(t *testing.T) {
	c := careFor(map[kind]*settings{startup: every(10, nil), readiness: every(10, nil)})
	before := &plan.Health{Starts: 2, PostStarted: true, Started: true, Ready: true}

	m := newMachine(c, 2, clock, at(100), before, 0.5)
	if h := m.health(at(100)); !h.Started || !h.Ready {
		t.Fatalf("%+v, want started and ready as before", h)
	}
	if due := m.checks[readiness].due; !due.Equal(at(105)) {
		t.Errorf("asked at %v, want half a period later", due.Sub(clock))
	}
	say(m, readiness, 105, no, no)
	if !m.health(at(106)).Ready {
		t.Error("two failures count already")
	}
	say(m, readiness, 107, no)
	if m.health(at(107)).Ready {
		t.Error("still trusted after three failures")
	}

	if h := newMachine(c, 3, clock, at(100), before, 0).health(at(100)); h.Started || h.Ready {
		t.Errorf("%+v: readiness of another start", h)
	}
}

// TestChangedProbes fails where a probe that is changed on a running container makes it unready or not started, where one that
// is not changed begins anew, or where one that is gone still counts.
func TestChangedProbes(t *testing.T) {
	live := every(1, nil)
	m := newMachine(careFor(map[kind]*settings{startup: every(1, nil), liveness: live, readiness: every(1, nil)}), 1, clock, clock, nil, 0)
	say(m, startup, 0, yes)
	say(m, readiness, 0, yes)
	say(m, liveness, 0, no, no)

	m.adopt(careFor(map[kind]*settings{startup: every(2, nil), liveness: every(1, nil), readiness: every(5, nil)}), at(3))
	if h := m.health(at(3)); !h.Started || !h.Ready {
		t.Errorf("%+v, want started and ready still", h)
	}
	if m.active(startup) {
		t.Error("the startup probe is asked again")
	}
	say(m, liveness, 3, no)
	if m.health(at(3)).Failed == "" {
		t.Error("the failures of a probe that did not change were forgotten")
	}

	m = newMachine(careFor(map[kind]*settings{startup: every(1, nil), readiness: every(1, nil)}), 1, clock, clock, nil, 0)
	m.adopt(care{}, at(1))
	if h := m.health(at(1)); !h.Started || !h.Ready {
		t.Errorf("%+v, want started and ready without probes", h)
	}

	m = newMachine(care{}, 1, clock, clock, nil, 0)
	m.adopt(care{postStart: &action{}, probes: [kinds]*settings{readiness: every(1, nil)}}, at(1))
	if h := m.health(at(1)); !h.Ready || m.hook {
		t.Errorf("%+v, hook %v: want ready until its new probe says no, and no hook for a start that is past", h, m.hook)
	}
	if due := m.checks[readiness].due; !due.Equal(at(1)) {
		t.Errorf("new probe is asked at %v, want at once", due.Sub(clock))
	}
}

// TestNotes fails where a change is not told of, or is told of more than once.
func TestNotes(t *testing.T) {
	m := newMachine(careFor(map[kind]*settings{startup: every(1, nil), readiness: every(1, func(s *settings) { s.failures = 1 })}), 1, clock, clock, nil, 0)
	notes := say(m, startup, 0, no, yes)
	notes = append(notes, say(m, readiness, 2, no, no, yes, yes, no, no, yes)...)
	var got []string
	for _, n := range notes {
		got = append(got, n.reason+": "+n.message)
	}
	want := []string{
		"Unhealthy: readinessProbe failed: no; not ready", "Ready: ready 4s after its start",
		"Unhealthy: readinessProbe failed: no; not ready", "Ready: ready 8s after its start",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
