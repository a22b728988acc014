package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// reapTimeout is how long to wait for a process that was killed, or for whoever collects it.
const reapTimeout = 4 * time.Second

// adopt takes over what an earlier supervisor left in the run directory. given is what was kept for us of its runs.
func (s *server) adopt(ctx context.Context, given map[runtime.ID]belongings) error {
	defer func() {
		for _, b := range given {
			b.close()
		}
	}()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("read run directory: %w", err)
	}
	for _, e := range entries {
		var rec containerRecord
		dir := filepath.Join(s.dir, e.Name())
		if err := readJSON(filepath.Join(dir, recordFile), &rec); err != nil {
			s.log.Error("cannot read record of container", "container", e.Name(), "err", err)
			if errors.Is(err, fs.ErrNotExist) {
				failpoint.Here("adopt: a run directory without a record") // apart: by chance, after a death at one moment
				_ = os.RemoveAll(dir)                                     // nothing was made before the record
				failpoint.Here("adopt: it is gone")                       // apart: by chance, after a death at one moment
			}
			continue
		}
		if rec.Version > recordVersion {
			return fmt.Errorf("the record of container %s has format %d, this reconciler reads up to %d: use the release that wrote it, or a later one",
				e.Name(), rec.Version, recordVersion)
		}
		c := newContainer(s, rec.Request)
		c.rec = rec
		var own belongings
		if b := given[c.id]; b.run == c.ref() {
			own = b
			delete(given, c.id)
		}
		s.adoptOne(ctx, c, own)
	}
	return nil
}

// adoptOne takes over one container, with what was kept of its run, if anything was.
func (s *server) adoptOne(ctx context.Context, c *container, own belongings) {
	lc, err := libcontainer.Load(s.lcRoot, string(c.id))
	if err != nil && !errors.Is(err, libcontainer.ErrNotExist) {
		s.log.Error("cannot load container", "container", c.id, "err", err)
	}
	if c.lc = lc; lc != nil {
		c.config = lc.Config()
	}
	if c.rec.Pid == 0 || (lc != nil && waitsToStart(lc)) {
		own.close()
		s.abandon(ctx, c)
		return
	}
	s.containers[c.id] = c
	if c.identify(own) {
		failpoint.Here("adopt: found")
		if err := c.takeOutput(own); err != nil {
			c.warn("output is being lost: " + err.Error())
		}
		if c.rec.Stopped && c.rec.KillBoot > 0 {
			left := max(c.rec.KillBoot-bootTime(), 0)
			c.killTime = time.Now().Add(left)
			c.armLocked(left)
		}
		failpoint.Here("adopt: its output is kept")
		s.log.Info("container adopted", "container", c.id, "pid", c.rec.Pid)
		s.watching.Go(c.watch)
		return
	}
	own.close()
	s.lost(c)
}

// takeOutput begins to take what the container writes, and has written while nobody took it.
func (c *container) takeOutput(own belongings) error {
	fifos := own.fifos
	if fifos[0] == nil {
		var err error
		if fifos, err = openFIFOs(c.dir, unix.O_NONBLOCK); err != nil {
			return err
		}
	}
	return c.keepOutput(fifos)
}

// waitsToStart reports whether process 1 has not executed its command yet.
func waitsToStart(lc *libcontainer.Container) bool {
	st, err := lc.Status()
	return err == nil && st == libcontainer.Created
}

// abandon removes a container whose start was not finished; its caller was told nothing.
func (s *server) abandon(ctx context.Context, c *container) {
	s.clear(ctx, c.id)
	failpoint.Here("abandon: cleared")
	_ = os.RemoveAll(c.dir)
	failpoint.Here("abandon: done")
	s.log.Warn("an unfinished start was undone", "container", c.id)
}

// clear takes away what the kernel and libcontainer have of a container that this supervisor does not run: of a start
// that was cut short, or of an end whose cgroup could not be removed at the time.
func (s *server) clear(ctx context.Context, id runtime.ID) {
	lc, err := libcontainer.Load(s.lcRoot, string(id))
	if err == nil {
		if st, serr := lc.State(); serr == nil && st.InitProcessPid > 0 {
			s.endProcess(ctx, st.InitProcessPid, st.InitProcessStartTime)
		}
		c := newContainer(s, StartRequest{ID: id})
		c.lc = lc
		c.destroy()
	} else if !errors.Is(err, libcontainer.ErrNotExist) {
		s.log.Error("cannot load container", "container", id, "err", err)
	}
	failpoint.Here("clear: libcontainer's state there")
	if err := errors.Join(os.RemoveAll(filepath.Join(s.lcRoot, string(id))), removeCgroups(s.cfg.Instance, string(id))); err != nil {
		s.log.Error("cannot remove what is left of a container", "container", id, "err", err)
	}
	failpoint.Here("clear: done")
}

