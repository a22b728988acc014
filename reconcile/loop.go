package reconcile

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/probe"
	"reconciler/runtime"
)

// loop is what the deciding goroutine knows. Nothing else touches it: others post functions to the agent's inbox.
type loop struct {
	a     *Agent
	cfg   Config
	log   *slog.Logger
	store *journal.Store
	exec  *executor
	wg    sync.WaitGroup

	state     journal.State // as it should be on disk
	dirty     bool
	kept      *memory          // see whole
	records   []journal.Record // to be written at the end of the turn
	unwritten []journal.Record // of earlier turns, which could not be written
	answers   []answered
	histories map[manifest.Name]plan.History
	ledger    plan.Ledger
	lowered   plan.Lowered
	seen      plan.Moment            // when the ledger was brought up to date last
	reading   map[manifest.Name]bool // whose output is being read

	fetch     fetchState
	candidate *manifest.Set // the newest set that could be used; nil before the first
	ancestry  plan.Ancestry // of candidate to the set in force
	blocked   string        // commit and reason of the guard that was recorded last
	settled   string        // commit and result that was recorded last

	observed  []runtime.Status
	prober    healthSource
	health    map[runtime.ID]plan.Health // of what was observed
	listError string
	listFails int
	current   plan.Plan
	wake      time.Time
	flights   map[manifest.Name]*flight
	inAir     atomic.Int32          // flights whose result has not been told yet
	places    map[manifest.Name]int // of executor.switches, kept beyond the step
	syncs     []*syncWaiter
	downs     []chan struct{} // closed when no step is in flight any more
	secrets   secretReader
	watched   secretWatch
	images    imageState
	repair    repairState
	warnings  map[string]string // by what they are about
}

func newLoop(a *Agent, state journal.State, key []byte) *loop {
	histories := maps.Clone(state.Histories)
	if histories == nil {
		histories = map[manifest.Name]plan.History{}
	}
	l := &loop{
		a: a, cfg: a.cfg, log: a.cfg.Logger, state: state, histories: histories,
		ledger: state.Ledger.Clone(), reading: map[manifest.Name]bool{},
		exec:    newExecutor(a),
		flights: map[manifest.Name]*flight{}, places: map[manifest.Name]int{}, warnings: map[string]string{},
		secrets: newSecretReader(key),
		prober:  a.cfg.health, health: state.Health,
	}
	if l.prober == nil {
		l.prober = probe.NewManager(a.cfg.Runtime, state.Health, a.hurry, a.cfg.Logger) // traffic waits for who is ready
	}
	if set := state.Accepted; set != nil && state.Applied.Commit == set.Revision.Commit && sameSet(state.LastGood, set) {
		l.settled = set.Revision.Commit + journal.ResultApplied // by an agent before this one
	}
	return l
}

// open has l write to store, and tell of what was damaged there.
func (l *loop) open(store *journal.Store) {
	l.store = store
	for _, note := range store.Notes() {
		l.log.Warn(note)
		l.warnings[note] = note
		l.record(journal.Record{Type: journal.TypeNote, Reason: "StateRepaired", Message: note})
	}
}

// run looks again at every token and when a time has come, until ctx ends.
func (l *loop) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pace := newPace(time.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.a.seek:
			l.lookAtSource(ctx)
			continue
		case <-l.a.token:
		case <-timer.C:
		}
		begun, used := time.Now(), processorTime()
		l.turn(ctx)
		timer.Reset(max(0, time.Until(l.nextWake())))
		took := min(time.Since(begun), processorTime()-used) // others use the processor too, and a turn waits for the disk
		if !l.rest(ctx, pace.rest(time.Now(), took)) {
			return
		}
	}
}

// stop answers what is still asked and writes what is not yet written, after the last step has ended.
func (l *loop) stop() {
	for _, fn := range append(l.a.drainLooks(), l.a.drain()...) {
		fn(l)
	}
	l.flush()
	l.endSyncs(SyncResult{Outcome: SyncFailed, Message: ErrNotRunning.Error()})
	l.answerDowns()
	l.publish()
	l.a.events.close()
}

