package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

const (
	// holdAgain is how often a Holder looks for a supervisor while there is none.
	holdAgain = time.Second
	// upgradeAgain is when it tries again to upgrade one that could not be.
	upgradeAgain = time.Minute
)

// Holder keeps copies of what a supervisor has of every container, its pipes and its pidfd, so that last words and exits
// outlive a supervisor that is killed: the next one asks for them when it starts. It also sees to it that there is a
// next one as long as containers need one, and upgrades one of another release in place. It is for a process that lives
// long, such as the agent; one an instance.
type Holder struct {
	cfg  Config
	self []string
	log  *slog.Logger

	upgrade time.Time // not before

	// hearing is held while a supervisor is listened to: what a dead one said last is read before anything is given.
	hearing sync.Mutex

	mu   sync.Mutex
	runs map[runtime.ID]held
}

// held is what is kept of one run. Bare descriptors: nothing here wants to know when they become readable.
type held struct {
	run runRef
	fds []int
}

// NewHolder returns a Holder of cfg's supervisor, which is started with self, as with Ensure, when it is missed. It does
// nothing before Run.
func NewHolder(cfg Config, self []string) *Holder {
	h := &Holder{cfg: cfg, self: self, log: cfg.Logger, runs: map[runtime.ID]held{}}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	return h
}

func holderPath(cfg Config) string { return filepath.Join(cfg.RunDir, "holder.sock") }

