package probe

import (
	"context"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// maxAsking bounds how many probes are asked at once, so that a burst of them does not make each other late. Waiting for a
// turn is not part of a probe's timeout.
const maxAsking = 64

// askAgain is the time after which a hook is tried again that could not be.
const askAgain = time.Second

// Manager probes the containers that run, and runs their postStart hooks: at least once for each start, for one that an
// agent did not live to see the end of is run again by the next. It costs a timer for each probe and a goroutine while one
// is asked. Its methods may be called concurrently.
type Manager struct {
	rt      runtime.Runtime
	changed func()
	log     *slog.Logger
	asking  chan struct{}
	wg      sync.WaitGroup

	mu     sync.Mutex
	kept   map[runtime.ID]plan.Health // of an earlier agent; nil once looked at
	starts map[runtime.ID]*start
	notes  []Note
	closed bool
}

// start is one start of a container that is looked after. All is guarded by Manager.mu.
type start struct {
	*machine
	status runtime.Status
	care   care
	timers [kinds]*time.Timer
	end    context.CancelFunc
}

// NewManager returns a Manager that goes on from kept, what Kept said last. changed is called after a change of what
// Snapshot or Notes return; it must not block. It starts nothing.
func NewManager(rt runtime.Runtime, kept map[runtime.ID]plan.Health, changed func(), log *slog.Logger) *Manager {
	return &Manager{
		rt: rt, changed: changed, log: log, kept: kept, asking: make(chan struct{}, maxAsking), starts: map[runtime.ID]*start{},
	}
}

// Observe takes what Runtime.List said: it begins with what was started since, and ends with what does not run any more.
func (m *Manager) Observe(list []runtime.Status) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	now := time.Now()
	running := make(map[runtime.ID]bool, len(list))
	for _, s := range list {
		if s.State != runtime.StateRunning || len(s.Spec.Origin) == 0 {
			continue
		}
		running[s.ID] = true
		known := m.starts[s.ID]
		switch {
		case known == nil || known.starts != s.Starts:
			m.forget(s.ID)
			m.begin(s, now)
		case known.status.Spec.OriginDigest != s.Spec.OriginDigest:
			m.adopt(known, s, now)
		}
	}
	for id := range m.starts {
		if !running[id] {
			m.forget(id)
		}
	}
	m.kept = nil
}

// begin looks after a start that is new to m.
func (m *Manager) begin(s runtime.Status, now time.Time) {
	c := m.careOf(s)
	var before *plan.Health
	if h, ok := m.kept[s.ID]; ok {
		before = &h
	}
	st := &start{machine: newMachine(c, s.Starts, now.Add(-s.Ran), now, before, spread(s.ID)), status: s, care: c}
	m.starts[s.ID] = st
	m.look(st)
}

// look sets about with what is to be done for a start.
func (m *Manager) look(st *start) {
	ctx, end := context.WithCancel(context.Background())
	st.end = end
	if st.hook {
		m.wg.Go(func() { m.postStart(ctx, st) })
	}
	m.arm(ctx, st)
}

func (m *Manager) careOf(s runtime.Status) care {
	c, err := careOf(s.Spec.Origin)
	if err != nil {
		m.log.Error("cannot probe a container", "container", s.ID, "error", err)
	}
	return c
}

// adopt goes on with a manifest that was changed on the running container.
func (m *Manager) adopt(st *start, s runtime.Status, now time.Time) {
	st.end() // a hook or probe of the old manifest that is running
	m.disarm(st)
	st.status, st.care = s, m.careOf(s)
	st.adopt(st.care, now)
	m.look(st)
}

func (m *Manager) forget(id runtime.ID) {
	if st := m.starts[id]; st != nil {
		st.end()
		m.disarm(st)
		delete(m.starts, id)
	}
}

