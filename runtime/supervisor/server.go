package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/calm"
	"reconciler/runtime/failpoint"
)

const (
	maxRequest = 1 << 20
	// parallelStarts bounds how many containers are started at once: each start executes this binary again.
	parallelStarts = 4
	watchBuffer    = 256
	allCalls       = 1 << 30
)

// server is a running supervisor.
type server struct {
	cfg    Config
	log    *slog.Logger
	dir    string // RunDir/supervisor
	lcRoot string // RunDir/libcontainer
	since  time.Time
	// environ is what this process was given, for the next release.
	environ []string

	detached bool       // started by Ensure: standard error is the log
	logSize  sync.Mutex // held while the log is cut off

	mu         sync.Mutex
	containers map[runtime.ID]*container
	watchers   map[chan runtime.Event]struct{}
	holdings   map[*holding]struct{}
	waits      map[*waiting]struct{}
	starts     chan struct{}
	expecting  sync.Mutex // held by the call that has the kernel get ready
	cgroup     string     // its own in one hierarchy, for that call; empty: not looked up yet
	filters    filters
	rest       calm.Rester
	calls      sync.WaitGroup
	watching   sync.WaitGroup
	end        context.CancelFunc
	ended      <-chan struct{}

	dirLock  *os.File
	listener *net.UnixListener
	// For an upgrade: every call that does something has one of busy, records is held by who records an end or tells of
	// it, and accepting stops at pauses until accepts.
	upgrading       sync.Mutex
	busy            *semaphore.Weighted
	records         sync.RWMutex
	pauses, accepts chan struct{}
}

// Run is the supervisor itself: it blocks until Shutdown is asked for or ctx ends. Containers survive its end.
// A second one on the same run directory is refused with ErrAlreadyRunning.
func Run(ctx context.Context, cfg Config) error {
	ready := takeReadyPipe()
	err := run(ctx, cfg, ready)
	if ready != nil {
		ready.fail(err)
	}
	return err
}

func run(ctx context.Context, cfg Config, ready *readyPipe) error {
	handed, err := takeHandover()
	if err != nil {
		return err
	}
	s := newServer(cfg)
	if cfg.Begin != nil {
		var files []*os.File
		if handed != nil {
			files = openFDs(handed.Files...)
		}
		cfg.Begin(files)
	}
	if handed != nil {
		s.dirLock, s.since = os.NewFile(uintptr(handed.Lock), s.dir), handed.Since
	} else if s.dirLock, err = s.lock(); err != nil {
		return err
	}
	defer func() { _ = s.dirLock.Close() }()
	if ready != nil || handed != nil && handed.Detached { // Ensure started us
		ownSettings()
		s.detached = true
		// libcontainer hands it to its init, which uses one processor only, but would make ready for all first. This
		// process has read its own.
		_ = os.Setenv("GOMAXPROCS", "1")
		s.boundOwnLog()
		if cerr := enterOwnCgroup(cfg.Instance); cerr != nil {
			s.log.Warn("stays in its parent's cgroup", "err", cerr)
		}
		defer leaveOwnCgroup(cfg.Instance)
	}
	if cerr := calm.Monitor(); cerr != nil {
		s.log.Debug("the monitor thread wakes as often as it likes", "err", cerr)
	}
	ctx, s.end = context.WithCancel(ctx)
	defer s.end()
	s.ended = ctx.Done()
	failpoint.Here("supervisor: nothing adopted")
	if err = s.takeOver(ctx, handed); err != nil {
		return err
	}
	failpoint.Here("supervisor: answers, does not say so")
	s.log.Info("supervisor is ready", "pid", os.Getpid(), "containers", len(s.containers))
	if ready != nil {
		ready.ok()
	}
	failpoint.Here("supervisor: ready")
	if handed != nil {
		for _, w := range handed.Waits {
			s.calls.Go(func() { s.goOn(ctx, w) })
		}
	}
	s.rest.Worked() // what adopting took
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	accepting := make(chan struct{})
	go func() { // not here: this goroutine has the main thread, and each call would wait for that to wake
		defer close(accepting)
		s.accept(ctx)
	}()
	<-accepting
	s.release()
	return nil
}

