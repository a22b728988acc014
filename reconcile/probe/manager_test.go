package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// box is what runs in the stub: containers whose commands end as codes says, and all that was asked.
type box struct {
	mu    sync.Mutex
	codes map[string]int // by command; one that is not in it succeeds
	hang  map[string]bool
	gone  map[string]bool // cannot be asked
	calls []string
	began time.Time
}

func newBox() *box {
	return &box{codes: map[string]int{}, hang: map[string]bool{}, gone: map[string]bool{}, began: time.Now()}
}

func (b *box) exec(ctx context.Context, id runtime.ID, command []string) (runtime.ExecResult, error) {
	b.mu.Lock()
	b.calls = append(b.calls, fmt.Sprintf("%v %s %s", time.Since(b.began), id, command[0]))
	code, hang, gone := b.codes[command[0]], b.hang[command[0]], b.gone[command[0]]
	b.mu.Unlock()
	if hang {
		<-ctx.Done()
		return runtime.ExecResult{}, ctx.Err()
	}
	if gone {
		return runtime.ExecResult{}, errors.New("no supervisor")
	}
	return runtime.ExecResult{Code: code}, nil
}

func (b *box) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// called returns what was asked since it was called last.
func (b *box) called() []string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

func (b *box) want(t *testing.T, want ...string) {
	t.Helper()
	if got := b.called(); !slices.Equal(got, want) {
		t.Fatalf("asked\n%q, want\n%q", got, want)
	}
}

// run runs fn in a bubble of virtual time with a Manager over a box.
func run(t *testing.T, kept map[runtime.ID]plan.Health, fn func(b *box, m *Manager)) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		b := newBox()
		m := NewManager(&stub{exec: b.exec}, kept, func() {}, slog.New(slog.DiscardHandler))
		fn(b, m)
		m.Close()
	})
}

// container is the first start of a running container of this spec, which has run for ran.
func container(t *testing.T, id, spec string, ran time.Duration) runtime.Status {
	t.Helper()
	w := manifest.Workload{Name: manifest.Name{Namespace: "default", Name: id}}
	if err := json.Unmarshal([]byte(spec), &w.Spec); err != nil {
		t.Fatal(err)
	}
	origin, err := w.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return runtime.Status{
		ID: runtime.ID(id), State: runtime.StateRunning, Starts: 1, Ran: ran,
		Spec: runtime.Spec{Name: runtime.Name(w.Name), Origin: origin, OriginDigest: spec},
	}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestManagerAsks fails where probes are not asked when their manifest says, or go on after the container's end.
func TestManagerAsks(t *testing.T) {
	run(t, nil, func(b *box, m *Manager) {
		c := container(t, "c", `{"startupProbe": {"exec": {"command": ["start"]}, "periodSeconds": 1, "failureThreshold": 30},
			"livenessProbe": {"exec": {"command": ["live"]}, "periodSeconds": 4, "initialDelaySeconds": 1},
			"readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 3}}`, 0)
		b.codes["start"] = 1
		m.Observe([]runtime.Status{c})
		b.want(t, "0s c start")
		pass(2500 * time.Millisecond)
		b.want(t, "1s c start", "2s c start")
		b.set(func() { b.codes["start"] = 0 })
		pass(3 * time.Second) // 5.5 s
		b.want(t, "3s c start", "3s c ready", "4s c live")
		if h := m.Snapshot()["c"]; !h.Started || !h.Ready || h.ReadyFor != 2500*time.Millisecond {
			t.Errorf("%+v, want started, and ready for 2.5 s", h)
		}
		m.Observe([]runtime.Status{c}) // changes nothing
		pass(4 * time.Second)          // 9.5 s
		b.want(t, "6s c ready", "8s c live", "9s c ready")
		c.State = runtime.StateExited
		m.Observe([]runtime.Status{c})
		pass(time.Minute)
		b.want(t)
		if len(m.Snapshot())+len(m.Kept()) > 0 {
			t.Error("one that has ended still has a health")
		}
	})
}

// TestManagerTellsChanges fails where the loop is not poked when something changed, or is poked when nothing did.
func TestManagerTellsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, pokes := newBox(), 0
		m := NewManager(&stub{exec: b.exec}, nil, func() { pokes++ }, slog.New(slog.DiscardHandler))
		defer m.Close()
		m.Observe([]runtime.Status{container(t, "c", `{"readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1},
			"livenessProbe": {"exec": {"command": ["live"]}, "periodSeconds": 1, "terminationGracePeriodSeconds": 2}}`, 0)})
		pass(10 * time.Second)
		if pokes == 0 {
			t.Fatal("nobody was told that it is ready")
		}
		after := pokes
		pass(time.Minute)
		if pokes != after {
			t.Errorf("told of %d changes where there were none", pokes-after)
		}
		b.set(func() { b.codes["live"] = 1 })
		pass(5 * time.Second)
		h := m.Snapshot()["c"]
		if pokes == after || h.Failed != "livenessProbe failed 3 times: exit code 1" || h.Grace == nil || *h.Grace != 2*time.Second {
			t.Errorf("%d changes told of, %+v", pokes-after, h)
		}
		var reasons []string
		for _, n := range m.Notes() {
			reasons = append(reasons, n.Name.Name+" "+n.Reason)
		}
		if !slices.Equal(reasons, []string{"c Ready", "c Unhealthy"}) || len(m.Notes()) > 0 {
			t.Errorf("notes: %q", reasons)
		}
	})
}

