package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// bundle is what a bundle's config.json says.
type bundle struct {
	spec    *specs.Spec
	seccomp json.RawMessage // of spec, which is without: it is most of the file
}

// loadSpec reads and checks a bundle's config.json and takes out what this server cannot do.
func loadSpec(req StartRequest) (b bundle, warnings []string, err error) {
	var file struct {
		specs.Spec
		Linux *struct {
			specs.Linux
			Seccomp json.RawMessage `json:"seccomp"`
		} `json:"linux"`
	}
	if err = readJSON(filepath.Join(req.Bundle, "config.json"), &file); err != nil {
		return b, nil, err
	}
	spec := &file.Spec
	if file.Linux != nil {
		spec.Linux, b.seccomp = &file.Linux.Linux, file.Linux.Seccomp
	}
	switch {
	case spec.Process == nil || len(spec.Process.Args) == 0:
		return b, nil, errors.New("the bundle's config.json has no command")
	case spec.Root == nil || spec.Linux == nil:
		return b, nil, errors.New("the bundle's config.json has no root or linux section")
	case spec.Linux.CgroupsPath == "":
		return b, nil, errors.New("the bundle's config.json has no cgroupsPath")
	case req.StopSignal != "" && !knownSignal(req.StopSignal):
		return b, nil, fmt.Errorf("unknown stop signal %q", req.StopSignal)
	case spec.Process.Terminal:
		return b, nil, errors.New("a terminal for process 1 is not supported")
	}
	if !filepath.IsAbs(spec.Root.Path) {
		spec.Root.Path = filepath.Join(req.Bundle, spec.Root.Path)
	}
	b.spec = spec
	return b, degrade(spec), nil
}

// launch makes and starts the container that c.rec.Request asks for. When it fails nothing is left. c.op is held.
func (c *container) launch(ctx context.Context, configure func(ctx context.Context, netns *os.File) error) (err error) {
	req := c.rec.Request
	b, warnings, err := loadSpec(req)
	spec := b.spec
	if err == nil && configure != nil {
		err = checkOwnNetwork(spec)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.rec.Warnings = warnings
	c.mu.Unlock()
	failpoint.Here("launch: nothing made")
	if err = os.Mkdir(c.dir, 0o700); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	defer func() {
		if err != nil {
			c.undo()
		}
	}()
	failpoint.Here("launch: a run directory without a record")
	// Before anything is made, so that the next supervisor finds and removes it if this one dies now.
	if err = c.save(); err != nil {
		return err
	}
	failpoint.Here("launch: a record")
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: string(req.ID), Spec: spec})
	if err != nil {
		return err
	}
	if config.Seccomp, err = c.srv.filters.of(b.seccomp); err != nil {
		return err
	}
	if _, lerr := os.Lstat(filepath.Join(c.srv.lcRoot, string(req.ID))); lerr == nil {
		c.srv.clear(ctx, req.ID)
	}
	if c.lc, err = libcontainer.Create(c.srv.lcRoot, string(req.ID), config); err != nil {
		return err
	}
	failpoint.Here("launch: a container of libcontainer")
	c.config = *config
	if err = c.openOutput(config, spec); err != nil {
		return err
	}
	failpoint.Here("launch: its output is kept")
	network, err := connect(ctx, spec, configure)
	if err != nil {
		return err
	}
	defer network.end()
	return c.spawn(spec, network)
}

