package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// initSuffix makes the id under which the supervisor, the root file systems and the cgroups know the init container of a
// container that runs. No container's id has a dot.
const initSuffix = ".init"

func initID(id runtime.ID) runtime.ID { return id + initSuffix }

// ofContainer returns the container that an id belongs to: its own, or that of its init containers.
func ofContainer(id runtime.ID) runtime.ID {
	return runtime.ID(strings.TrimSuffix(string(id), initSuffix))
}

// initDir is where output, exit and config.json of an init container are kept: of its last runs, beside the container's own.
func (r *Runtime) initDir(id runtime.ID, init string) string {
	return filepath.Join(r.state.dir(id), "init", init)
}

// initDigests finds the images of the init containers that have one of their own, in the store alone.
func (r *Runtime) initDigests(ctx context.Context, spec runtime.Spec) (map[string]string, error) {
	digests := map[string]string{}
	for _, ic := range spec.InitContainers {
		if ic.Image == nil {
			continue
		}
		img, err := r.prepared(ctx, spec.ForInit(ic))
		if err != nil {
			return nil, fmt.Errorf("init container %s: %w", ic.Name, err)
		}
		digests[ic.Name] = img.Digest
	}
	return digests, nil
}

// runInits runs the init containers of a start, which now is the record of, one after the other until each has ended well.
func (r *Runtime) runInits(ctx context.Context, client *supervisor.Client, e entry, net connection, now run) error {
	for _, ic := range e.Spec.InitContainers {
		now.Init = ic.Name
		if err := r.state.writeRun(e.ID, now); err != nil {
			return err
		}
		if err := r.runInit(ctx, client, e, ic, net, now); err != nil {
			return err
		}
	}
	if now.Init == "" {
		return nil
	}
	now.Init = ""
	return r.state.writeRun(e.ID, now)
}

// runInit runs one init container and takes away everything of it but its output.
func (r *Runtime) runInit(ctx context.Context, client *supervisor.Client, e entry, ic runtime.InitContainer, net connection, now run) (err error) {
	defer func() {
		// It gets the time to end that its container has, also when the caller has none any more.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.Spec.StopGrace+30*time.Second)
		defer cancel()
		if ctx.Err() != nil {
			_, stopErr := client.Stop(clean, initID(e.ID), "", e.Spec.StopGrace)
			if stopErr != nil && !errors.Is(stopErr, runtime.ErrNotFound) {
				err = errors.Join(err, stopErr)
			}
		}
		if cleanErr := errors.Join(r.endInit(clean, client, e), r.detach(clean, e, net)); cleanErr != nil {
			err = errors.Join(err, cleanErr)
		}
	}()
	if err = r.startInit(ctx, client, e, ic, net, now); err != nil {
		return fmt.Errorf("init container %s: %w", ic.Name, err)
	}
	state, err := r.awaitExit(ctx, client, initID(e.ID))
	if err != nil {
		return fmt.Errorf("wait for init container %s: %w", ic.Name, err)
	}
	return initError(e.Spec, ic.Name, state)
}

func (r *Runtime) startInit(ctx context.Context, client *supervisor.Client, e entry, ic runtime.InitContainer, net connection, now run) error {
	one := e
	one.ID, one.Spec = initID(e.ID), e.Spec.ForInit(ic)
	if ic.Image != nil {
		one.ImageDigest = e.InitDigests[ic.Name]
	}
	// Which ids it has was settled when the container's own files were set up.
	one.Spec.Security.HostUsers = new(now.FirstID == 0)
	img, err := r.imageOf(ctx, one)
	if err != nil {
		return err
	}
	root, err := r.setup(ctx, one, img, net, &now)
	if err != nil {
		return err
	}
	dir := r.initDir(e.ID, ic.Name)
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err = r.writeBundle(one, dir, img, root, net, &now); err != nil {
		return err
	}
	_, err = client.Start(ctx, supervisor.StartRequest{
		ID: one.ID, Bundle: root.Bundle, LogDir: dir, Logs: one.Spec.Logs, StopSignal: stopSignal(one.Spec, img.Config.StopSignal),
	}, r.attachInit(ctx, e, net))
	return err
}