// TestManagerTimeout fails where a probe that hangs is not a failure after its timeout, or keeps others from being asked.
func TestManagerTimeout(t *testing.T) {
	run(t, nil, func(b *box, m *Manager) {
		b.hang["hangs"] = true
		list := []runtime.Status{container(t, "good", `{"readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1}}`, 0)}
		for i := range maxAsking - 1 {
			list = append(list, container(t, fmt.Sprintf("bad-%d", i), `{"readinessProbe": {"exec": {"command": ["hangs"]}, "periodSeconds": 1}}`, 0))
		}
		m.Observe(list)
		pass(10500 * time.Millisecond)
		all := m.Snapshot()
		if h := all["good"]; !h.Ready || h.ReadyFor != 10500*time.Millisecond {
			t.Errorf("%+v, want ready from the beginning", h)
		}
		if h := all["bad-0"]; h.Ready || h.Message != "readinessProbe failed: no answer in time" {
			t.Errorf("%+v, want not ready, no answer in time", h)
		}
	})
}

// TestManagerInherits fails where readiness does not survive the agent, or that of another start does.
func TestManagerInherits(t *testing.T) {
	const spec = `{"startupProbe": {"exec": {"command": ["start"]}}, "readinessProbe": {"exec": {"command": ["ready"]}, "periodSeconds": 1},
		"lifecycle": {"postStart": {"exec": {"command": ["hook"]}}}}`
	var kept map[runtime.ID]plan.Health
	run(t, nil, func(_ *box, m *Manager) {
		m.Observe([]runtime.Status{container(t, "c", spec, 0), container(t, "d", spec, 0)})
		synctest.Wait()
		kept = m.Kept()
	})
	want := plan.Health{Starts: 1, PostStarted: true, Started: true, Ready: true}
	if kept["c"] != want || kept["d"] != want {
		t.Fatalf("kept: %+v", kept)
	}
	run(t, kept, func(b *box, m *Manager) {
		b.codes["ready"] = 1
		again := container(t, "d", spec, 0)
		again.Starts = 2
		m.Observe([]runtime.Status{container(t, "c", spec, time.Hour), again})
		if h := m.Snapshot()["c"]; !h.Started || !h.Ready {
			t.Errorf("%+v, want ready as the agent before said", h)
		}
		pass(1500 * time.Millisecond)
		if h := m.Snapshot()["d"]; !h.Started || h.Ready {
			t.Errorf("%+v, want not ready: it is another start", h)
		}
		if calls := strings.Join(b.called(), ", "); strings.Contains(calls, "c hook") || strings.Contains(calls, "c start") || !strings.Contains(calls, "d hook") {
			t.Errorf("asked %s; want hook and startup probe of the new start only", calls)
		}
		pass(3 * time.Second)
		if h := m.Snapshot()["c"]; h.Ready {
			t.Errorf("%+v, want not ready: its own probe says so", h)
		}
	})
}

// TestManagerDoesNotBlameTheUnknown fails where one is said not to be ready that was not asked yet.
func TestManagerDoesNotBlameTheUnknown(t *testing.T) {
	run(t, nil, func(b *box, m *Manager) {
		b.codes["ready"] = 1
		m.Observe([]runtime.Status{container(t, "c", `{"readinessProbe": {"exec": {"command": ["ready"]}, "initialDelaySeconds": 5}}`, 0)})
		pass(4 * time.Second)
		if h, ok := m.Snapshot()["c"]; ok {
			t.Errorf("%+v before it was asked", h)
		}
		pass(2 * time.Second)
		if h, ok := m.Snapshot()["c"]; !ok || h.Ready {
			t.Errorf("%+v, %v; want not ready", h, ok)
		}
	})
}