// openOutput makes the FIFOs and begins to keep what comes out of them.
func (c *container) openOutput(config *configs.Config, spec *specs.Spec) error {
	uid, err := config.HostUID(int(spec.Process.User.UID))
	if err != nil {
		return err
	}
	gid, err := config.HostGID(int(spec.Process.User.GID))
	if err != nil {
		return err
	}
	if err = makeFIFOs(c.dir, uid, gid); err != nil {
		return err
	}
	fifos, err := openFIFOs(c.dir, unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	return c.keepOutput(fifos)
}

// keepOutput begins to take the container's output. Where it cannot be kept, it is taken all the same and dropped, until
// it can: a container whose pipes are full stands still.
func (c *container) keepOutput(fifos [2]*os.File) error {
	log, err := openLog(c.rec.Request.LogDir, c.rec.Request.Logs, func(err error) {
		c.warn("output is being lost: " + err.Error())
	})
	p, perr := startPumps(fifos, log)
	if perr != nil {
		log.close()
		return errors.Join(err, perr)
	}
	c.mu.Lock()
	c.out = p
	c.mu.Unlock()
	return err
}

// spawn starts process 1 and lets it execute the command when its network is there.
func (c *container) spawn(spec *specs.Spec, network *connecting) error {
	proc, err := newProcess(spec.Process)
	if err != nil {
		return err
	}
	proc.Init = true
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer func() { _ = null.Close() }()
	// The container's side is opened for reading and writing too: while no supervisor lives, nobody gets EPIPE.
	ends, err := openFIFOs(c.dir, 0)
	if err != nil {
		return err
	}
	defer closeFiles(ends[:]...)
	proc.Stdin, proc.Stdout, proc.Stderr, proc.PidfdSocket = null, ends[0], ends[1], network.socket
	var awake *os.File
	failpoint.Here("launch: no process yet")
	if c.srv.usesInit(spec) {
		var theirs *os.File
		if awake, theirs, err = os.Pipe(); err != nil {
			return err
		}
		defer func() { _ = awake.Close() }()
		proc.ExtraFiles = []*os.File{theirs}
		err = startProcess(c.lc, proc)
		_ = theirs.Close()
	} else {
		err = startProcess(c.lc, proc)
	}
	if err != nil {
		return err
	}
	failpoint.Here("launch: process 1 waits")
	c.proc = proc
	pid, err := proc.Pid()
	if err != nil {
		return err
	}
	if c.pidfd, err = openPidfd(pid); err != nil {
		return err
	}
	ticks, _, err := processStart(pid)
	if err != nil {
		return err
	}
	if err = c.srv.preflight(pid, spec.Process); err != nil {
		return err
	}
	failpoint.Here("launch: process 1 is known")
	network.started()
	select {
	case <-network.done: // as nearly always
	default:
		<-c.srv.starts // it only waits meanwhile, and others need not
		<-network.done
		c.srv.starts <- struct{}{}
	}
	if network.err != nil {
		return network.err
	}
	failpoint.Here("launch: its network is there")
	if err = c.out.log.beginRun(); err != nil {
		return err
	}
	failpoint.Here("launch: its run is begun")
	c.mu.Lock()
	c.rec.Pid, c.rec.StartTime = pid, ticks
	c.rec.StartedAt, c.rec.StartBoot = time.Now(), bootTime()
	c.mu.Unlock()
	if err = c.save(); err != nil {
		return err
	}
	failpoint.Here("launch: process 1 recorded")
	c.srv.lendAll(c) // before it can do anything that could get lost
	failpoint.Here("launch: lent")
	setup, err := executableOf(pid)
	if err == nil {
		err = c.lc.Exec()
	}
	if err != nil {
		return fmt.Errorf("process 1 ended before it could execute the command: %w", err)
	}
	failpoint.Here("launch: the command begins")
	awaitExec(pid, setup)
	failpoint.Here("launch: the command runs")
	if awake != nil {
		// Until the init has blocked them, the kernel drops the signals of a process 1 that has no handlers, and a stop
		// right after the start would wait for its whole grace. It closes the pipe then, or in its death.
		_, _ = awake.Read(make([]byte, 1))
	}
	return nil
}

// usesInit reports whether the command is our own init, mounted into the container.
func (s *server) usesInit(spec *specs.Spec) bool {
	for _, m := range spec.Mounts {
		if m.Destination == spec.Process.Args[0] && m.Source == initPath(s.cfg.RunDir) {
			return true
		}
	}
	return false
}

// undo removes everything that a failed launch made. It may be called at any stage.
func (c *container) undo() {
	if c.lc != nil {
		if c.proc != nil {
			_ = c.proc.Signal(unix.SIGKILL)
			_, _ = c.proc.Wait()
		}
		c.destroy()
	}
	if c.pidfd != nil {
		_ = c.pidfd.Close()
	}
	if c.out != nil {
		c.out.stop()
	}
	failpoint.Here("launch: undone, the run directory there")
	if err := os.RemoveAll(c.dir); err != nil {
		c.srv.log.Error("cannot remove run directory", "container", c.id, "err", err)
	}
	failpoint.Here("launch: undone")
}

// destroy removes libcontainer's state and the cgroup of a container without living process 1.
func (c *container) destroy() {
	if c.lc == nil {
		return
	}
	// If process 1 died before it opened exec.fifo, a goroutine of libcontainer and its thread wait in open for ever
	// unless somebody opens the other end.
	fifo := filepath.Join(c.srv.lcRoot, string(c.id), "exec.fifo")
	if fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Close(fd)
	}
	failpoint.Here("destroy: not begun")
	if err := c.lc.Destroy(); err != nil {
		c.srv.log.Error("cannot remove container", "container", c.id, "err", err)
		c.warn("its cgroup or state could not be removed: " + err.Error())
	}
	failpoint.Here("destroy: done")
}