// attachInit gives an init container's network namespace the container's addresses; its ports are for the container alone.
func (r *Runtime) attachInit(ctx context.Context, e entry, c connection) func(netns *os.File) error {
	if c.lease == nil || c.joined != 0 {
		return nil
	}
	return func(netns *os.File) error {
		if err := c.attach(ctx, r.net, netns, bandwidth(e.Spec.Limits)); err != nil {
			return err
		}
		return r.announceLeases(ctx)
	}
}

// endInit kills what runs of a container's init containers and takes away what they had. It does nothing where nothing is.
func (r *Runtime) endInit(ctx context.Context, client *supervisor.Client, e entry) error {
	if len(e.Spec.InitContainers) == 0 {
		return nil
	}
	if err := client.Delete(ctx, initID(e.ID)); err != nil {
		return err
	}
	return r.roots.Teardown(initID(e.ID))
}

// awaitExit waits for the end of what was started, also where the supervisor is replaced by another one meanwhile.
func (r *Runtime) awaitExit(ctx context.Context, client *supervisor.Client, id runtime.ID) (supervisor.State, error) {
	for {
		state, err := awaitExitOf(ctx, client, id)
		if err == nil || ctx.Err() != nil {
			return state, err
		}
		r.log.Warn("lost the supervisor while an init container runs", "container", id, "err", err)
		if err = r.superviseAgain(ctx); err != nil {
			return state, err
		}
	}
}

// supervisorPatience is how long the end of a supervisor and the beginning of the next one may take.
const supervisorPatience = 30 * time.Second

// superviseAgain waits until there is a supervisor again: the one that is ending keeps others away until it has.
func (r *Runtime) superviseAgain(ctx context.Context) error {
	lost := time.Now()
	for {
		_, err := r.supervise(ctx)
		if err == nil || ctx.Err() != nil || time.Since(lost) > supervisorPatience {
			return err
		}
		select {
		case <-time.After(redial):
		case <-ctx.Done():
		}
	}
}

// errLostSight says that a supervisor does not tell any more what happens.
var errLostSight = errors.New("the supervisor is gone")

func awaitExitOf(ctx context.Context, client *supervisor.Client, id runtime.ID) (supervisor.State, error) {
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := client.Watch(watch)
	if err != nil {
		return supervisor.State{}, err
	}
	for {
		state, known, err := client.Find(ctx, id)
		if err != nil {
			return supervisor.State{}, err
		}
		if !known {
			state.Reason = runtime.ReasonSupervisorLost
		}
		if !state.Running {
			return state, nil
		}
		select {
		case e, ok := <-events:
			if ctx.Err() == nil && (!ok || e.Type == runtime.EventLost) {
				return state, errLostSight
			}
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return state, ctx.Err()
		}
	}
}

// initError says how an init container failed; nil: it did not.
func initError(spec runtime.Spec, init string, s supervisor.State) error {
	e := &runtime.Error{
		Op: "run init container " + init + " of " + spec.Name.String(), Reason: runtime.ReasonInitFailed,
		Hint: fmt.Sprintf("`reconciler logs %s --init %s` shows what it printed", spec.Name, init),
	}
	switch {
	case s.Stopped:
		e.Err, e.Reason, e.Hint = errors.New("it was stopped"), runtime.ReasonStartFailed, ""
	case s.ExitCode == nil:
		e.Err = errors.New("its exit was not seen")
	case *s.ExitCode == 0:
		return nil
	case s.OOMKilled:
		e.Err = fmt.Errorf("it ran out of memory (limit %d MiB)", spec.Limits.Memory>>20)
	default:
		e.Err = fmt.Errorf("it exited with code %d", *s.ExitCode)
	}
	return e
}