// TestPostStart fails where the hook is not run once for each start before anything is asked, where its failure is not the
// start's, or where one that was cut short or could not be run is not run again.
func TestPostStart(t *testing.T) {
	const spec = `{"livenessProbe": {"exec": {"command": ["live"]}}, "lifecycle": {"postStart": {"exec": {"command": ["hook"]}}}}`
	run(t, nil, func(b *box, m *Manager) {
		b.gone["hook"] = true
		c := container(t, "c", spec, 0)
		m.Observe([]runtime.Status{c})
		b.want(t, "0s c hook")
		if h := m.Snapshot()["c"]; h.Started || h.Ready || h.Failed != "" || len(m.Kept()) > 0 {
			t.Errorf("%+v, want not started; nothing is kept of a hook that is not done", h)
		}
		b.set(func() { delete(b.gone, "hook") })
		pass(time.Second)
		b.want(t, "1s c hook", "1s c live")
		if h := m.Snapshot()["c"]; !h.PostStarted || !h.Started || !h.Ready {
			t.Errorf("%+v, want started and ready", h)
		}

		b.set(func() { b.codes["hook"] = 7 })
		c.Starts = 2
		m.Observe([]runtime.Status{c})
		b.want(t, "1s c hook")
		if h := m.Snapshot()["c"]; h.Failed != "postStart failed: exit code 7" || h.Ready {
			t.Errorf("%+v, want failed", h)
		}
		pass(time.Minute)
		b.want(t)
		if notes := m.Notes(); notes[len(notes)-1].Reason != ReasonPostStart {
			t.Errorf("notes: %+v", notes)
		}
	})
	var kept map[runtime.ID]plan.Health
	run(t, nil, func(b *box, m *Manager) {
		b.hang["hook"] = true
		m.Observe([]runtime.Status{container(t, "c", spec, 0)})
		b.want(t, "0s c hook")
		kept = m.Kept()
	})
	run(t, kept, func(b *box, m *Manager) {
		m.Observe([]runtime.Status{container(t, "c", spec, time.Hour)})
		b.want(t, "0s c hook", "0s c live")
	})
}

// TestChangedOnTheRunning fails where probes that change in place are not asked from then on.
func TestChangedOnTheRunning(t *testing.T) {
	run(t, nil, func(b *box, m *Manager) {
		m.Observe([]runtime.Status{container(t, "c", `{"readinessProbe": {"exec": {"command": ["old"]}, "periodSeconds": 1}}`, 0)})
		pass(500 * time.Millisecond)
		b.want(t, "0s c old")
		m.Observe([]runtime.Status{container(t, "c", `{"readinessProbe": {"exec": {"command": ["new"]}, "periodSeconds": 1}}`, 500*time.Millisecond)})
		pass(time.Second)
		b.want(t, "500ms c new", "1.5s c new")
		m.Observe([]runtime.Status{container(t, "c", `{}`, 0)})
		pass(time.Minute)
		b.want(t)
	})
}

// TestStop fails where the preStop hook is not run before the stop signal, where it makes the stop longer than its grace
// period, or where its failure keeps the container from being stopped.
func TestStop(t *testing.T) {
	const spec = `{"lifecycle": {"preStop": {"exec": {"command": ["drain"]}}}}`
	for name, c := range map[string]struct {
		grace time.Duration
		spec  string
		set   func(b *box)
		left  time.Duration
		note  string
		calls int
	}{
		"runs":        {10 * time.Second, spec, func(*box) {}, 10 * time.Second, "", 1},
		"fails":       {10 * time.Second, spec, func(b *box) { b.codes["drain"] = 1 }, 10 * time.Second, "preStop failed: exit code 1", 1},
		"hangs":       {10 * time.Second, spec, func(b *box) { b.hang["drain"] = true }, 0, "preStop failed: it took all of the grace period of 10s", 1},
		"cannot":      {10 * time.Second, spec, func(b *box) { b.gone["drain"] = true }, 10 * time.Second, "", 1},
		"no grace":    {0, spec, func(*box) {}, 0, "", 0},
		"has no hook": {3 * time.Second, `{}`, func(*box) {}, 3 * time.Second, "", 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBox()
			c.set(b)
			left := time.Duration(-1)
			rt := &stub{exec: b.exec, stop: func(_ context.Context, _ runtime.ID, grace time.Duration) error {
				left = grace
				return nil
			}}
			var notes []string
			err := Stop(t.Context(), rt, container(t, "c", c.spec, time.Minute), c.grace, func(n Note) { notes = append(notes, n.Message) })
			if err != nil || left != c.left || strings.Join(notes, "; ") != c.note {
				t.Errorf("%s: %v, stopped with %v left, notes %q; want %v and %q", name, err, left, notes, c.left, c.note)
			}
			if took := time.Since(b.began); took > c.grace {
				t.Errorf("%s: the hook took %v of %v", name, took, c.grace)
			}
			if calls := b.called(); len(calls) != c.calls {
				t.Errorf("%s: asked %q", name, calls)
			}
		})
	}
}

// TestUnreadableManifest fails where a container whose manifest cannot be read breaks the others.
func TestUnreadableManifest(t *testing.T) {
	run(t, nil, func(b *box, m *Manager) {
		broken := container(t, "a", `{}`, 0)
		broken.Spec.Origin = json.RawMessage(`{"spec": 3}`)
		m.Observe([]runtime.Status{broken, container(t, "c", `{"readinessProbe": {"exec": {"command": ["ready"]}}}`, 0)})
		b.want(t, "0s c ready")
		if all := m.Snapshot(); len(all) != 1 || !all["c"].Ready {
			t.Errorf("%+v", all)
		}
	})
}