// takeOver adopts what runs, from the release that ran in this process before or from a supervisor that died, and listens.
func (s *server) takeOver(ctx context.Context, handed *handover) (err error) {
	if handed != nil {
		if s.listener, err = handed.socket(); err != nil {
			return err
		}
		return s.adopt(ctx, handed.belongings())
	}
	if err = s.adopt(ctx, s.askHolder(ctx)); err != nil {
		return err
	}
	failpoint.Here("supervisor: adopted, does not answer")
	s.listener, err = s.listen()
	return err
}

func newServer(cfg Config) *server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &server{
		cfg: cfg, log: cfg.Logger, since: time.Now(), environ: os.Environ(),
		dir: filepath.Join(cfg.RunDir, "supervisor"), lcRoot: filepath.Join(cfg.RunDir, "libcontainer"),
		containers: map[runtime.ID]*container{}, watchers: map[chan runtime.Event]struct{}{}, holdings: map[*holding]struct{}{},
		waits: map[*waiting]struct{}{}, starts: make(chan struct{}, parallelStarts),
		busy: semaphore.NewWeighted(allCalls), pauses: make(chan struct{}), accepts: make(chan struct{}),
	}
}

// lock makes the directories and takes the lock of the run directory. The directory itself is the lock, so that no lock
// file needs to be removed. The one before us removes it at its end: what was locked must be what others find there.
func (s *server) lock() (*os.File, error) {
	for {
		for _, dir := range []string{s.cfg.RunDir, s.dir, s.lcRoot} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return nil, fmt.Errorf("make run directory: %w", err)
			}
		}
		lock, err := lockDir(s.dir, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, fmt.Errorf("%s: %w", s.cfg.RunDir, ErrAlreadyRunning)
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return nil, fmt.Errorf("lock run directory: %w", err)
		}
		ours, err := lock.Stat()
		if err == nil {
			var there os.FileInfo
			if there, err = os.Stat(s.dir); err == nil && os.SameFile(ours, there) {
				return lock, nil
			}
		}
		_ = lock.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("lock run directory: %w", err)
		}
	}
}

func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (s *server) listen() (*net.UnixListener, error) {
	path := socketPath(s.cfg)
	failpoint.Here("supervisor: the socket of a dead one there")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) { // of a dead one: we hold the lock
		return nil, err
	}
	// Others may pass through the directory: until the mode is right, the umask and peerCred keep them out.
	failpoint.Here("supervisor: no socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	failpoint.Here("supervisor: a socket")
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func (s *server) accept(ctx context.Context) {
	defer s.calls.Wait()
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if conn != nil {
				_ = conn.Close()
			}
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // an upgrade begins; connections wait
			s.pause(ctx)
		case err != nil:
			s.log.Error("cannot accept a connection", "err", err)
		case s.busy.Acquire(ctx, 1) == nil:
			s.calls.Go(func() {
				release := sync.OnceFunc(func() { s.busy.Release(1) })
				defer release()
				s.serve(ctx, conn, release)
			})
		}
	}
}

// release lets go of everything without touching what runs: output stays in the FIFOs, for the next supervisor.
func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if !c.running() {
			continue
		}
		c.mu.Lock()
		if c.timer != nil {
			c.timer.Stop()
		}
		c.released = true
		_ = c.pidfd.Close()
		out := c.out
		c.mu.Unlock()
		if out != nil {
			out.stop()
		}
	}
	s.mu.Unlock()
	s.watching.Wait() // an exit that is being recorded is recorded
	s.mu.Lock()
	if len(s.containers) == 0 {
		failpoint.Here("supervisor: released")
		_ = os.Remove(s.dir) // both only if empty
		_ = os.Remove(s.lcRoot)
	}
	failpoint.Here("supervisor: about to end")
}

// pause waits until an upgrade has failed.
func (s *server) pause(ctx context.Context) {
	select {
	case s.pauses <- struct{}{}:
	case <-ctx.Done():
		return
	}
	select {
	case <-s.accepts:
	case <-ctx.Done():
	}
}

func (s *server) version() Version {
	return Version{Protocol: protocolVersion, Binary: s.cfg.release(), Pid: os.Getpid(), StartedAt: s.since}
}

// release is what the binary was built from.
func (cfg Config) release() string {
	if cfg.Release != "" {
		return cfg.Release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, kv := range info.Settings {
		if kv.Key == "vcs.revision" {
			return info.Main.Version + " " + kv.Value
		}
	}
	return info.Main.Version
}