// turn is one look at everything: what is asked, what is, what to do.
func (l *loop) turn(ctx context.Context) {
	started := time.Now()
	l.wake = time.Time{}
	for _, fn := range l.a.drain() {
		fn(l)
	}
	l.startFetch(ctx)
	l.startResolve(ctx)
	l.startRepair(ctx)
	observed, err := l.list(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		l.cannotList(err)
		l.flush()
		l.publish()
		l.answerSyncs()
		l.answerDowns()
		l.a.counters.observe(time.Since(started), "error")
		return
	}
	l.listError, l.listFails = "", 0
	l.noticeExits(observed)
	l.observed = observed
	l.observeHealth()
	l.recoverAccepted()
	if !l.state.Down {
		l.advanceJobs(l.state.Accepted, false)
	}
	// Not the time at which this turn began: failures that were noted since would seem to be of a clock that was set back.
	p, set := l.decide(ctx, time.Now())
	l.current = p
	l.wakeAt(p.Wake)
	l.readOutputs(ctx)
	l.watchSecrets(ctx)
	for _, name := range p.Cancel {
		if f := l.flights[name]; f != nil {
			f.cancel(errSuperseded)
		}
	}
	l.noteJudgements(p)
	if set != nil {
		l.allowSwitches(p, set)
	}
	begun := l.begin(ctx, p, set)
	if l.settle(p, set) {
		l.collect(ctx)
	}
	l.flush() // intents and what came into force are on disk before anything is done
	for _, f := range begun {
		l.wg.Go(f.run)
	}
	l.openGates()
	l.publish()
	l.answerSyncs()
	l.answerDowns()
	l.a.counters.observe(time.Since(started), "ok")
}

// list says what is here. Where everything was taken down nobody asks: the supervisor is ending, or has ended.
func (l *loop) list(ctx context.Context) ([]runtime.Status, error) {
	if l.state.Down && len(l.flights) == 0 {
		return nil, nil
	}
	return l.cfg.Runtime.List(ctx)
}

func (l *loop) cannotList(err error) {
	l.listFails++
	l.listError = err.Error()
	l.log.Error("cannot list the containers", "error", err)
	l.wakeAt(time.Now().Add(min(time.Second<<min(l.listFails, 5), 30*time.Second)))
}

// decide computes what to do. A newer set comes into force here, unless a guard says no; set is the one that the steps
// are for.
func (l *loop) decide(ctx context.Context, now time.Time) (p plan.Plan, set *manifest.Set) {
	if l.state.Down {
		l.blocked = ""
		return plan.Plan{}, nil
	}
	if c := l.candidate; c != nil && !l.state.Suspended && c != l.state.Accepted {
		in := l.input(ctx, *c, now)
		in.Ancestry = l.ancestry
		p = plan.Compute(in)
		if p.Blocked == nil {
			l.accept(c)
			return p, c
		}
		l.block(c.Revision, *p.Blocked)
		return p, l.state.Accepted
	}
	l.blocked = ""
	if l.state.Accepted == nil {
		return plan.Plan{}, nil
	}
	return plan.Compute(l.input(ctx, *l.state.Accepted, now)), l.state.Accepted
}

func (l *loop) input(ctx context.Context, desired manifest.Set, now time.Time) plan.Input {
	l.clampRetries(now)
	in := plan.Input{
		Desired: desired, Accepted: l.state.Accepted, Observed: l.observed, History: l.histories, Health: l.health,
		InFlight: l.inFlight(), ImageDigests: l.state.ImageDigests,
		SecretDigests: l.secrets.digests(&desired, l.state.Accepted),
		Facts:         l.cfg.Facts, Policy: l.cfg.Policy, Approved: map[string]bool{}, KeptNode: l.state.Node, Now: now,
		Ledger: l.ledger, Lowered: &l.lowered, Boot: l.cfg.bootTime(), BootID: l.cfg.bootID, NotBefore: l.cfg.BuiltAt,
	}
	in.Facts.Taken = l.takenPorts(ctx, &desired, l.state.Accepted)
	for _, c := range l.state.Approved {
		in.Approved[c] = true
	}
	return in
}

// takenPorts asks for the ports that others have, where one of the sets needs to know. Without an answer nobody is held for
// them: whoever starts with one that is taken fails.
func (l *loop) takenPorts(ctx context.Context, sets ...*manifest.Set) []plan.TakenPort {
	wanted := func(set *manifest.Set) bool { return set != nil && plan.WantsPorts(*set, l.observed) }
	if l.cfg.TakenPorts == nil || !slices.ContainsFunc(sets, wanted) {
		return nil
	}
	taken, err := l.cfg.TakenPorts(ctx)
	l.note("tell which ports are in use", err)
	return taken
}

// clampRetries keeps a clock that was set back from putting a retry off for years.
func (l *loop) clampRetries(now time.Time) {
	for name, h := range l.histories {
		if h.NextTry.Sub(now) > maxDelay {
			h.NextTry = now.Add(maxDelay)
			l.setHistory(name, h)
		}
		if h.Undo.Next.Sub(now) > maxDelay {
			h.Undo.Next = now.Add(maxDelay)
			l.setHistory(name, h)
		}
	}
}

