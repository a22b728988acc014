package supervisor

import (
	"context"
	"errors"
	"io"
	"os"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Exec runs a command in a running container and returns its exit code, 128 + signal for a signal. stdin may be nil.
// With a terminal all output comes by stdout; where stdout and stderr are the same, in the order in which it was written. If ctx ends or the caller dies, the command is hung up and killed.
// It returns when the command has ended, even if something that it left behind holds its output. A reader of stdin may
// be left blocked in Read.
func (c *Client) Exec(ctx context.Context, req ExecRequest, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	if req.TTY {
		return c.execTTY(ctx, req, stdin, stdout)
	}
	var s stdio
	defer s.close()
	theirs, err := s.open(stdin, stdout, stderr)
	if err != nil {
		closeFiles(theirs...)
		return 0, &runtime.Error{Op: "execute in container", ID: req.ID, Err: err}
	}
	conn, done, err := c.send(ctx, opExec, req, theirs...)
	closeFiles(theirs...)
	if err != nil {
		return 0, err
	}
	defer done()
	if _, err := receive(ctx, conn, opExec, nil); err != nil {
		return 0, err
	}
	s.copyAll(stdin, stdout, stderr)
	var end execEvent
	if _, err := receive(ctx, conn, opExec, &end); err != nil {
		return 0, err
	}
	s.finish()
	return exitOf(req, end)
}

func exitOf(req ExecRequest, end execEvent) (int, error) {
	if end.ExitCode == nil {
		return 0, &runtime.Error{
			Op: "execute in container", ID: req.ID, Err: errors.New("the supervisor did not say how it ended"),
		}
	}
	return *end.ExitCode, nil
}

// stdio are our ends of a command's pipes. The caller's own files never go into a container: libcontainer would give
// them to its user, and a terminal could be typed into from inside.
type stdio struct {
	in       *os.File
	out, err *os.File
	copies   sync.WaitGroup
}

// open makes the pipes and returns the command's ends.
func (s *stdio) open(stdin io.Reader, stdout, stderr io.Writer) (theirs []*os.File, err error) {
	theirs = make([]*os.File, 3)
	if stdin == nil {
		theirs[0], err = os.Open(os.DevNull)
	} else {
		theirs[0], s.in, err = os.Pipe()
	}
	if err != nil {
		return nil, err
	}
	for i, w := range []io.Writer{stdout, stderr} {
		switch {
		case w == nil:
			theirs[i+1], err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		case i == 0:
			s.out, theirs[1], err = os.Pipe()
		case reflect.TypeOf(w).Comparable() && w == stdout:
			theirs[2], err = duplicate(theirs[1]) // so that what is written first comes first
		default:
			s.err, theirs[2], err = os.Pipe()
		}
		if err != nil {
			return theirs, err
		}
	}
	return theirs, nil
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (s *stdio) copyAll(stdin io.Reader, stdout, stderr io.Writer) {
	if s.in != nil {
		in := s.in
		go func() { // not waited for: a terminal's Read cannot be interrupted
			_, _ = io.Copy(struct{ io.Writer }{in}, stdin)
			_ = in.Close()
		}()
	}
	for _, p := range []struct {
		from *os.File
		to   io.Writer
	}{{s.out, stdout}, {s.err, stderr}} {
		if p.from != nil {
			s.copies.Go(func() {
				_, err := io.Copy(p.to, struct{ io.Reader }{p.from})
				if errors.Is(err, os.ErrDeadlineExceeded) {
					drainPipe(p.from, p.to)
				}
			})
		}
	}
}

// finish ends the copies after the command's end. What it wrote is in the pipes already; if a process that it left
// behind holds them open, there will be no end of file.
func (s *stdio) finish() {
	for _, f := range []*os.File{s.out, s.err} {
		if f != nil {
			_ = f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	s.copies.Wait()
}

// drainPipe copies what is in a pipe now.
func drainPipe(from *os.File, to io.Writer) {
	_ = from.SetReadDeadline(time.Time{})
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, readPiece)
	for moved := 0; moved < maxLastWords; {
		n := 0
		err := conn.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buf) // never blocks: the runtime's files do not
			return true
		})
		if err != nil || n <= 0 {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
		moved += n
	}
}

func (s *stdio) close() { closeFiles(s.in, s.out, s.err) }

// execTTY runs a command with a terminal whose master side comes to us.
func (c *Client) execTTY(ctx context.Context, req ExecRequest, stdin io.Reader, stdout io.Writer) (int, error) {
	conn, done, err := c.send(ctx, opExec, req)
	if err != nil {
		return 0, err
	}
	defer done()
	files, err := receive(ctx, conn, opExec, nil)
	if err != nil {
		return 0, err
	}
	if len(files) != 1 {
		closeFiles(files...)
		return 0, &runtime.Error{Op: "execute in container", ID: req.ID, Err: errors.New("no terminal came")}
	}
	if err = unix.SetNonblock(int(files[0].Fd()), true); err != nil {
		closeFiles(files...)
		return 0, &runtime.Error{Op: "execute in container", ID: req.ID, Err: err}
	}
	master := pollable(files[0])
	defer func() { _ = master.Close() }()
	stopped := make(chan struct{})
	defer close(stopped)
	if req.Resize != nil {
		go resize(master, req.Resize, stopped)
	}
	if stdin != nil {
		go func() { _, _ = io.Copy(struct{ io.Writer }{master}, stdin) }()
	}
	var copied sync.WaitGroup
	copied.Go(func() {
		_, cerr := io.Copy(stdout, struct{ io.Reader }{master}) // EIO when the last process has closed its side
		if errors.Is(cerr, os.ErrDeadlineExceeded) {
			drainPipe(master, stdout)
		}
	})
	var end execEvent
	_, err = receive(ctx, conn, opExec, &end)
	_ = master.SetReadDeadline(time.Unix(1, 0))
	copied.Wait()
	if err != nil {
		return 0, err
	}
	return exitOf(req, end)
}

// pollable gives f, which does not block, to the runtime's poller, so that its reads have deadlines.
func pollable(f *os.File) *os.File {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return f
	}
	_ = unix.SetNonblock(fd, true) // asking for the number above may have made it blocking
	_ = f.Close()
	return os.NewFile(uintptr(fd), "terminal")
}

func resize(master *os.File, sizes <-chan Size, stopped <-chan struct{}) {
	conn, err := master.SyscallConn()
	if err != nil {
		return
	}
	for {
		select {
		case <-stopped:
			return
		case s, ok := <-sizes:
			if !ok {
				return
			}
			_ = conn.Control(func(fd uintptr) {
				_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.Height, Col: s.Width})
			})
		}
	}
}
