package reconcile

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
)

// ErrNotRunning is returned by requests to an agent that does not run, or stopped before it could answer.
var ErrNotRunning = errors.New("the agent is not running")

// Agent keeps one server's containers the way a source says. Make it with New and start it with Run; its other methods
// may be called concurrently while it runs.
type Agent struct {
	cfg   Config
	token chan struct{} // size 1: a reason to look
	asked chan struct{} // size 1: somebody waits, so that the next look is not to be put off
	seek  chan struct{} // size 1: the source is to be looked at, and nothing else before that has ended
	ready chan struct{} // closed when the state was read and requests are answered

	mu      sync.Mutex
	inbox   []func(*loop)
	looks   []func(*loop) // what comes with seek
	running bool
	work    map[manifest.Name]report.Activity

	view     atomic.Pointer[report.View]
	store    atomic.Pointer[journal.Store]
	prober   atomic.Pointer[healthSource]
	events   broadcaster
	telling  sync.Mutex // held while records are written and told of, so that Follow has each of them once
	counters counters
}

// New checks cfg and returns an agent. It starts nothing.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Agent{
		cfg: cfg, token: make(chan struct{}, 1), asked: make(chan struct{}, 1), seek: make(chan struct{}, 1),
		ready: make(chan struct{}),
		work:  map[manifest.Name]report.Activity{}, counters: newCounters(),
	}, nil
}

// Run locks the state directory and keeps the node converged until ctx ends; then it cancels the steps in flight, but for
// those that have stopped what they must start again, waits for them and returns nil. Containers keep running. It fails with *journal.LockedError if another agent has the
// directory. It may be called once.
func (a *Agent) Run(ctx context.Context) error {
	store, err := journal.Open(a.cfg.StateDir)
	if err != nil {
		return err
	}
	key, err := secretKey(secretKeyPath(a.cfg.StateDir))
	if err != nil {
		return errors.Join(err, store.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	l := newLoop(a, store.State(), key)
	l.open(store)
	a.store.Store(store)
	a.prober.Store(&l.prober)
	a.mu.Lock()
	a.running = true
	a.mu.Unlock()
	l.publish()
	close(a.ready)

	l.watch(ctx)
	l.run(ctx)

	cancel()
	l.wg.Wait()
	l.endHealth()
	a.mu.Lock()
	a.running = false
	a.mu.Unlock()
	l.stop()
	return store.Close()
}

// Ready is closed when the agent has read its state and answers requests.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// poke puts a token in the channel, unless one is there.
func (a *Agent) poke() {
	select {
	case a.token <- struct{}{}:
	default:
	}
}

// postNow is post for somebody who waits.
func (a *Agent) postNow(fn func(*loop)) bool {
	a.endRest() // before there is a token: one that is taken at once would be followed by another, and a turn for nothing
	return a.post(fn)
}

// postLook has the deciding goroutine run fn and begin to look at the source at once. It looks at the rest when that has ended:
// what it would find before is of no use to who asks.
func (a *Agent) postLook(fn func(*loop)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.running {
		return false
	}
	a.looks = append(a.looks, fn)
	select {
	case a.seek <- struct{}{}:
	default:
	}
	return true
}

// hurry is poke for what is not to be put off.
func (a *Agent) hurry() {
	a.endRest()
	a.poke()
}

func (a *Agent) endRest() {
	select {
	case a.asked <- struct{}{}:
	default:
	}
}

// post has the deciding goroutine run fn before it looks again. It reports whether there is one.
func (a *Agent) post(fn func(*loop)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.running {
		return false
	}
	a.inbox = append(a.inbox, fn)
	a.poke()
	return true
}

func (a *Agent) drain() []func(*loop) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fns := a.inbox
	a.inbox = nil
	return fns
}

func (a *Agent) drainLooks() []func(*loop) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fns := a.looks
	a.looks = nil
	return fns
}

// ask has the deciding goroutine run fn, and waits for its answer.
func (a *Agent) ask(ctx context.Context, fn func(*loop) error) error {
	return a.request(ctx, func(l *loop) answered { return answered{err: fn(l)} })
}

// change is ask for what has to be kept: it fails with *NotKeptError where that cannot be written.
func (a *Agent) change(ctx context.Context, fn func(*loop) error) error {
	return a.request(ctx, func(l *loop) answered { return answered{err: fn(l), kept: true} })
}

func (a *Agent) request(ctx context.Context, fn func(*loop) answered) error {
	answer := make(chan error, 1)
	if !a.postNow(func(l *loop) {
		done := fn(l)
		done.to = answer
		l.answers = append(l.answers, done)
	}) {
		return ErrNotRunning
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// answered is a request whose answer is given once what it changed is on disk.
type answered struct {
	to   chan<- error
	err  error
	kept bool // what was asked for is to outlive the agent
}

// NotKeptError says that what was asked for is in force, and that the disk did not take it.
type NotKeptError struct{ Err error }

// Error says what becomes of it.
func (e *NotKeptError) Error() string {
	return "in force, but forgotten if the agent ends before it can be written: " + e.Err.Error()
}

// Unwrap returns why it cannot be written.
func (e *NotKeptError) Unwrap() error { return e.Err }

// Hint says what a person can do.
func (e *NotKeptError) Hint() string {
	return "make the state directory writable again, such as by freeing space; the agent goes on trying"
}

// View returns what is known now, with a fresh look at the containers.
func (a *Agent) View(ctx context.Context) (report.View, error) {
	published := a.view.Load()
	if published == nil {
		return report.View{}, ErrNotRunning
	}
	v := *published
	observed, err := a.cfg.Runtime.List(ctx)
	if err != nil {
		v.ObservedError = err.Error()
	} else {
		v.Observed, v.ObservedError = observed, ""
	}
	v.Health = a.latestHealth()
	a.mu.Lock()
	v.Working = maps.Clone(a.work)
	a.mu.Unlock()
	v.Now = time.Now()
	return v, nil
}

// Records returns what the journal holds, oldest first.
func (a *Agent) Records() ([]journal.Record, error) {
	store := a.store.Load()
	if store == nil {
		return nil, ErrNotRunning
	}
	return store.Records()
}

// Follow returns what the journal holds, oldest first, and a channel of what happens from then on, closed when ctx ends
// or the agent stops. A reader that does not keep up misses some.
func (a *Agent) Follow(ctx context.Context) ([]journal.Record, <-chan report.Event, error) {
	a.telling.Lock()
	defer a.telling.Unlock()
	records, err := a.Records()
	if err != nil {
		return nil, nil, err
	}
	return records, a.events.subscribe(ctx), nil
}

// Counters returns the numbers for metrics, as of now.
func (a *Agent) Counters() Counters {
	c := a.counters.snapshot()
	if store := a.store.Load(); store != nil {
		c.StateBytesWritten = store.BytesWritten()
	}
	return c
}

// works reports whether a step on a container is in flight.
func (a *Agent) works(name manifest.Name) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.work[name]
	return ok
}

// setActivity records how far a step is; a nil change removes it.
func (a *Agent) setActivity(name manifest.Name, change func(*report.Activity)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if change == nil {
		delete(a.work, name)
		return
	}
	w := a.work[name]
	change(&w)
	a.work[name] = w
}