// cgroupOOMKills reads how many processes of the container the kernel killed for memory. The cgroup must be there still.
func (c *container) cgroupOOMKills() uint64 {
	if c.lc == nil {
		return 0
	}
	state, err := c.lc.State()
	if err != nil {
		return 0
	}
	m, err := manager.NewWithPaths(state.Config.Cgroups, state.CgroupPaths)
	if err != nil {
		return 0
	}
	n, err := m.OOMKillCount()
	if err != nil {
		return 0
	}
	return n
}

// startError makes an error of libcontainer into one for people: what of the container cannot be run and why.
func startError(req StartRequest, err error) error {
	e := &runtime.Error{Op: "start container", ID: req.ID, Err: err, Reason: runtime.ReasonStartFailed}
	if known, ok := errors.AsType[*execError](err); ok {
		e.Err, e.Permanent, e.Hint = known, true, known.hint
		return e
	}
	msg := err.Error()
	// "unable to start container process: error during container init: exec: "foo": stat foo: no such file…"
	for _, prefix := range []string{"unable to start container process: ", "error during container init: "} {
		if _, after, ok := strings.Cut(msg, prefix); ok {
			msg = after
		}
	}
	if rest, ok := strings.CutPrefix(msg, `exec: "`); ok {
		if name, why, ok := strings.Cut(rest, `": `); ok {
			why = strings.TrimPrefix(why, "stat "+name+": ")
			e.Err, e.Permanent = &execError{name: name, why: why}, true
			if strings.Contains(why, "$PATH") {
				e.Hint = "give the command's full path, or set PATH"
			}
			return e
		}
	}
	if strings.Contains(msg, "memory limit") { // set too low to set it, or killed for it before the command ran
		e.Permanent, e.Hint = true, "raise the memory limit: less than 16Mi is not enough to start anything"
	}
	if errors.Is(err, fs.ErrNotExist) && strings.Contains(msg, "config.json") {
		e.Permanent = true
	}
	if strings.HasPrefix(msg, "open sysctl ") || strings.HasPrefix(msg, "failed to write sysctl ") {
		e.Permanent, e.Hint = true, sysctlHint(msg)
	}
	e.Err = &remoteError{text: msg, is: err}
	return e
}

// sysctlHint says what to do about a kernel parameter that could not be set: the text is all that is left of the error.
func sysctlHint(msg string) string {
	switch {
	case strings.HasSuffix(msg, unix.EACCES.Error()), strings.HasSuffix(msg, unix.EPERM.Error()):
		return "this kernel lets nobody set it who has user ids of its own: say `hostUsers: true`, or leave it out"
	case strings.HasSuffix(msg, unix.ENOENT.Error()):
		// Linux 6.1, for one, hides those of net.core from a network whose owner has user ids of its own.
		return "this kernel has no such parameter in a namespace of a container's own: leave it out, or say `hostUsers: true` if that has it"
	}
	return "the kernel does not take this value"
}

// execError says that a command cannot be executed.
type execError struct{ name, why, hint string }

func (e *execError) Error() string { return "exec " + e.name + ": " + e.why }
