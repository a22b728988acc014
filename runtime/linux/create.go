package linux

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
	"reconciler/runtime/supervisor"
)

// Create implements runtime.Runtime.
func (r *Runtime) Create(ctx context.Context, spec runtime.Spec) (runtime.ID, error) {
	op := "create container " + spec.Name.String()
	if err := ctx.Err(); err != nil {
		return "", failure(op, "", spec.Name, err)
	}
	if err := claim(r.cfg); err != nil {
		return "", failure(op, "", spec.Name, err)
	}
	r.sweep(ctx)
	img, err := r.prepared(ctx, spec)
	if err != nil {
		return "", failure(op, "", spec.Name, err)
	}
	inits, err := r.initDigests(ctx, spec)
	if err != nil {
		return "", failure(op, "", spec.Name, err)
	}
	vars, err := r.variables(spec)
	if err != nil {
		return "", failure(op, "", spec.Name, err)
	}
	now := time.Now()
	rec := record{
		Version: recordVersion, ID: newID(spec.Name, now), CreatedAt: now.UTC(), Spec: spec,
		ImageDigest: img.Digest, InitDigests: inits, StopSignal: img.Config.StopSignal, Warnings: append(warnings(img), vars.warnings...),
	}
	defer r.serving.lock(spec.Name)()
	others, err := r.entriesOf(spec.Name)
	if err != nil {
		return "", failure(op, "", spec.Name, err)
	}
	number, err := r.firstTurn(ctx, others)
	if err != nil {
		return "", failure(op, "", spec.Name, err)
	}
	return rec.ID, failure(op, rec.ID, spec.Name, r.state.create(rec, number))
}

// newID is unique for ever, and of one name the later sorts after the earlier: the name, the milliseconds since 1970 and
// 32 random bits, in hex.
func newID(name runtime.Name, now time.Time) runtime.ID {
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand
	return runtime.ID(fmt.Sprintf("%s%011x%s", idPrefix(name), now.UnixMilli(), hex.EncodeToString(random[:])))
}

// idPrefix is what the IDs of a name's containers begin with, and maybe those of others'.
func idPrefix(name runtime.Name) string { return strings.ReplaceAll(name.Name, "#", "-") + "-" }

// Update implements runtime.Runtime.
func (r *Runtime) Update(ctx context.Context, id runtime.ID, spec runtime.Spec) error {
	op := "update container " + string(id)
	defer r.locks.lock(id)()
	e, err := r.state.read(id)
	if err != nil {
		return failure(op, id, spec.Name, err)
	}
	supervised, err := r.supervised(ctx)
	if err != nil {
		return failure(op, id, spec.Name, err)
	}
	st, err := r.status(&e, supervised)
	if err != nil {
		return failure(op, id, spec.Name, err)
	}
	if st.State == runtime.StateRunning {
		failpoint.Here("update: not begun")
		if err = r.apply(ctx, e, spec); err != nil {
			return failure(op, id, spec.Name, err)
		}
	}
	failpoint.Here("update: applied, not recorded")
	e.Spec = spec
	err = r.state.writeRecord(e.record)
	failpoint.Here("update: recorded")
	return failure(op, id, spec.Name, err)
}