// Run holds until ctx ends.
func (h *Holder) Run(ctx context.Context) {
	g := &giver{holder: h}
	defer g.close()
	defer h.dropAll()
	var said string
	for ctx.Err() == nil {
		began := time.Now()
		err := h.revive(ctx)
		if err == nil {
			err = h.hear(ctx, g)
		}
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil: // it is gone: perhaps there is another already
			said = ""
		case errors.Is(err, ErrNotRunning):
		case err.Error() != said:
			said = err.Error()
			h.log.Warn("cannot hold what containers write, nor their exits, for the next supervisor", "err", err)
		}
		var pause time.Duration
		switch {
		case err != nil:
			pause = holdAgain
		case time.Since(began) < holdAgain: // one that ends at every call must not keep us busy
			pause = holdAgain / 10
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// revive starts a supervisor where one died and left containers, and upgrades one of another release.
func (h *Holder) revive(ctx context.Context) error {
	v, err := AskVersion(ctx, h.cfg)
	if err == nil && len(h.self) > 0 && v.Binary != h.cfg.release() && time.Now().After(h.upgrade) {
		h.upgrade = time.Now().Add(upgradeAgain)
		if _, err = Upgrade(ctx, h.cfg, h.self); err == nil {
			h.log.Info("the supervisor was upgraded in place", "pid", v.Pid, "from", v.Binary, "to", h.cfg.release())
		} else if ctx.Err() == nil {
			h.log.Warn("the supervisor is of another release and cannot be upgraded now", "pid", v.Pid, "release", v.Binary, "err", err)
		}
		return nil // one that was not can be held all the same
	}
	if !errors.Is(err, ErrNotRunning) || len(h.self) == 0 || !LeftBehind(h.cfg) {
		return err
	}
	h.log.Warn("the supervisor is gone, starting another: containers run on")
	_, err = Ensure(ctx, h.cfg, h.self)
	return err
}

// LeftBehind reports whether a supervisor left containers in the run directory, of which the next one can tell.
func LeftBehind(cfg Config) bool {
	entries, err := os.ReadDir(filepath.Join(cfg.RunDir, "supervisor"))
	return err == nil && len(entries) > 0
}

// hear takes what the supervisor lends until it is gone.
func (h *Holder) hear(ctx context.Context, g *giver) error {
	h.hearing.Lock()
	defer h.hearing.Unlock()
	c := &Client{socket: socketPath(h.cfg)}
	conn, done, err := c.send(ctx, opHold, struct{}{})
	if err != nil {
		return err
	}
	defer done()
	if _, err = receive(ctx, conn, opHold, nil); err != nil {
		return err
	}
	// Only now there is a run directory for sure.
	if err = g.listen(); err != nil {
		return err
	}
	seen := map[runtime.ID]bool{}
	for {
		var m lent
		fds, err := readFDs(conn, maxRequest, &m)
		if err != nil {
			return nil // it is gone; what it lent stays
		}
		switch {
		case m.All: // what an earlier one lent and this one does not know has ended and is recorded
			h.dropBut(seen)
			seen = nil
		case m.Over:
			h.drop(m.Run)
		default:
			h.keep(held{run: m.Run, fds: fds})
			failpoint.Here("hold: one run more")
			if seen != nil {
				seen[m.Run.ID] = true
			}
		}
	}
}

func (h *Holder) keep(x held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	closeFDs(h.runs[x.run.ID].fds...)
	h.runs[x.run.ID] = x
}

func (h *Holder) drop(run runRef) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if x := h.runs[run.ID]; x.run == run {
		closeFDs(x.fds...)
		delete(h.runs, run.ID)
	}
}

func (h *Holder) dropBut(keep map[runtime.ID]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, x := range h.runs {
		if !keep[id] {
			closeFDs(x.fds...)
			delete(h.runs, id)
		}
	}
}

func (h *Holder) dropAll() { h.dropBut(nil) }

// giver is where a supervisor that starts asks for what is held.
type giver struct {
	holder *Holder
	l      *net.UnixListener
	file   os.FileInfo // of the socket that l listens on
	calls  sync.WaitGroup
}

// listen makes the socket, unless it is there.
func (g *giver) listen() error {
	path := holderPath(g.holder.cfg)
	if g.l != nil {
		if at, err := os.Lstat(path); err == nil && os.SameFile(at, g.file) {
			return nil
		}
		g.close() // the run directory was cleared meanwhile
	}
	// One that was killed left it. Should another live, which cannot be, it only is not asked any more.
	failpoint.Here("hold: a dead one's socket there")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	failpoint.Here("hold: no socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(path, 0o600); err == nil {
		g.file, err = os.Lstat(path)
	}
	if err != nil {
		_ = l.Close()
		return err
	}
	failpoint.Here("hold: a socket")
	g.l = l
	g.calls.Go(func() {
		for {
			conn, err := l.AcceptUnix()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(holdAgain / 10) // out of descriptors, say
				continue
			}
			g.calls.Go(func() { g.holder.give(conn) })
		}
	})
	return nil
}

func (g *giver) close() {
	if g.l == nil {
		return
	}
	path := holderPath(g.holder.cfg)
	if at, err := os.Lstat(path); err == nil && os.SameFile(at, g.file) {
		failpoint.Here("hold: the socket there")
		_ = os.Remove(path)
		failpoint.Here("hold: the socket gone")
	}
	_ = g.l.Close()
	g.l = nil
	g.calls.Wait()
}

// give answers a supervisor that starts. It holds the lock of the run directory, so the one before is dead, and what that
// said last is about to be heard.
func (h *Holder) give(conn *net.UnixConn) {
	defer func() { _ = conn.Close() }()
	if cred, err := peerCred(conn); err != nil || cred.Uid != 0 {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(giveTimeout))
	var req request
	fds, err := readFDs(conn, maxRequest, &req)
	closeFDs(fds...)
	if err != nil || req.Op != opGive {
		return
	}
	h.hearing.Lock()
	defer h.hearing.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.runs {
		if err := writeFDs(conn, lent{Run: x.run}, x.fds...); err != nil {
			return
		}
	}
	if err := writeFDs(conn, lent{All: true}); err != nil && !errors.Is(err, unix.EPIPE) {
		h.log.Warn("cannot give what is held to the supervisor", "err", err)
	}
}