// arm sets the timers of the probes that are to be asked and have none.
func (m *Manager) arm(ctx context.Context, st *start) {
	for k := range kinds {
		if m.closed || st.timers[k] != nil || !st.active(k) {
			continue
		}
		m.wg.Add(1)
		st.timers[k] = time.AfterFunc(time.Until(st.checks[k].due), func() {
			defer m.wg.Done()
			m.ask(ctx, st, k)
		})
	}
}

func (m *Manager) disarm(st *start) {
	for k, t := range st.timers {
		if t != nil && t.Stop() {
			m.wg.Done()
		}
		st.timers[k] = nil
	}
}

// ask asks one probe when it is its turn.
func (m *Manager) ask(ctx context.Context, st *start, k kind) {
	select {
	case m.asking <- struct{}{}:
	case <-ctx.Done():
		return
	}
	m.mu.Lock()
	if ctx.Err() != nil {
		m.mu.Unlock()
		<-m.asking
		return
	}
	set, to := st.checks[k].settings, targetOf(st.status)
	m.mu.Unlock()
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, set.timeout)
	said := ask(limited, m.rt, to, set.action)
	cancel()
	<-m.asking
	m.update(ctx, st, func(now time.Time) []note {
		st.timers[k] = nil
		return st.answered(k, said, begun, now)
	})
}

// postStart runs the hook of a start. It may take as long as it likes: until then the container is not ready.
func (m *Manager) postStart(ctx context.Context, st *start) {
	m.mu.Lock()
	hook, to := *st.care.postStart, targetOf(st.status)
	m.mu.Unlock()
	said := ask(ctx, m.rt, to, hook)
	for said.unknown {
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return
		}
		said = ask(ctx, m.rt, to, hook)
	}
	m.update(ctx, st, func(now time.Time) []note { return st.hooked(said.message, now) })
}

// update changes what is known of a start, unless it is over.
func (m *Manager) update(ctx context.Context, st *start, change func(now time.Time) []note) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	before := settled(st.health(now))
	for _, n := range change(now) {
		m.note(st.status, n)
	}
	m.arm(ctx, st)
	if settled(st.health(now)) != before {
		m.changed()
	}
}

// settled is h without what changes all the time.
func settled(h plan.Health) plan.Health {
	h.ReadyFor, h.Message = 0, ""
	return h
}

func (m *Manager) note(s runtime.Status, n note) {
	m.notes = append(m.notes, Note{Name: manifest.Name(s.Spec.Name), Commit: s.Spec.Revision, Reason: n.reason, Message: n.message, Warning: n.warning})
	m.changed()
}

// Snapshot returns the health of every running container that has a probe or a postStart hook, as far as something is known
// of it: one that was not asked yet is not blamed for not being ready.
func (m *Manager) Snapshot() map[runtime.ID]plan.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	out := map[runtime.ID]plan.Health{}
	for id, st := range m.starts {
		if st.care.probed() && st.known() {
			out[id] = st.health(now)
		}
	}
	return out
}

// Kept returns what the next agent is to go on from.
func (m *Manager) Kept() map[runtime.ID]plan.Health {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[runtime.ID]plan.Health{}
	for id, st := range m.starts {
		if h := st.health(time.Time{}); st.care.probed() && h.PostStarted {
			out[id] = plan.Health{Starts: h.Starts, PostStarted: true, Started: h.Started, Ready: h.Ready}
		}
	}
	return out
}

// Notes returns what happened since it was called last.
func (m *Manager) Notes() []Note {
	m.mu.Lock()
	defer m.mu.Unlock()
	notes := slices.Clip(m.notes)
	m.notes = nil
	return notes
}

// Close ends every probe and hook and waits for them.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for _, st := range m.starts {
		st.end()
		m.disarm(st)
	}
	m.mu.Unlock()
	m.wg.Wait()
}

// spread is a number from 0 to 1 that is always the same for one container.
func spread(id runtime.ID) float64 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return float64(h.Sum32()) / (1 << 32)
}
