package linux

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"time"

	"reconciler/runtime"
)

// Serve implements runtime.Runtime. With on, the way is changed first and recorded second, else the other way round: after a
// crash in between, what is recorded asks the caller to do it again, or leads to a container that nobody needs to be led to.
func (r *Runtime) Serve(ctx context.Context, id runtime.ID, on bool) error {
	op := "publish container " + string(id)
	if !on {
		op = "unpublish container " + string(id)
	}
	defer r.locks.lock(id)()
	if err := ctx.Err(); err != nil {
		return failure(op, id, runtime.Name{}, err)
	}
	r.sweep(ctx)
	e, err := r.state.read(id)
	if err != nil {
		return failure(op, id, runtime.Name{}, err)
	}
	op = strings.TrimSuffix(op, string(id)) + e.Spec.Name.String()
	if e.removing {
		return failure(op, id, e.Spec.Name, errors.New("it is being removed"))
	}
	defer r.serving.lock(e.Spec.Name)()
	if on {
		err = r.takeTurn(ctx, e)
	} else {
		err = r.leaveTurn(ctx, e)
	}
	return failure(op, id, e.Spec.Name, err)
}

// takeTurn makes e the one that serves. The caller holds r.serving of the name.
func (r *Runtime) takeTurn(ctx context.Context, e entry) error {
	list, err := r.entriesOf(e.Spec.Name)
	if err != nil {
		return err
	}
	runs, err := r.runs(ctx, &e)
	if err != nil {
		return err
	}
	if err = r.lead(ctx, e.Spec.Name, &e, runs); err != nil {
		return err
	}
	if first := servingOf(list); first != nil && first.ID == e.ID {
		return nil
	}
	return writeTurn(r.state.dir(e.ID), nextTurn(list))
}

// leaveTurn makes nobody serve where e did. The caller holds r.serving of the name.
func (r *Runtime) leaveTurn(ctx context.Context, e entry) error {
	list, err := r.entriesOf(e.Spec.Name)
	if err != nil {
		return err
	}
	if err = r.resign(list, e.ID); err != nil {
		return err
	}
	if e.turn != aside {
		if err = writeTurn(r.state.dir(e.ID), aside); err != nil {
			return err
		}
	}
	return r.follow(ctx, e.Spec.Name, "")
}

