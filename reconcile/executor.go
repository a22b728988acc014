package reconcile

import (
	"context"
	"slices"
	"strings"
	"syscall"
	"time"

	"reconciler/reconcile/plan"
	"reconciler/reconcile/probe"
	"reconciler/reconcile/report"
	"reconciler/runtime"
)

// executor carries steps out, each alone in the goroutine that calls run. What all of them share is how many containers
// are started at a time, and how many are stopped for a replacement at a time. Nobody holds a place in either while
// bringing an image here: a registry that hangs holds back one container.
type executor struct {
	a        *Agent
	rt       runtime.Runtime
	starts   limiter
	switches limiter
}

func newExecutor(a *Agent) *executor {
	x := &executor{a: a, rt: a.cfg.Runtime}
	x.starts.setLimit(a.cfg.Starts)
	x.switches.setLimit(1)
	return x
}

// job is what the executor needs to know of a step.
type job struct {
	step   plan.Step
	commit string
	gate   <-chan struct{} // closed when it may touch what is visible
	tether *tether
	// place is set once the step has one of executor.switches, which whoever made the job gives back.
	place bool
}

// run carries j out and returns the digest of the image it used.
func (x *executor) run(ctx context.Context, j *job) (string, error) {
	if j.step.Op == plan.OpCreate || j.step.Op == plan.OpReplace {
		return x.bring(ctx, j)
	}
	if err := x.wait(ctx, j); err != nil {
		return "", err
	}
	switch j.step.Op {
	case plan.OpRestart:
		return "", x.restart(ctx, j)
	case plan.OpUpdate:
		return "", x.rt.Update(ctx, j.step.ID, j.step.Spec)
	case plan.OpSwitch:
		return "", x.rt.Serve(ctx, j.step.ID, true)
	case plan.OpRollback:
		return "", x.rollBack(ctx, j)
	case plan.OpEnd:
		return "", x.stopAll(ctx, j)
	default:
		return "", x.takeAway(ctx, j)
	}
}

// bring makes everything ready first; only then does the old container stop, and the new one come.
func (x *executor) bring(ctx context.Context, j *job) (string, error) {
	spec := j.step.Spec
	x.phase(j, report.PhasePreparing)
	prepared, err := x.rt.Prepare(ctx, spec, x.inputs(ctx, j))
	if err != nil {
		return "", err
	}
	if spec.Image != nil {
		pinned := *spec.Image
		pinned.Digest = prepared.ImageDigest // what was prepared is what is made, whatever the tag means by then
		spec.Image = &pinned
	}
	if err = x.wait(ctx, j); err != nil {
		return prepared.ImageDigest, err
	}
	if j.step.Op == plan.OpReplace && !j.step.Beside {
		if err = x.switches.acquire(ctx); err != nil {
			return prepared.ImageDigest, err
		}
		j.place = true
	}
	if err = x.makeRoom(ctx, j); err != nil {
		return prepared.ImageDigest, err
	}
	started, err := x.starting(ctx, spec)
	if err != nil {
		return prepared.ImageDigest, err
	}
	defer started()
	x.phase(j, report.PhaseStarting)
	id, err := x.rt.Create(ctx, spec)
	if err == nil {
		err = x.rt.Start(ctx, id)
	}
	if err != nil {
		err = &plan.NotStartedError{Err: err}
	}
	return prepared.ImageDigest, err
}

// makeRoom stops and takes away what must not run beside the new container.
func (x *executor) makeRoom(ctx context.Context, j *job) error {
	if len(j.step.Stop) > 0 || len(j.step.Remove) > 0 && !j.step.Beside {
		if err := j.tether.mustFinish(ctx); err != nil {
			return err
		}
	}
	if err := x.takeAway(ctx, j); err != nil {
		return err
	}
	return x.stopAll(ctx, j)
}

func (x *executor) stopAll(ctx context.Context, j *job) error {
	for _, r := range j.step.Stop {
		if err := x.stop(ctx, j, r); err != nil {
			return err
		}
	}
	return nil
}

func (x *executor) restart(ctx context.Context, j *job) error {
	if err := x.takeAway(ctx, j); err != nil {
		return err
	}
	if len(j.step.Stop) > 0 {
		if err := j.tether.mustFinish(ctx); err != nil {
			return err
		}
	}
	if err := x.stopAll(ctx, j); err != nil {
		return err
	}
	return x.start(ctx, j)
}

func (x *executor) start(ctx context.Context, j *job) error {
	started, err := x.starting(ctx, j.step.Spec)
	if err != nil {
		return err
	}
	defer started()
	x.phase(j, report.PhaseStarting)
	return x.rt.Start(ctx, j.step.ID)
}

// rollBack has what ran before serve again: at once where it runs, else when what took its place has stopped. Everything
// that this takes is here.
func (x *executor) rollBack(ctx context.Context, j *job) error {
	if !j.step.Start {
		if err := x.rt.Serve(ctx, j.step.ID, true); err != nil {
			return err
		}
		if err := x.stopAll(ctx, j); err != nil {
			return err
		}
		return x.takeAway(ctx, j)
	}
	if err := j.tether.mustFinish(ctx); err != nil {
		return err
	}
	if err := x.stopAll(ctx, j); err != nil {
		return err
	}
	if err := x.takeAway(ctx, j); err != nil {
		return err
	}
	if err := x.rt.Serve(ctx, j.step.ID, true); err != nil {
		return err
	}
	return x.start(ctx, j)
}