// accept brings set into force.
func (l *loop) accept(set *manifest.Set) {
	newNode := l.state.Accepted == nil && l.state.AcceptedRevision.Commit == ""
	l.log.Info("commit accepted", "commit", set.Revision.Short(), "subject", set.Revision.Subject, "containers", len(set.Workloads))
	l.state.Accepted, l.state.AcceptedRevision = set, set.Revision
	l.state.Node = set.Node.Name
	l.ancestry = plan.AncestryForward
	l.blocked, l.settled = "", ""
	l.dirty = true
	l.dropHistories(set)
	l.dropImageDigests(set)
	l.record(journal.Record{Type: journal.TypeAccepted, Commit: set.Revision.Commit, Revision: &set.Revision})
	l.advanceJobs(set, newNode)
	l.a.poke() // the plan that let it in did not know its Jobs yet
}

// dropHistories forgets names that are gone from the set and from the server.
func (l *loop) dropHistories(set *manifest.Set) {
	keep := map[manifest.Name]bool{}
	for _, w := range set.Workloads {
		keep[w.Name] = true
	}
	for _, o := range l.observed {
		keep[manifest.Name(o.Spec.Name)] = true
	}
	maps.DeleteFunc(l.histories, func(n manifest.Name, _ plan.History) bool { return !keep[n] })
}

func (l *loop) block(rev manifest.Revision, b plan.Block) {
	if l.blocked == rev.Commit+b.Reason {
		return
	}
	l.blocked = rev.Commit + b.Reason
	l.log.Warn("commit blocked", "commit", rev.Short(), "reason", b.Reason, "message", b.Message)
	l.a.counters.add(func(c *Counters) { c.GuardBlocked++ })
	l.record(journal.Record{Type: journal.TypeBlocked, Commit: rev.Commit, Revision: &rev, Reason: b.Reason, Message: b.Message})
}

// settle records how a commit went, once nothing is left to do for it. What was applied stays so in history: a crash a
// week later is not the commit's. It reports whether a set came to run that did not before.
func (l *loop) settle(p plan.Plan, set *manifest.Set) bool {
	if set == nil || l.isBusy(p) {
		return false
	}
	commit, result, message := set.Revision.Commit, journal.ResultApplied, ""
	for _, h := range p.Held {
		_, _, isRun := plan.RunOf(h.Name)
		switch {
		case isRun:
			continue
		case h.Reason == plan.ReasonProgressing:
			return false
		case h.Reason == plan.ReasonRolledBack && result != journal.ResultRolledBack:
			result = journal.ResultRolledBack
		case result == journal.ResultApplied:
			result = journal.ResultFailed
		default:
			continue
		}
		message = h.Name.Short() + ": " + h.Reason + ": " + h.Message
	}
	if l.settled == commit+result || l.settled == commit+journal.ResultApplied {
		return false
	}
	l.settled = commit + result
	if result == journal.ResultApplied {
		l.state.Applied, l.state.LastGood, l.state.AppliedAt = set.Revision, set, time.Now().UTC()
		l.keepImages()
		l.dirty = true
	}
	l.record(journal.Record{Type: journal.TypeSettled, Commit: commit, Result: result, Message: message})
	l.log.Info("commit settled", "commit", set.Revision.Short(), "result", result, "message", message)
	return result == journal.ResultApplied
}

// isBusy reports whether something is left to do. Runs of CronJobs do not count: they are the clock's, not the commit's.
func (l *loop) isBusy(p plan.Plan) bool {
	isRun := func(name manifest.Name) bool { _, _, ok := plan.RunOf(name); return ok }
	for name := range l.flights {
		if !isRun(name) {
			return true
		}
	}
	return slices.ContainsFunc(p.Steps, func(s plan.Step) bool { return !isRun(s.Name) })
}

func (l *loop) setHistory(name manifest.Name, h plan.History) {
	if h == (plan.History{}) {
		delete(l.histories, name)
	} else {
		l.histories[name] = h
	}
	l.dirty = true
}

// wakeAt makes the loop look again at t, or earlier.
func (l *loop) wakeAt(t time.Time) {
	if !t.IsZero() && (l.wake.IsZero() || t.Before(l.wake)) {
		l.wake = t
	}
}

// longestRest is the time after which the loop looks again whatever happens: while a fetch hangs, nothing else may be due.
const longestRest = 5 * time.Minute

// nextWake is when to look again though nothing happens.
func (l *loop) nextWake() time.Time {
	if !l.fetch.busy {
		l.wakeAt(l.fetch.next)
	}
	if !l.images.busy && l.images.used {
		l.wakeAt(l.images.next)
	}
	if !l.repair.busy && !l.state.Down {
		l.wakeAt(l.repair.due())
	}
	l.wakeAt(time.Now().Add(longestRest))
	return l.wake
}
