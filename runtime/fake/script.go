package fake

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"reconciler/runtime"
)

// Op names a method of the Runtime.
type Op string

// The operations that can be scripted.
const (
	OpList    Op = "list"
	OpPrepare Op = "prepare"
	OpCreate  Op = "create"
	OpStart   Op = "start"
	OpUpdate  Op = "update"
	OpStop    Op = "stop"
	OpRemove  Op = "remove"
	OpServe   Op = "serve"
	OpDrain   Op = "drain"
	OpExec    Op = "exec"
	OpDial    Op = "dial"
	OpSignal  Op = "signal"
	OpRepair  Op = "repair"
)

// Program is what a container's process does.
type Program struct {
	// Exit, if not nil, ends the process with that code as soon as it is started.
	Exit *int
	// Output is what it prints at its start.
	Output []string
	// IgnoresStop makes Stop wait for its grace period.
	IgnoresStop bool
}

// Commands is the Program that a spec's command names: ["exit", "3"] ends at once with 3, ["print", LINE…] prints
// and ends with 0, ["stubborn"] ignores its stop signal; anything else runs on.
func Commands(s runtime.Spec) Program {
	if len(s.Command) == 0 {
		return Program{}
	}
	switch args := s.Command[1:]; s.Command[0] {
	case "exit":
		code := 0
		if len(args) > 0 {
			code, _ = strconv.Atoi(args[0])
		}
		return Program{Exit: &code}
	case "print":
		code := 0
		return Program{Output: args, Exit: &code}
	case "stubborn":
		return Program{IgnoresStop: true}
	}
	return Program{}
}

// Call is one operation that was asked for, and was not a repetition without effect.
type Call struct {
	Op   Op
	Name runtime.Name
	ID   runtime.ID
}

// fault makes operations fail or wait.
type fault struct {
	op    Op
	name  runtime.Name
	times int // how often still; negative: always
	err   error
	gate  <-chan struct{} // if not nil: wait for it, then go on
}

// Fail makes the next times operations op for name fail with err; a negative number: all of them. An err that is not
// a *runtime.Error is wrapped in one. Several failures for the same operation follow each other in the order given.
func (r *Runtime) Fail(op Op, name runtime.Name, times int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &fault{op: op, name: name, times: times, err: err})
}

// Heal ends every Fail for name.
func (r *Runtime) Heal(name runtime.Name) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = slices.DeleteFunc(r.faults, func(f *fault) bool { return f.name == name && f.gate == nil })
}

// Pause makes every operation op for name wait until the returned function is called (once) or its context ends.
func (r *Runtime) Pause(op Op, name runtime.Name) (resume func()) {
	gate := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &fault{op: op, name: name, times: -1, gate: gate}
	r.faults = append(r.faults, f)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.faults = slices.DeleteFunc(r.faults, func(g *fault) bool { return g == f })
		close(gate)
	}
}

// begin records an operation and does what was scripted for it. The caller does not hold r.mu.
func (r *Runtime) begin(ctx context.Context, op Op, name runtime.Name, id runtime.ID) error {
	if err := ctx.Err(); err != nil {
		return failed(op, name, id, err)
	}
	r.mu.Lock()
	if op != OpList && op != OpRepair {
		r.calls = append(r.calls, Call{Op: op, Name: name, ID: id})
	}
	var gates []<-chan struct{}
	for _, f := range r.faults {
		if f.op == op && f.name == name && f.gate != nil {
			gates = append(gates, f.gate)
		}
	}
	r.mu.Unlock()
	for _, gate := range gates {
		select {
		case <-gate:
		case <-ctx.Done():
			return failed(op, name, id, ctx.Err())
		}
	}
	return r.fault(op, name, id)
}

// fault returns the next scripted failure of an operation and counts it down.
func (r *Runtime) fault(op Op, name runtime.Name, id runtime.ID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.faults {
		if f.op != op || f.name != name || f.gate != nil || f.times == 0 {
			continue
		}
		f.times--
		if e, ok := errors.AsType[*runtime.Error](f.err); ok {
			scripted := *e
			scripted.ID, scripted.Name = id, name
			return &scripted
		}
		return failed(op, name, id, f.err)
	}
	return nil
}

// SetImageDigest makes ref resolve to digest from now on.
func (r *Runtime) SetImageDigest(ref, digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.digests[ref] = digest
}

// Exit ends the process of a running container with code, as if by itself. On another it does nothing.
func (r *Runtime) Exit(id runtime.ID, code int) {
	r.end(id, exit{code: &code})
}

// Kill ends the process of a running container as a SIGKILL from outside does.
func (r *Runtime) Kill(id runtime.ID) {
	code := codeKilled
	r.end(id, exit{code: &code})
}

// OOM ends the process of a running container as the kernel does when its memory is used up.
func (r *Runtime) OOM(id runtime.ID) {
	code := codeKilled
	r.end(id, exit{code: &code, oom: true})
}

func (r *Runtime) end(id runtime.ID, e exit) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		r.exit(c, e)
	}
}

// Reboot ends every process without anybody seeing its exit code, and forgets nothing else.
func (r *Runtime) Reboot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		r.exit(c, exit{reason: runtime.ReasonSupervisorLost})
	}
}

// Put places a container as it is, such as one that an earlier agent left in the middle of something. An empty ID and
// a zero CreatedAt are filled in.
func (r *Runtime) Put(s runtime.Status) runtime.ID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.add(s)
}

// Output returns what the present or last start of a container printed.
func (r *Runtime) Output(id runtime.ID) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return slices.Clone(c.output)
	}
	return nil
}

// Calls returns the operations so far, List apart.
func (r *Runtime) Calls() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}
