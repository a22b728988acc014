package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// container is one container that was started and not deleted. Two locks: op is held by whoever changes what it is
// (start, delete, update), for as long as that takes; mu only for looking at its fields or changing them.
type container struct {
	srv *server
	id  runtime.ID
	dir string // in the run directory: record and FIFOs

	op sync.Mutex

	lc    *libcontainer.Container // nil once it has exited; its Config may be asked for only with op held
	proc  *libcontainer.Process   // nil for one that an earlier supervisor started
	child bool                    // it is our child all the same: that was the same process
	pidfd *os.File
	out   *pumps
	// config is what it was started with. libcontainer's changes with the limits, and is not for who comes meanwhile.
	config configs.Config

	mu       sync.Mutex
	rec      containerRecord
	warnings []string // added while it runs
	exit     *Exit
	released bool // this supervisor has let go of it
	killed   bool // by us, whatever the exit looks like
	killTime time.Time
	timer    *time.Timer
	exited   chan struct{} // closed when exit is set
}

func newContainer(s *server, req StartRequest) *container {
	return &container{
		srv: s, id: req.ID, dir: filepath.Join(s.dir, string(req.ID)),
		rec:    containerRecord{Version: recordVersion, Request: req},
		exited: make(chan struct{}),
	}
}

// save writes the record for the next supervisor.
func (c *container) save() error {
	if err := writeJSON(filepath.Join(c.dir, recordFile), c.rec); err != nil {
		return fmt.Errorf("write record of container: %w", err)
	}
	return nil
}

func (c *container) warn(msg string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.warnings, msg) {
		c.warnings = append(c.warnings, msg)
	}
	c.srv.log.Warn(msg, "container", c.id)
}

// state tells what the container is.
func (c *container) state() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{
		ID: c.id, StartTime: c.rec.StartTime, StartedAt: c.rec.StartedAt, Stopped: c.rec.Stopped,
		Warnings: slices.Concat(c.rec.Warnings, c.warnings),
	}
	if e := c.exit; e != nil {
		s.FinishedAt, s.Ran, s.ExitCode, s.Signal = e.FinishedAt, e.Ran, e.Code, e.Signal
		s.OOMKilled, s.Stopped, s.Reason = e.OOMKilled, e.Stopped, e.Reason
		return s
	}
	s.Running, s.Pid, s.Ran = true, c.rec.Pid, bootTime()-c.rec.StartBoot
	return s
}

func (c *container) started() Started {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Started{
		Pid: c.rec.Pid, StartTime: c.rec.StartTime, At: c.rec.StartedAt,
		Warnings: slices.Concat(c.rec.Warnings, c.warnings),
	}
}

func (c *container) running() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

func (c *container) isReleased() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.released
}

// watch waits for the end of process 1 and records it. It is the only one that does.
func (c *container) watch() {
	if err := waitPidfd(context.Background(), c.pidfd); err != nil {
		if c.isReleased() {
			return // the supervisor goes, the container stays
		}
		c.srv.log.Error("cannot wait for container", "container", c.id, "err", err)
		return
	}
	c.finish()
}

// finish records the exit of a container whose process 1 is dead. Output comes first: whoever sees the exit sees the
// last words too.
func (c *container) finish() {
	c.srv.records.RLock() // once it is collected, nobody else can know
	defer c.srv.records.RUnlock()
	defer c.srv.rest.Worked()
	finished, boot := time.Now(), bootTime()
	failpoint.Here("exit: not collected")
	code, sig, reason := c.collect()
	failpoint.Here("exit: collected")
	if c.lc != nil && !c.ownPids() {
		_ = c.lc.Signal(unix.SIGKILL) // what process 1 left behind in its cgroup
	}
	if c.out != nil {
		c.out.stop()
	}
	failpoint.Here("exit: its output is kept")
	oom := c.cgroupOOMKills()
	c.mu.Lock()
	if c.timer != nil {
		c.timer.Stop()
	}
	e := Exit{
		Version: exitVersion, Code: code, StartedAt: c.rec.StartedAt, FinishedAt: finished,
		Ran: boot - c.rec.StartBoot, Stopped: c.rec.Stopped, Reason: reason,
	}
	if sig != 0 {
		e.Signal = signalName(sig)
	}
	// A child may be killed for memory while process 1 lives on: only what ended the container counts. A shell or an
	// init passes on what killed its child as 128 + 9.
	e.OOMKilled = oom > 0 && !c.killed && code != nil && *code == 128+int(unix.SIGKILL)
	c.mu.Unlock()

	if err := writeJSON(filepath.Join(c.rec.Request.LogDir, exitFile), e); err != nil {
		c.warn("its exit could not be recorded: " + err.Error())
	}
	failpoint.Here("exit: recorded")
	c.destroy()
	c.srv.boundOwnLog() // before the exit is seen, so that it is never behind
	c.mu.Lock()
	c.exit, c.lc, c.proc, c.out = &e, nil, nil, nil
	run := c.ref()
	c.mu.Unlock()
	_ = c.pidfd.Close()
	c.srv.letGo(run)
	for _, s := range []Stream{Stdout, Stderr} {
		failpoint.Here("exit: a pipe there")
		_ = os.Remove(filepath.Join(c.dir, string(s)))
	}
	failpoint.Here("exit: not told of")
	close(c.exited)
	c.srv.publish(runtime.Event{Type: runtime.EventExited, ID: c.id, Time: finished})
	c.srv.log.Info("container exited", "container", c.id, "code", e.codeText(), "oom", e.OOMKilled)
}