// apply changes what can be changed on a running container. Signals come last: an Update that is refused sends none.
func (r *Runtime) apply(ctx context.Context, e entry, spec runtime.Spec) error {
	if err := r.applyNetwork(ctx, e.ID, e.Spec, spec); err != nil {
		return err
	}
	swapped := e.Spec.Swapped(spec)
	limits := spec.Limits != e.Spec.Limits || spec.Logs != e.Spec.Logs
	if !limits && len(swapped) == 0 {
		return nil
	}
	client, err := r.supervise(ctx)
	if err != nil {
		return err
	}
	if limits {
		if err = client.Update(ctx, e.ID, spec.Limits, spec.Logs); err != nil {
			return err
		}
	}
	if err = r.roots.Swap(e.ID, spec.Mounts, swapped, e.last.FirstID); err != nil {
		return err
	}
	for _, signal := range runtime.Signals(swapped) {
		// One that ended meanwhile reads the new files when it is started again.
		if err = client.Signal(ctx, e.ID, signal); err != nil && !errors.Is(err, supervisor.ErrExited) && !errors.Is(err, runtime.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Remove implements runtime.Runtime. Whatever is left of a container goes, also where its record is gone.
func (r *Runtime) Remove(ctx context.Context, id runtime.ID) error {
	op := "remove container " + string(id)
	if filepath.Base(string(id)) != string(id) || strings.HasPrefix(string(id), ".") {
		return nil // never a container's
	}
	defer r.rest.Worked()
	defer r.locks.lock(id)()
	if err := ctx.Err(); err != nil {
		return failure(op, id, runtime.Name{}, err)
	}
	e, err := r.state.read(id)
	if err != nil && !errors.Is(err, runtime.ErrNotFound) {
		// A record that cannot be read must not keep a container for ever.
		r.log.Warn("removing a container whose record cannot be read", "container", id, "err", err)
	}
	name := e.Spec.Name
	if _, err = os.Lstat(r.state.dir(id)); err == nil {
		failpoint.Here("remove: not begun")
		if err = atomicfile.Write(filepath.Join(r.state.dir(id), removingFile), nil, 0o600); err != nil {
			return failure(op, id, name, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return failure(op, id, name, err)
	}
	failpoint.Here("remove: marked")
	parts := []runtime.ID{id}
	if name == (runtime.Name{}) || len(e.Spec.InitContainers) > 0 {
		parts = append(parts, initID(id))
	}
	for _, part := range parts {
		if err := r.forget(ctx, part); err != nil {
			return failure(op, id, name, err)
		}
		failpoint.Here("remove: ended")
		if err := r.roots.Teardown(part); err != nil {
			return failure(op, id, name, err)
		}
	}
	failpoint.Here("remove: torn down")
	if err := r.releaseIDs(e, id); err != nil {
		return failure(op, id, name, err)
	}
	failpoint.Here("remove: without user ids")
	if err := r.leave(ctx, e, id); err != nil {
		return failure(op, id, name, err)
	}
	failpoint.Here("remove: done")
	r.changes.send(runtime.Event{Type: runtime.EventRemoved, ID: id, Name: name, Time: time.Now()})
	return nil
}

// leave gives back the addresses of a container that is removed, and its record.
func (r *Runtime) leave(ctx context.Context, e entry, id runtime.ID) error {
	defer r.serving.lock(e.Spec.Name)()
	others, err := r.entriesOf(e.Spec.Name)
	if err != nil {
		r.log.Warn("removing a container beside one whose record cannot be read", "container", id, "err", err)
	}
	if err = r.resign(others, id); err != nil {
		return err
	}
	failpoint.Here("remove: nobody's turn comes by it")
	if e.Spec.Network == runtime.NetworkBridge || e.ID == "" {
		err = r.net.Release(ctx, id)
		failpoint.Here("remove: without addresses, announced still")
		if len(others) > 1 { // it may have had the ports of the one that serves, by a switch that was cut short
			err = errors.Join(err, r.follow(ctx, e.Spec.Name, ""))
		} else {
			err = errors.Join(err, r.announce(ctx, e.Spec.Name, nil))
		}
		if err != nil {
			return err
		}
	}
	return r.state.remove(id)
}

// forget kills what runs of a container and makes the supervisor forget it. Where no supervisor runs and nothing of the
// container can be in the kernel, none is started for it.
func (r *Runtime) forget(ctx context.Context, id runtime.ID) error {
	client, err := supervisor.Dial(ctx, r.supervisorConfig())
	if errors.Is(err, supervisor.ErrNotRunning) {
		if !r.inKernel(id) {
			return nil
		}
		client, err = r.supervise(ctx)
	}
	if err != nil {
		return err
	}
	return client.Delete(ctx, id)
}

// inKernel says whether a supervisor would have something of the container to clear away.
func (r *Runtime) inKernel(id runtime.ID) bool {
	for _, dir := range []string{"supervisor", "libcontainer"} {
		if _, err := os.Lstat(filepath.Join(r.cfg.RunDir, dir, string(id))); err == nil {
			return true
		}
	}
	return len(cgroupDirs(filepath.Join("reconciler", r.cfg.Instance, string(id)))) > 0
}

// sweep takes away, once for a Runtime, what a process that died in Create or Remove has left: directories without a
// record, and mounts and writable layers without a container.
func (r *Runtime) sweep(ctx context.Context) {
	r.swept.Do(func() {
		// Looked at before the containers: what another process sets up from here on is not among them.
		ids, err := r.roots.IDs()
		if err != nil {
			r.log.Warn("cannot sweep leftovers", "err", err)
			return
		}
		unlock, err := r.state.lock(unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			unlock = func() {}
		} else if err != nil {
			r.log.Warn("cannot sweep leftovers", "err", err)
			return
		}
		defer unlock()
		entries, err := os.ReadDir(r.state.containers())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.log.Warn("cannot sweep leftovers", "err", err)
			return
		}
		var known []runtime.ID
		for _, e := range entries {
			dir := filepath.Join(r.state.containers(), e.Name())
			_, readErr := r.state.read(runtime.ID(e.Name()))
			switch {
			case e.Name()[0] == '.' || r.isNone(runtime.ID(e.Name()), readErr):
				r.log.Info("sweeping what is left of a container", "path", dir)
				failpoint.Here("sweep: leftovers of a container there")
				if err = os.RemoveAll(dir); err != nil {
					r.log.Warn("cannot sweep leftovers", "path", dir, "err", err)
				}
			default:
				known = append(known, runtime.ID(e.Name()))
			}
		}
		for _, id := range ids {
			if slices.Contains(known, ofContainer(id)) || r.inKernel(id) {
				continue
			}
			failpoint.Here("sweep: a root file system without a container there")
			if err = r.roots.Teardown(id); err != nil {
				r.log.Warn("cannot sweep leftovers", "container", id, "err", err)
			}
		}
		if err = r.roots.SweepVolumes(); err != nil {
			r.log.Warn("cannot sweep leftovers of volumes", "err", err)
		}
		failpoint.Here("sweep: the network not swept")
		written := []string{r.cfg.StateDir, r.cfg.RunDir}
		for _, id := range known {
			written = append(written, r.state.dir(id))
		}
		for _, dir := range written {
			if err = atomicfile.Sweep(dir, atomicfile.Abandoned); err != nil {
				r.log.Warn("cannot sweep leftovers", "path", dir, "err", err)
			}
		}
		err = r.net.Sweep(context.WithoutCancel(ctx), func(id runtime.ID) bool { return slices.Contains(known, id) })
		if err == nil {
			err = r.settle(context.WithoutCancel(ctx))
		}
		if err != nil {
			r.log.Warn("cannot sweep leftovers of the network", "err", err)
		}
	})
}
