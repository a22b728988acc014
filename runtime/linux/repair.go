package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"reconciler/runtime"
)

// Repair implements runtime.Runtime. Looking takes no container's lock: whoever works on one is making it right.
func (r *Runtime) Repair(ctx context.Context) ([]runtime.Repaired, error) {
	const op = "repair what running containers were given"
	list, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(s runtime.Status) bool { return s.State != runtime.StateRunning })
	var done []runtime.Repaired
	var errs []error
	var unplugged []runtime.ID
	if slices.ContainsFunc(list, func(s runtime.Status) bool { return s.Spec.Network == runtime.NetworkBridge }) {
		what, repairErr := r.net.Repair(ctx)
		if len(what) > 0 {
			done = append(done, runtime.Repaired{What: strings.Join(what, ", ")})
		}
		errs = append(errs, repairErr)
		if unplugged, err = r.net.Unplugged(); err != nil {
			errs = append(errs, err)
		}
	}
	for _, st := range list {
		if r.locks.busy(st.ID) || len(r.changedLimits(st.ID, st.Spec.Limits)) == 0 && !slices.Contains(unplugged, st.ID) {
			continue
		}
		what, repairErr := r.repair(ctx, st.ID)
		for _, w := range what {
			done = append(done, runtime.Repaired{ID: st.ID, Name: st.Spec.Name, What: w})
		}
		if repairErr != nil {
			errs = append(errs, fmt.Errorf("%s: %w", st.Spec.Name, repairErr))
		}
	}
	return done, failure(op, "", runtime.Name{}, errors.Join(errs...))
}

// repair looks again at one container while nobody else works on it, and gives it back what it lacks.
func (r *Runtime) repair(ctx context.Context, id runtime.ID) (done []string, err error) {
	defer r.locks.lock(id)()
	e, err := r.state.read(id)
	if errors.Is(err, runtime.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	supervised, err := r.supervised(ctx)
	if err != nil {
		return nil, err
	}
	st, err := r.status(&e, supervised)
	if err != nil || st.State != runtime.StateRunning {
		return nil, err
	}
	plugged, plugErr := r.plug(ctx, e, st.Pid)
	if plugged {
		done = append(done, "attached it to the network")
	}
	changed := r.changedLimits(id, e.Spec.Limits)
	if len(changed) == 0 {
		return done, plugErr
	}
	client, err := r.supervise(ctx)
	if err == nil {
		err = client.Update(ctx, id, e.Spec.Limits, e.Spec.Logs)
	}
	if err == nil {
		done = append(done, "set limits again: "+strings.Join(changed, ", "))
	}
	return done, errors.Join(plugErr, err)
}

// plug attaches a running container that lost its interface. One whose process is just ending has no namespace any more.
func (r *Runtime) plug(ctx context.Context, e entry, pid int) (bool, error) {
	unplugged, err := r.net.Unplugged()
	if err != nil || !slices.Contains(unplugged, e.ID) {
		return false, err
	}
	netns, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = netns.Close() }()
	leases, err := r.net.Leases()
	if err != nil {
		return false, err
	}
	for _, l := range leases {
		if l.ID == e.ID {
			return true, r.net.Attach(ctx, l, netns, bandwidth(e.Spec.Limits))
		}
	}
	return false, nil
}
