package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

const (
	readyEnv  = "RECONCILER_SUPERVISOR_READY" // number of the descriptor that a detached supervisor reports on
	readyWord = "ready"

	// otherPatience bounds how long another one that begins or ends is waited for, looking every otherPause.
	otherPatience = 30 * time.Second
	otherPause    = 50 * time.Millisecond
)

// Ensure connects to the instance's supervisor, or starts one by executing self (such as
// ["/proc/self/exe", "supervisor", "--run-dir", ...], whose main calls Run) detached from the caller, and returns once
// it answers. Several callers may do so at once: one supervisor results. Its own log is StateDir/supervisor.log.
func Ensure(ctx context.Context, cfg Config, self []string) (*Client, error) {
	c, err := Dial(ctx, cfg)
	if err == nil || !errors.Is(err, ErrNotRunning) {
		return c, err
	}
	for _, dir := range []string{cfg.RunDir, cfg.StateDir} {
		if err = os.MkdirAll(dir, 0o700); err != nil {
			return nil, &runtime.Error{Op: "start the supervisor", Err: err}
		}
	}
	// One at a time. Whoever waited finds the other's supervisor.
	lock, err := waitLock(ctx, cfg.RunDir)
	if err != nil {
		return nil, &runtime.Error{Op: "start the supervisor", Err: err}
	}
	defer func() { _ = lock.Close() }()
	for began := time.Now(); ; {
		if c, err = Dial(ctx, cfg); err == nil || !errors.Is(err, ErrNotRunning) {
			return c, err
		}
		failpoint.Here("ensure: no supervisor")
		err = spawn(ctx, cfg, self)
		// One that ends, or whose caller died while it began, has the directory and does not listen.
		if !errors.Is(err, ErrAlreadyRunning) || time.Since(began) > otherPatience {
			break
		}
		select {
		case <-time.After(otherPause):
		case <-ctx.Done():
		}
	}
	if err != nil {
		return nil, &runtime.Error{
			Op: "start the supervisor", Err: err, Hint: "see " + filepath.Join(cfg.StateDir, logFile),
		}
	}
	failpoint.Here("ensure: a supervisor")
	return Dial(ctx, cfg)
}

// waitLock locks a directory, waiting for others no longer than ctx lasts.
func waitLock(ctx context.Context, dir string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	got := make(chan result, 1)
	go func() {
		f, err := lockDir(dir, unix.LOCK_EX)
		got <- result{f, err}
	}()
	select {
	case r := <-got:
		return r.f, r.err
	case <-ctx.Done():
		go func() { // it comes sooner or later: the holder waits for a bounded time
			if r := <-got; r.f != nil {
				_ = r.f.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// spawn starts a detached supervisor and waits until it says that it is ready, or why it is not.
func spawn(ctx context.Context, cfg Config, self []string) error {
	if len(self) == 0 {
		return errors.New("no command is given for it")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	log, err := openOwnLog(filepath.Join(cfg.StateDir, logFile))
	if err != nil {
		_ = w.Close()
		return err
	}
	cmd := exec.Command(self[0], self[1:]...)
	if self[0] == "/proc/self/exe" {
		cmd.Args[0] = programName
	}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(ownEnviron(os.Environ()), readyEnv+"=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	keepFiles()
	err = cmd.Start()
	_ = w.Close()
	_ = log.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // collects it if it ends before us
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	switch text := strings.TrimSpace(string(said)); text {
	case readyWord:
		return nil
	case "":
		return errors.New("it ended before it was ready")
	default:
		if strings.HasSuffix(text, ErrAlreadyRunning.Error()) {
			return &remoteError{text: text, is: ErrAlreadyRunning}
		}
		return errors.New(text)
	}
}

// readyPipe is where a detached supervisor reports to who started it.
type readyPipe struct{ f *os.File }

// takeReadyPipe returns nil where this process was not started by Ensure.
func takeReadyPipe() *readyPipe {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	if err != nil || fd < 3 {
		return nil
	}
	_ = os.Unsetenv(readyEnv)
	unix.CloseOnExec(fd)
	return &readyPipe{f: os.NewFile(uintptr(fd), "ready")}
}

func (p *readyPipe) ok() { p.say(readyWord) }

// fail reports an error, if ok was not called before.
func (p *readyPipe) fail(err error) {
	if err != nil {
		p.say(err.Error())
	}
}

func (p *readyPipe) say(text string) {
	if p.f == nil {
		return
	}
	_, _ = fmt.Fprintln(p.f, text) // who waits may be gone
	_ = p.f.Close()
	p.f = nil
}