// resign makes sure that nobody's turn comes because id's ends: who had it once does not get it back by that.
func (r *Runtime) resign(list []*entry, id runtime.ID) error {
	if first := servingOf(list); first == nil || first.ID != id {
		return nil
	}
	for _, other := range list {
		if other.ID == id || other.turn == aside {
			continue
		}
		if err := writeTurn(r.state.dir(other.ID), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// follow makes the ports and names of a name lead where the records say. Starting is a container that is about to run. The
// caller holds r.serving of the name.
func (r *Runtime) follow(ctx context.Context, name runtime.Name, starting runtime.ID) error {
	list, err := r.entriesOf(name)
	if err != nil {
		return err
	}
	first := servingOf(list)
	if first == nil {
		return r.lead(ctx, name, nil, false)
	}
	runs := first.ID == starting
	if !runs {
		if runs, err = r.runs(ctx, first); err != nil {
			return err
		}
	}
	return r.lead(ctx, name, first, runs)
}

// lead makes the ports and names of a name lead to a container, or nowhere. The caller holds r.serving of the name.
func (r *Runtime) lead(ctx context.Context, name runtime.Name, to *entry, runs bool) error {
	var err error
	if to != nil && runs && to.Spec.Network == runtime.NetworkBridge {
		err = r.net.Publish(ctx, to.ID, to.Spec.Ports)
	} else {
		err = r.net.Unpublish(ctx, name)
	}
	if err != nil {
		return err
	}
	return r.announce(ctx, name, to)
}

// settle repairs what a process that died in the middle of a switch has left.
func (r *Runtime) settle(ctx context.Context) error {
	leases, err := r.net.Leases()
	if err != nil {
		return err
	}
	entries, err := r.entries("")
	if err != nil {
		return err
	}
	firsts := servers(entries)
	var errs []error
	for _, l := range leases {
		first := firsts[l.Name]
		serves := first != nil && first.ID == l.ID
		switch {
		case serves && slices.EqualFunc(l.Ports, first.Spec.Ports, samePort), !serves && len(l.Ports) == 0:
		default:
			errs = append(errs, r.follow(ctx, l.Name, ""))
		}
	}
	if len(leases) > 0 {
		errs = append(errs, r.announceLeases(ctx))
	}
	return errors.Join(errs...)
}

// runs says whether a container runs.
func (r *Runtime) runs(ctx context.Context, e *entry) (bool, error) {
	if e.alive() {
		return true, nil
	}
	supervised, err := r.supervised(ctx)
	return supervised[e.ID].Running, err
}

// entriesOf returns the containers of a name.
func (r *Runtime) entriesOf(name runtime.Name) ([]*entry, error) {
	all, err := r.entries(idPrefix(name))
	return slices.DeleteFunc(all, func(e *entry) bool { return e.Spec.Name != name }), err
}

// servers returns the container that serves of each name that one does for.
func servers(all []*entry) map[runtime.Name]*entry {
	first := make(map[runtime.Name]*entry, len(all))
	for _, e := range all {
		if e.servesBefore(first[e.Spec.Name]) {
			first[e.Spec.Name] = e
		}
	}
	return first
}

// servingOf returns which of the containers of one name serves; nil: none.
func servingOf(list []*entry) *entry {
	var first *entry
	for _, e := range list {
		if e.servesBefore(first) {
			first = e
		}
	}
	return first
}

// servesBefore says whether it is e that serves and not another of its name; nil: rather than nobody.
func (e *entry) servesBefore(o *entry) bool {
	return e.turn >= 0 && (o == nil || cmp.Or(cmp.Compare(e.turn, o.turn), e.CreatedAt.Compare(o.CreatedAt), cmp.Compare(e.ID, o.ID)) > 0)
}

// nextTurn comes after that of every container of the list.
func nextTurn(list []*entry) int64 {
	next := int64(0)
	for _, e := range list {
		next = max(next, e.turn+1)
	}
	return next
}

// firstTurn is that of a new container beside the list: after all others, or aside where one of them runs and serves.
func (r *Runtime) firstTurn(ctx context.Context, list []*entry) (int64, error) {
	first := servingOf(list)
	if first == nil {
		return nextTurn(list), nil
	}
	runs, err := r.runs(ctx, first)
	if runs {
		return aside, err
	}
	return nextTurn(list), err
}

// drainPause is how long Drain waits between two looks, at least; and drainShare how many times as long as a look took, so
// that a busy server is not kept busier by it.
const (
	drainPause = 100 * time.Millisecond
	drainShare = 50
)

// Drain implements runtime.Runtime. It returns after two looks without a connection: what the kernel was about to lead to the
// container when it stopped to serve is not in the first one.
func (r *Runtime) Drain(ctx context.Context, id runtime.ID) error {
	op := "drain container " + string(id)
	e, err := r.state.read(id)
	if err != nil {
		return failure(op, id, runtime.Name{}, err)
	}
	op = "drain container " + e.Spec.Name.String()
	for quiet := 0; ; {
		if err = ctx.Err(); err != nil {
			return failure(op, id, e.Spec.Name, err)
		}
		runs, err := r.runs(ctx, &e)
		if err != nil {
			return failure(op, id, e.Spec.Name, err)
		}
		if !runs {
			return nil
		}
		begun := time.Now()
		n, err := r.net.Connections(ctx, id)
		if err != nil {
			return failure(op, id, e.Spec.Name, err)
		}
		if quiet++; n > 0 {
			quiet = 0
		}
		if quiet == 2 {
			return nil
		}
		pause := time.NewTimer(max(drainPause, drainShare*time.Since(begun)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}
