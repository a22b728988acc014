package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// stubHealth stands for the probes: containers whose image is named "never" are not ready, others are after a second.
type stubHealth struct {
	mu   sync.Mutex
	seen map[runtime.ID]runtime.Status
	down map[runtime.ID]string // by container: its liveness probe gave it up
}

func (h *stubHealth) Observe(observed []runtime.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = map[runtime.ID]runtime.Status{}
	for _, o := range observed {
		h.seen[o.ID] = o
	}
}

func (h *stubHealth) Snapshot() map[runtime.ID]plan.Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[runtime.ID]plan.Health{}
	for id, o := range h.seen {
		if o.State != runtime.StateRunning || o.Spec.Image == nil {
			continue
		}
		ran := time.Since(o.StartedAt)
		p := plan.Health{Starts: o.Starts, Started: true, Ready: ran >= time.Second && !strings.Contains(o.Spec.Image.Ref, "never")}
		if p.Ready {
			p.ReadyFor = ran - time.Second
		} else {
			p.Message = "readinessProbe failed: connection refused"
		}
		p.Failed = h.down[id]
		out[id] = p
	}
	return out
}

// probe has everything probed that is annotated so, once a second.
func (w *world) probe() *stubHealth {
	h := &stubHealth{down: map[runtime.ID]string{}}
	w.cfg.health = h
	load := w.cfg.Load
	w.cfg.Load = func(tree fs.FS, rev manifest.Revision) (manifest.Set, error) {
		set, err := load(tree, rev)
		for i := range set.Workloads {
			if v := &set.Workloads[i]; v.Annotations["probe"] != "" {
				v.Spec.ReadinessProbe = &manifest.Probe{TCPSocket: &manifest.TCPSocketAction{Port: "80"}}
			}
		}
		return set, err
	}
	return h
}

// passes lets time pass with a probe's result each second.
func (w *world) passes(d time.Duration) {
	for range d / time.Second {
		after(time.Second)
		w.agent.poke()
		synctest.Wait()
	}
}

// service is a manifest of one container whose readiness is probed.
func service(name, image, extra string) map[string]string {
	return map[string]string{name + ".yaml": fmt.Sprintf(
		"apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: %s, annotations: {probe: \"yes\"}}\nspec:\n  image: registry.example.com/%s\n%s", name, image, extra)}
}

const (
	startFirst = "  strategy: {type: StartFirst}\n"
	recreate   = "  strategy: {type: Recreate}\n"
)

// A failed update ends where it began: with the registry and the remote down, before and after the agent was started again,
// and a person who waits is told so.
func TestFailedUpdateEndsWhereItBegan(t *testing.T) {
	for name, next := range map[string]struct {
		image, extra string
		fail         fake.Op
		why          string
	}{
		"never ready": {image: "never:2", why: "not ready within 1m0s: readinessProbe failed: connection refused"},
		"crashes":     {image: "web:2", extra: "  command: [exit, \"3\"]\n", why: "exited with code 3"},
		"bad image":   {image: "web:2", fail: fake.OpPrepare, why: "does not exist"},
		"bad command": {image: "web:2", fail: fake.OpStart, why: "does not exist"},
	} {
		for _, strategy := range []string{startFirst, recreate} {
			t.Run(name+" "+strings.TrimSpace(strategy), func(t *testing.T) {
				run(t, func(t *testing.T, w *world) {
					w.probe()
					first := w.push(service("web", "web:1", strategy))
					w.start()
					w.passes(5 * time.Second)
					good := w.row("web")
					if good.Health != report.Healthy || good.Revision != first {
						t.Fatalf("before: %+v", good)
					}
					if next.fail != "" {
						w.rt.Fail(next.fail, rtName("web"), 1, &runtime.Error{Op: "run", Err: errors.New("does not exist"), Permanent: true})
					}
					second := w.push(service("web", next.image, strategy+next.extra))
					type answer struct {
						r   SyncResult
						err error
					}
					answers := make(chan answer, 1)
					go func() {
						r, err := w.agent.Sync(t.Context())
						answers <- answer{r, err}
					}()
					w.passes(2 * time.Minute)
					a := <-answers
					if a.err != nil || a.r.Outcome != SyncRolledBack || a.r.Revision != second || !strings.Contains(a.r.Message, next.why) {
						t.Errorf("sync: %+v, %v", a.r, a.err)
					}
					w.src.fail(errors.New("no route to host"))
					w.rt.Fail(fake.OpPrepare, rtName("web"), -1, &runtime.Error{Op: "pull", Err: errors.New("no route to host")})
					check := func(when string) {
						t.Helper()
						r := w.row("web")
						if r.ID != good.ID || r.State != report.StateRunning || r.Reason != plan.ReasonRolledBack || r.Health != report.Degraded || !strings.Contains(r.Message, next.why) {
							t.Errorf("%s: %+v", when, r)
						}
						if s := w.status(); s.Sync != report.OutOfSync || s.Health != report.Degraded || s.Reason != plan.ReasonRolledBack && s.Reason != report.ReasonFetchFailed {
							t.Errorf("%s: %+v", when, s)
						}
						if h := w.history(); h[0].Result != journal.ResultRolledBack {
							t.Errorf("%s: history %+v", when, h[0])
						}
					}
					check("at once")
					if n := w.agent.Counters().Rollbacks; n != 1 {
						t.Errorf("%d rollbacks counted", n)
					}
					calls := len(w.rt.Calls())
					w.passes(10 * time.Minute)
					if now := w.rt.Calls(); len(now) != calls {
						t.Errorf("not at rest: %v", now[calls:])
					}
					w.stop()
					w.rt.Reboot()
					w.start()
					w.passes(time.Minute)
					check("after a reboot")
					w.stop()
				})
			})
		}
	}
}