// collect gets the exit status of process 1.
func (c *container) collect() (code *int, sig unix.Signal, reason string) {
	if c.proc == nil && !c.child {
		if status, ok := c.foreignExit(); ok {
			return exitCode(status)
		}
		return nil, 0, runtime.ReasonSupervisorLost
	}
	ps, err := c.wait()
	if ps == nil {
		c.srv.log.Error("cannot collect exit status", "container", c.id, "err", err)
		return nil, 0, runtime.ReasonSupervisorLost
	}
	status, ok := ps.Sys().(syscall.WaitStatus)
	if !ok {
		return nil, 0, runtime.ReasonSupervisorLost
	}
	return exitCode(unix.WaitStatus(status))
}

// wait collects process 1, which has ended and is our child.
func (c *container) wait() (*os.ProcessState, error) {
	if c.proc != nil {
		return c.proc.Wait()
	}
	return waitChild(c.rec.Pid)
}

func exitCode(status unix.WaitStatus) (code *int, sig unix.Signal, reason string) {
	n := status.ExitStatus()
	if status.Signaled() {
		sig = status.Signal()
		n = 128 + int(sig)
	}
	return &n, sig, ""
}

// ownPids reports whether it has a pid namespace of its own, with whose process 1 the kernel ends all others.
func (c *container) ownPids() bool { return c.config.Namespaces.IsPrivate(configs.NEWPID) }

// stop asks the container to end, and sees to it after grace.
func (c *container) stop(signal string, grace time.Duration) error {
	if grace <= 0 {
		return c.end()
	}
	if signal == "" {
		signal = c.rec.Request.StopSignal
	}
	if signal == "" {
		signal = "SIGTERM"
	}
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit != nil {
		return nil
	}
	c.rec.Stopped = true
	if due := time.Now().Add(grace); c.timer == nil || due.Before(c.killTime) {
		c.killTime = due
		c.rec.KillBoot = bootTime() + grace
		c.armLocked(grace)
	}
	c.saveStop()
	failpoint.Here("supervisor stop: recorded, not signalled")
	err = signalPidfd(c.pidfd, sig)
	failpoint.Here("supervisor stop: signalled")
	return err
}

// end kills the container because somebody asked for it.
func (c *container) end() error {
	c.mu.Lock()
	if c.exit == nil {
		c.rec.Stopped, c.rec.KillBoot = true, bootTime()
		c.saveStop()
	}
	c.mu.Unlock()
	return c.kill()
}

// saveStop tells the next supervisor that the end was asked for. Without that the stop goes on all the same.
func (c *container) saveStop() {
	if err := c.save(); err != nil {
		c.srv.log.Error("cannot record stop", "container", c.id, "err", err)
	}
}

func (c *container) armLocked(grace time.Duration) {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer = time.AfterFunc(grace, func() {
		if err := c.kill(); err != nil {
			c.srv.log.Error("cannot kill container", "container", c.id, "err", err)
		}
	})
}

// kill ends every process of the container at once. c.mu must not be held: libcontainer makes it wait for a command that
// is being started inside, and nobody may have to wait for that to look at the container.
func (c *container) kill() error {
	c.mu.Lock()
	lc := c.lc
	if c.exit != nil || lc == nil {
		c.mu.Unlock()
		return nil
	}
	c.killed = true
	failpoint.Here("kill: not begun")
	err := signalPidfd(c.pidfd, unix.SIGKILL)
	c.mu.Unlock()
	failpoint.Here("kill: process 1 killed")
	// With process 1 of a pid namespace the kernel kills all others in it. Without one, libcontainer kills all of the
	// cgroup; and a frozen process dies only when it is thawed, which libcontainer does too. Where there is nothing left
	// to do it says that the container does not run.
	if lerr := lc.Signal(unix.SIGKILL); lerr != nil && !c.ownPids() && c.running() && !errors.Is(lerr, libcontainer.ErrNotRunning) {
		err = errors.Join(err, lerr)
	}
	return err
}

// signal sends a signal to process 1.
func (c *container) signal(name string) error {
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit != nil {
		return ErrExited
	}
	return signalPidfd(c.pidfd, sig) // no failpoint: nothing of ours changes
}

// update changes limits of what runs.
func (c *container) update(limits runtime.Resources, logs runtime.Logs) error {
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	lc, out := c.lc, c.out
	c.rec.Request.Logs = logs
	c.mu.Unlock()
	if lc == nil || !c.running() {
		return nil
	}
	if out != nil {
		out.log.setLimits(logs)
	}
	config := lc.Config()
	cg := *config.Cgroups
	res := *cg.Resources
	cgroup := "" // of v2
	if state, err := lc.State(); err == nil {
		cgroup = state.CgroupPaths[""]
	}
	if cgroup != "" {
		res.Memory = memoryLimit(cgroup, res.Memory)
	}
	applyLimits(&res, limits, limitsSwap())
	if res.MemoryCheckBeforeUpdate && cgroup != "" { // which counts cached files as in use
		if err := makeRoom(cgroup, limits.Memory); err != nil {
			return fmt.Errorf("change limits: %w", err)
		}
	}
	cg.Resources = &res
	config.Cgroups = &cg
	failpoint.Here("limits: not changed")
	if err := lc.Set(config); err != nil {
		if errors.Is(err, libcontainer.ErrNotRunning) {
			return nil
		}
		return fmt.Errorf("change limits: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	failpoint.Here("limits: changed, not recorded")
	return c.save()
}

// remove forgets the container, killing what runs.
func (c *container) remove(ctx context.Context) error {
	c.op.Lock()
	defer c.op.Unlock()
	if c.running() {
		if err := c.end(); err != nil {
			return err
		}
		select {
		case <-c.exited:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	failpoint.Here("delete: ended")
	err := os.RemoveAll(c.dir)
	failpoint.Here("delete: done")
	return err
}
