package fake

import (
	"context"

	"reconciler/runtime"
)

// Drift makes something of a container other than it was left, until the next Repair. Heard is whether there is a hint of it.
func (r *Runtime) Drift(id runtime.ID, what string, heard bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return
	}
	r.drifted = append(r.drifted, runtime.Repaired{ID: id, Name: c.status.Spec.Name, What: what})
	if heard {
		r.tell(runtime.EventDrifted, c)
	}
}

// Repair returns what Drift made different since the last call, of containers that run.
func (r *Runtime) Repair(ctx context.Context) ([]runtime.Repaired, error) {
	if err := r.begin(ctx, OpRepair, runtime.Name{}, ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var done []runtime.Repaired
	for _, d := range r.drifted {
		if c := r.containers[d.ID]; c != nil && c.status.State == runtime.StateRunning {
			done = append(done, d)
		}
	}
	r.drifted = nil
	return done, nil
}