// killer is a runtime that dies with its agent: before or after the n-th call that changes something.
type killer struct {
	*fake.Runtime
	mu    sync.Mutex
	left  int
	after bool
	kill  func()
	dead  bool
}

var errKilled = errors.New("killed")

func (k *killer) call(fn func() error) error {
	k.mu.Lock()
	if k.dead {
		k.mu.Unlock()
		return errKilled
	}
	k.left--
	dies := k.left == 0
	if dies {
		k.dead = true
	}
	k.mu.Unlock()
	var err error
	if !dies || k.after {
		err = fn()
	}
	if dies {
		k.kill()
		return errKilled
	}
	return err
}

func (k *killer) List(ctx context.Context) ([]runtime.Status, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return nil, errKilled
	}
	return k.Runtime.List(ctx)
}

func (k *killer) Prepare(ctx context.Context, s runtime.Spec, in runtime.Inputs) (p runtime.Prepared, err error) {
	err = k.call(func() error { p, err = k.Runtime.Prepare(ctx, s, in); return err })
	return p, err
}

func (k *killer) Create(ctx context.Context, s runtime.Spec) (id runtime.ID, err error) {
	err = k.call(func() error { id, err = k.Runtime.Create(ctx, s); return err })
	return id, err
}

func (k *killer) Start(ctx context.Context, id runtime.ID) error {
	return k.call(func() error { return k.Runtime.Start(ctx, id) })
}

func (k *killer) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error {
	return k.call(func() error { return k.Runtime.Stop(ctx, id, grace) })
}

func (k *killer) Remove(ctx context.Context, id runtime.ID) error {
	return k.call(func() error { return k.Runtime.Remove(ctx, id) })
}

func (k *killer) Serve(ctx context.Context, id runtime.ID, on bool) error {
	return k.call(func() error { return k.Runtime.Serve(ctx, id, on) })
}

func (k *killer) Drain(ctx context.Context, id runtime.ID) error {
	return k.call(func() error { return k.Runtime.Drain(ctx, id) })
}

// An agent that is killed before or after any call of an update leaves what the next one brings to the same end.
func TestKilledAnywhereInAnUpdate(t *testing.T) {
	for name, next := range map[string]map[string]string{
		"start first":             service("web", "web:2", startFirst),
		"recreate":                service("web", "web:2", recreate),
		"start first, not ready":  service("web", "never:2", startFirst),
		"recreate, not ready":     service("web", "never:2", recreate),
		"start first, crashing":   service("web", "web:2", startFirst+"  command: [exit, \"3\"]\n"),
		"recreate, crashing":      service("web", "web:2", recreate+"  command: [exit, \"3\"]\n"),
		"in place, no going back": service("web", "web:2", "  strategy: {type: Recreate, rollback: false}\n"),
	} {
		t.Run(name, func(t *testing.T) {
			undisturbed := ""
			for n := 0; ; n++ {
				end, reached := killedAt(t, next, n/2, n%2 == 1)
				if n == 0 {
					undisturbed = end
					continue
				}
				if end != undisturbed {
					t.Errorf("killed at call %d (after it: %v):\n%s\nundisturbed:\n%s", n/2, n%2 == 1, end, undisturbed)
				}
				if !reached && n > 2 {
					t.Logf("%d: %s", n, undisturbed)
					return
				}
			}
		})
	}
}