// endProcess kills a process that is not our child and waits for its end, if it is still the one that was meant.
func (s *server) endProcess(ctx context.Context, pid int, startTime uint64) {
	pidfd, err := openPidfd(pid)
	if err != nil {
		return
	}
	defer func() { _ = pidfd.Close() }()
	if ticks, alive, err := processStart(pid); err != nil || !alive || ticks != startTime {
		return
	}
	wait, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	failpoint.Here("clear: process 1 there") // apart: of a start cut short at one moment
	if err := errors.Join(signalPidfd(pidfd, unix.SIGKILL), waitPidfd(wait, pidfd)); err != nil {
		s.log.Error("cannot end process", "pid", pid, "err", err)
	}
	failpoint.Here("clear: process 1 ended") // apart: of a start cut short at one moment
}

// identify gets a pidfd of process 1: the one that was kept, with which the exit of one that has ended can be told, or a
// new one if that is still the process that was started. Where its exit is recorded there is nothing more to do.
func (c *container) identify(own belongings) bool {
	if own.pidfd != nil {
		if e, ok, err := ReadExit(c.rec.Request.LogDir); err == nil && ok && e.StartedAt.Equal(c.rec.StartedAt) {
			return false
		}
		c.pidfd, c.child = own.pidfd, isChild(c.rec.Pid, c.rec.StartTime)
		return true
	}
	if c.lc == nil {
		return false
	}
	pidfd, err := openPidfd(c.rec.Pid)
	if err != nil {
		return false
	}
	// Looked at after the pidfd is open: from here on the number cannot come to mean another.
	ticks, alive, err := processStart(c.rec.Pid)
	if err != nil || !alive || ticks != c.rec.StartTime {
		_ = pidfd.Close()
		return false
	}
	c.pidfd = pidfd
	return true
}

// lost deals with a container that ended while nobody looked. Its exit may have been recorded before the old
// supervisor died; otherwise it is unknown, and is never made up.
func (s *server) lost(c *container) {
	dir := c.rec.Request.LogDir
	e, ok, err := ReadExit(dir)
	if err != nil || !ok || !e.StartedAt.Equal(c.rec.StartedAt) {
		e = Exit{
			Version: exitVersion, StartedAt: c.rec.StartedAt, FinishedAt: time.Now(), Ran: bootTime() - c.rec.StartBoot,
			Stopped: c.rec.Stopped, Reason: runtime.ReasonSupervisorLost,
		}
		if err = writeJSON(filepath.Join(dir, exitFile), e); err != nil {
			c.warn("its exit could not be recorded: " + err.Error())
		}
	}
	failpoint.Here("lost: recorded") // apart: where agent and supervisor are dead at an end
	// What the container wrote and nobody moved is gone with the last who held its pipes; what was moved is recorded.
	log, err := openLog(dir, c.rec.Request.Logs, nil)
	if err != nil {
		s.log.Warn("cannot repair kept output", "container", c.id, "err", err)
	}
	log.close()
	failpoint.Here("lost: its output repaired") // apart: where agent and supervisor are dead at an end
	c.destroy()
	c.lc, c.exit = nil, &e
	close(c.exited)
	if e.Reason != "" {
		s.log.Warn("container ended unseen", "container", c.id)
	}
}

// foreignExit finds out how process 1 ended, which is not our child. Who collects it may take its time; until then it is
// a zombie, which shows its status. Afterwards the kernel tells by the pidfd (Linux 6.15). Older kernels tell nobody but the
// parent, and a status is never made up.
func (c *container) foreignExit() (status unix.WaitStatus, known bool) {
	conn, err := c.pidfd.SyscallConn()
	if err != nil {
		return 0, false
	}
	_ = conn.Control(func(fd uintptr) {
		// Newer kernels wake who waits for the hangup, which comes when it is collected; for the others the wait is cut
		// into growing pieces.
		for wait := time.Millisecond; wait < reapTimeout; wait *= 2 {
			info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
			if err := unix.IoctlPidfdInfo(int(fd), &info); err != nil {
				return // an older kernel, where what a zombie shows is not always the status of all its threads
			}
			// Without that bit the call succeeds with exit code 0, which must not be believed.
			if info.Mask&unix.PIDFD_INFO_EXIT != 0 {
				status, known = unix.WaitStatus(info.Exit_code), true
				return
			}
			if status, known = zombieStatus(c.rec.Pid, c.rec.StartTime); known {
				return
			}
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd)}}, int(wait.Milliseconds()))
		}
	})
	return status, known
}