// starting takes a place among those that are started at a time, and returns what gives it back. Init containers may take
// as long as they want: who has any takes no place, lest others wait for it.
func (x *executor) starting(ctx context.Context, spec runtime.Spec) (started func(), err error) {
	if len(spec.InitContainers) > 0 {
		return func() {}, nil
	}
	return x.starts.release, x.starts.acquire(ctx)
}

// takeAway stops and removes what the step says goes.
func (x *executor) takeAway(ctx context.Context, j *job) error {
	for _, r := range j.step.Remove {
		if !r.Ended {
			if err := x.drain(ctx, j, r); err != nil {
				return err
			}
			if err := x.stop(ctx, j, r); err != nil {
				return err
			}
		}
		if err := x.rt.Remove(ctx, r.ID); err != nil {
			return err
		}
	}
	return nil
}

// drain gives connections time to end, where r says so. That they cannot be counted keeps nothing from going.
func (x *executor) drain(ctx context.Context, j *job, r plan.Removal) error {
	if !r.Drain || r.Grace <= 0 {
		return nil
	}
	x.phase(j, report.PhaseDraining)
	limit, cancel := context.WithTimeout(ctx, r.Grace)
	defer cancel()
	if err := x.rt.Drain(limit, r.ID); err != nil && limit.Err() == nil {
		x.a.cfg.Logger.Warn("cannot wait for connections to end", "name", j.step.Name.Short(), "error", err)
	}
	return context.Cause(ctx)
}

// codeKilled is the exit code of a process that SIGKILL ended.
const codeKilled = 128 + int(syscall.SIGKILL)

// stop stops a container, its preStop hook first, and says so where it did not heed its stop signal.
func (x *executor) stop(ctx context.Context, j *job, r plan.Removal) error {
	x.phase(j, report.PhaseStopping)
	if r.Grace <= 0 { // no hook is run, and nothing has the time to ignore a signal
		return x.rt.Stop(ctx, r.ID, 0)
	}
	o, err := x.find(ctx, r.ID)
	if o == nil || err != nil {
		return err
	}
	begun := time.Now()
	hookFailed := false
	err = probe.Stop(ctx, x.rt, *o, r.Grace, func(n probe.Note) {
		hookFailed = true
		x.a.post(func(l *loop) { l.recordHealth(n) })
	})
	if err != nil || time.Since(begun) < r.Grace || hookFailed {
		return err
	}
	if o, err = x.find(ctx, r.ID); err == nil && o != nil && o.ExitCode != nil && *o.ExitCode == codeKilled {
		x.a.post(func(l *loop) { l.ignoredStop(*o, r.Grace) })
	}
	return nil // it is stopped, also where it is not known why it took so long
}

// find returns a container as it is; nil: it is not here.
func (x *executor) find(ctx context.Context, id runtime.ID) (*runtime.Status, error) {
	list, err := x.rt.List(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].ID == id {
			return &list[i], nil
		}
	}
	return nil, nil
}

// wait holds the step until what it depends on is done. One that was told to end meanwhile does not go on.
func (x *executor) wait(ctx context.Context, j *job) error {
	x.phase(j, report.PhaseWaiting)
	select {
	case <-j.gate:
		return context.Cause(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (x *executor) phase(j *job, p report.Phase) {
	x.a.setActivity(j.step.Name, func(a *report.Activity) {
		a.Op, a.Phase, a.Since = j.step.Op, p, time.Now()
		a.What, a.Done, a.Total = "", 0, 0
	})
}

// inputs are what Prepare may need: the commit's files only where the image comes from them.
func (x *executor) inputs(ctx context.Context, j *job) runtime.Inputs {
	in := runtime.Inputs{Progress: x.progress(j)}
	images := []*runtime.Image{j.step.Spec.Image}
	for _, ic := range j.step.Spec.InitContainers {
		images = append(images, ic.Image)
	}
	if !slices.ContainsFunc(images, func(img *runtime.Image) bool { return img != nil && fromTree(img.Ref) }) {
		return in
	}
	// Without the tree Prepare uses what is in the store, or says that it is not there.
	if tree, err := x.a.cfg.Source.Tree(ctx, j.commit); err == nil {
		in.Tree = tree
	}
	return in
}

func fromTree(ref string) bool {
	scheme, _, found := strings.Cut(ref, ":")
	return found && (scheme == "oci" || scheme == "oci-archive" || scheme == "docker-archive")
}

func (x *executor) progress(j *job) func(runtime.Progress) {
	return func(p runtime.Progress) {
		x.a.setActivity(j.step.Name, func(a *report.Activity) {
			if grown := p.Done - a.Done; a.What == p.What && grown > 0 {
				x.a.counters.add(func(c *Counters) { c.ImagePullBytes += grown })
			} else if a.What != p.What {
				x.a.counters.add(func(c *Counters) { c.ImagePullBytes += p.Done })
			}
			a.What, a.Done, a.Total = p.What, p.Done, p.Total
		})
	}
}