// killedAt updates web and kills the agent at its n-th call; it returns how that ended after another agent went on, and
// whether there were that many calls.
func killedAt(t *testing.T, next map[string]string, n int, afterIt bool) (end string, reached bool) {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "state")
	run(t, func(t *testing.T, w *world) {
		w.probe()
		k := &killer{Runtime: w.rt, after: afterIt}
		died := make(chan struct{})
		k.kill = func() {
			if err := os.CopyFS(copied, os.DirFS(w.dir)); err != nil {
				t.Error(err)
			}
			close(died)
		}
		w.cfg.Runtime = k
		w.push(service("web", "web:1", ""))
		w.start()
		w.passes(5 * time.Second)
		k.mu.Lock()
		k.left = n
		k.mu.Unlock()
		w.push(next)
		for range 120 {
			w.passes(time.Second)
			select {
			case <-died:
				reached = true
			default:
			}
			if reached {
				break
			}
		}
		w.stop()
		if reached {
			w.cfg.StateDir = copied
		}
		w.cfg.Runtime = w.rt
		w.start()
		w.passes(3 * time.Minute)
		end = w.summary()
		w.stop()
	})
	return end, reached
}

// summary says how the node is, but for what differs from run to run.
func (w *world) summary() string {
	out := ""
	for _, o := range w.view().Observed {
		out += fmt.Sprintf("%s %s serving %v, started at all %v\n", o.Spec.Image.Ref, o.State, o.Serving, o.Starts > 0)
	}
	r := w.row("web")
	s := w.status()
	message, _, _ := strings.Cut(r.Message, " after ")
	return out + fmt.Sprintf("%s %s %s %q, %s %s, %s", r.State, r.Health, r.Reason, message, s.Sync, s.Health, w.history()[0].Result)
}

// A fix that is pushed while an update waits to become ready ends it at once, and is what runs in the end.
func TestFixIsNotHeldUp(t *testing.T) {
	for _, strategy := range []string{startFirst, recreate} {
		run(t, func(t *testing.T, w *world) {
			w.probe()
			w.push(service("web", "web:1", strategy))
			w.start()
			defer w.stop()
			w.passes(5 * time.Second)
			w.push(service("web", "never:2", strategy))
			w.passes(3 * time.Second)
			fix := w.push(service("web", "web:3", strategy))
			w.passes(5 * time.Second)
			if r := w.row("web"); r.Revision != fix || r.Health != report.Healthy || len(w.view().Observed) != 1 {
				t.Errorf("%+v", r)
			}
			if h := w.history(); h[0].Result != journal.ResultApplied {
				t.Errorf("%+v", h[0])
			}
		})
	}
}

// At most so many are down for a replacement at a time: those whose new container is not ready yet count, also for an agent
// that was started meanwhile.
func TestMaxUnavailableCountsWhoIsNotReady(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.probe()
		w.cfg.MaxUnavailable = 50 // two of four
		fleet := func(version int) map[string]string {
			out := map[string]string{}
			for _, name := range []string{"a", "b", "c", "d"} {
				maps.Copy(out, service(name, fmt.Sprintf("web:%d", version), recreate))
			}
			return out
		}
		w.push(fleet(1))
		w.start()
		w.passes(5 * time.Second)
		w.push(fleet(2))
		most, restarted := 0, false
		for range 100 {
			after(100 * time.Millisecond)
			w.agent.poke()
			synctest.Wait()
			health := w.cfg.health.Snapshot()
			ready := 0
			for _, o := range w.view().Observed {
				if health[o.ID].Ready && o.State == runtime.StateRunning && o.Serving {
					ready++
				}
			}
			if most = max(most, 4-ready); most > 2 {
				t.Fatalf("%d are down at a time", most)
			}
			if most == 2 && !restarted {
				restarted = true
				w.stop()
				w.start()
				synctest.Wait()
			}
		}
		defer w.stop()
		if most != 2 {
			t.Errorf("%d were down at a time, 2 may be", most)
		}
		for _, r := range report.Rows(w.view(), true) {
			if !strings.HasSuffix(r.Image, ":2") || r.Health != report.Healthy {
				t.Errorf("%+v", r)
			}
		}
	})
}

// A container that its liveness probe gives up is started again, as often and with such pauses as one that crashes.
func TestGivenUpIsStartedAgain(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		h := w.probe()
		w.push(service("web", "web:1", ""))
		w.start()
		defer w.stop()
		w.passes(5 * time.Second)
		id := w.idOf("web")
		h.mu.Lock()
		h.down[id] = "livenessProbe failed: timeout"
		h.mu.Unlock()
		w.passes(time.Second)
		w.passes(8 * time.Second)
		if r := w.row("web"); r.Restarts != 1 || r.ID != string(id) || r.Reason != plan.ReasonCrashLoop || !strings.Contains(r.Message, "livenessProbe failed: timeout") || r.NextRetryAt == nil {
			t.Errorf("%+v", r)
		}
		w.passes(5 * time.Second)
		if r := w.row("web"); r.Restarts != 2 {
			t.Errorf("%+v", r)
		}
		key := RestartKey{Name: manifest.Name{Namespace: "default", Name: "web"}, Reason: "Unhealthy"}
		if n := w.agent.Counters().Restarts[key]; n != 2 {
			t.Errorf("%d restarts counted", n)
		}
	})
}
