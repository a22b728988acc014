package linux

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// List implements runtime.Runtime: what is on disk, and of what was started what the supervisor says. Without a
// supervisor a container runs as long as its process 1 does.
func (r *Runtime) List(ctx context.Context) ([]runtime.Status, error) {
	const op = "list containers"
	// Read first, asked second: who is started in between is Running and known, not lost.
	entries, err := r.entries("")
	if err != nil {
		return nil, failure(op, "", runtime.Name{}, err)
	}
	supervised, err := r.supervised(ctx)
	if err != nil {
		return nil, failure(op, "", runtime.Name{}, err)
	}
	statuses, first := make([]runtime.Status, 0, len(entries)), servers(entries)
	for _, e := range entries {
		st, err := r.status(e, supervised)
		if err != nil {
			return nil, failure(op, e.ID, e.Spec.Name, err)
		}
		st.Serving = first[e.Spec.Name] != nil && first[e.Spec.Name].ID == e.ID
		statuses = append(statuses, st)
	}
	slices.SortFunc(statuses, func(a, b runtime.Status) int {
		return cmp.Or(strings.Compare(a.Spec.Name.Namespace, b.Spec.Name.Namespace),
			strings.Compare(a.Spec.Name.Name, b.Spec.Name.Name), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return statuses, nil
}

// entries returns every container that is whole and whose ID begins with prefix; with an error those that could be read. One
// whose record says nothing any more is none, unless it is in the kernel: then nobody knows whose it is, and that is an error.
// They are not to be changed.
func (r *Runtime) entries(prefix string) ([]*entry, error) {
	ids, err := r.state.ids()
	if err != nil {
		return nil, err
	}
	entries := make([]*entry, 0, len(ids))
	var errs []error
	for _, id := range ids {
		if !strings.HasPrefix(string(id), prefix) {
			continue
		}
		e, err := r.state.look(id)
		if r.isNone(id, err) {
			continue
		}
		if err != nil {
			errs = append(errs, &runtime.Error{Op: "read container " + string(id), ID: id, Err: err})
			continue
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(errs...)
}

// isNone says of an error of reading a container that there is none: half made, half removed, or damaged and not running.
func (r *Runtime) isNone(id runtime.ID, err error) bool {
	var bad *damagedError
	return errors.Is(err, runtime.ErrNotFound) || errors.As(err, &bad) && !r.inKernel(id)
}

// supervised returns what the supervisor knows; nothing if none runs. Who watches acts on what is listed: where one died and
// left containers, the next one tells how they are and how they ended meanwhile, and is waited for.
func (r *Runtime) supervised(ctx context.Context) (map[runtime.ID]supervisor.State, error) {
	client, err := supervisor.Dial(ctx, r.supervisorConfig())
	if errors.Is(err, supervisor.ErrNotRunning) && r.holding.Load() && supervisor.LeftBehind(r.supervisorConfig()) {
		client, err = r.supervise(ctx)
	}
	if errors.Is(err, supervisor.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := client.List(ctx)
	if errors.Is(err, supervisor.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	states := make(map[runtime.ID]supervisor.State, len(list))
	for _, s := range list {
		states[s.ID] = s
	}
	return states, nil
}

func (r *Runtime) status(e *entry, supervised map[runtime.ID]supervisor.State) (runtime.Status, error) {
	st := runtime.Status{
		ID: e.ID, Spec: e.Spec, State: runtime.StateCreated, CreatedAt: e.CreatedAt, Starts: e.last.Starts,
		FirstID: e.last.FirstID, ImageDigest: e.ImageDigest, Hostname: e.Spec.Hostname, Warnings: slices.Concat(e.Warnings, e.last.Warnings),
	}
	st.MAC, st.Shares = e.last.MAC, e.last.Shares
	if e.last.IP.IsValid() {
		st.IP = e.last.IP.String()
	}
	if e.last.IPv6.IsValid() {
		st.IPv6 = e.last.IPv6.String()
	}
	s, known := supervised[e.ID]
	ended := false
	switch {
	case known:
		st.StartedAt, st.Ran = s.StartedAt, s.Ran
		st.Warnings = append(st.Warnings, s.Warnings...)
		if s.Running {
			st.State, st.Pid = runtime.StateRunning, s.Pid
		} else {
			st.State, st.FinishedAt, st.ExitCode = runtime.StateExited, s.FinishedAt, s.ExitCode
			st.OOMKilled, st.Stopped, st.Reason = s.OOMKilled, s.Stopped, s.Reason
		}
	case e.last.Starts > 0:
		st.State, st.StartedAt = runtime.StateExited, e.last.StartedAt
		exit, told, err := supervisor.ReadExit(r.state.dir(e.ID))
		if errors.Is(err, supervisor.ErrDamaged) {
			st.Warnings, told, err = append(st.Warnings, err.Error()), false, nil
		}
		if err != nil {
			return runtime.Status{}, err
		}
		// While it runs again, the file tells of the run before.
		ended = told && !exit.StartedAt.Before(e.last.StartedAt)
		switch {
		case ended && exit.StartedAt.Equal(e.last.StartedAt): // not the run before
			st.StartedAt, st.FinishedAt, st.Ran, st.ExitCode = exit.StartedAt, exit.FinishedAt, exit.Ran, exit.Code
			st.OOMKilled, st.Stopped, st.Reason = exit.OOMKilled, exit.Stopped, exit.Reason
		case e.alive():
			st.State, st.Pid = runtime.StateRunning, e.last.Pid
		case e.last.Error == "" && !e.last.Starting:
			st.Reason, st.Message = runtime.ReasonSupervisorLost, "nobody saw how it ended"
			if e.last.Boot != "" && e.last.Boot != bootID() {
				st.Message = "the server was restarted"
			}
		}
	}
	if e.last.Init != "" && !known { // the container itself has not run in this start
		if e.last.Starts == 1 {
			st.State = runtime.StateCreated
		}
		if supervised[initID(e.ID)].Running {
			st.Reason, st.Message = runtime.ReasonInitializing, "init container "+e.last.Init+" runs"
			return e.removed(st), nil
		}
	}
	if st.State != runtime.StateRunning {
		switch {
		case e.last.Error != "":
			st.Reason, st.Message = e.last.Reason, e.last.Error
		case e.last.Starting && !known && !ended:
			// By whoever began it, not by itself: it has not failed, and is begun again whatever its restart policy is.
			st.Reason, st.Message, st.Stopped = runtime.ReasonStartFailed, "the start was cut short", true
		}
	}
	return e.removed(st), nil
}

// removed makes st that of a container that is being removed, if it is.
func (e *entry) removed(st runtime.Status) runtime.Status {
	if e.removing {
		st.State = runtime.StateRemoving
	}
	return st
}

// alive says whether the process 1 that was started last still runs.
func (e *entry) alive() bool {
	if e.last.Pid == 0 || e.last.Boot != bootID() {
		return false
	}
	start, state, ok := processStart(e.last.Pid)
	return ok && start == e.last.StartTime && state != "Z" && state != "X"
}

// bootID identifies this run of the kernel; empty where it cannot be told.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// processStart returns when a process started, in clock ticks since boot, and its state: fields 22 and 3 of
// /proc/PID/stat, counted after the command's name, which may hold anything (proc_pid_stat(5)).
func processStart(pid int) (ticks uint64, state string, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, "", false
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return 0, "", false
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, fields[0], err == nil
}
