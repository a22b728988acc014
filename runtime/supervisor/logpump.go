package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// maxLastWords bounds what is drained after a container's end, in case somebody outside of it goes on writing. It is
// more than two pipes can hold (/proc/sys/fs/pipe-max-size is 1 MiB by default).
const maxLastWords = 4 << 20

// pumps moves both streams of one container while it runs.
type pumps struct {
	log   *logWriter
	fifos [2]*os.File
	done  sync.WaitGroup
}

// makeFIFOs makes the two FIFOs of a container below dir for a process of the host's user uid. Everybody may write: the
// directories above are root's alone, and a process that gave up its user id may reopen /dev/stdout so.
func makeFIFOs(dir string, uid, gid int) error {
	for _, s := range []Stream{Stdout, Stderr} {
		path := filepath.Join(dir, string(s))
		failpoint.Here("output: no pipe")
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		failpoint.Here("output: a pipe of root's")
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o622); err != nil { // past the umask
			return err
		}
		failpoint.Here("output: a pipe")
	}
	return nil
}

// openFIFOs opens both FIFOs for reading and writing: without a reader they stay open, so that nobody ever gets EPIPE,
// and without a writer they have no end that would have to be told from silence.
func openFIFOs(dir string, flags int) (files [2]*os.File, err error) {
	for i, s := range []Stream{Stdout, Stderr} {
		path := filepath.Join(dir, string(s))
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|flags, 0)
		if err != nil {
			closeFiles(files[:]...)
			return files, &os.PathError{Op: "open", Path: path, Err: err}
		}
		files[i] = os.NewFile(uintptr(fd), path)
	}
	return files, nil
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// startPumps moves output from fifos, which do not block, to log until stop.
func startPumps(fifos [2]*os.File, log *logWriter) (*pumps, error) {
	p := &pumps{log: log, fifos: fifos}
	for i, f := range fifos {
		conn, err := f.SyscallConn()
		if err != nil {
			closeFiles(fifos[:]...)
			return nil, err
		}
		p.done.Go(func() {
			_ = conn.Read(func(fd uintptr) bool { // ends when the file is closed
				for {
					if _, err := log.take(byte(i), int(fd)); err != nil {
						return !errors.Is(err, unix.EAGAIN)
					}
				}
			})
		})
	}
	return p, nil
}

// drain moves what is in the pipes now. Whoever wrote it may be dead: the kernel keeps it for us.
func (p *pumps) drain() {
	for i, f := range p.fifos {
		conn, err := f.SyscallConn()
		if err != nil {
			continue
		}
		_ = conn.Control(func(fd uintptr) {
			for moved := 0; moved < maxLastWords; {
				n, err := p.log.take(byte(i), int(fd))
				if err != nil {
					return
				}
				moved += n
			}
		})
	}
}

// stop drains, ends the pumps and closes the log.
func (p *pumps) stop() {
	p.drain()
	failpoint.Here("output: drained")
	p.log.close() // ends a pump that a flood keeps busy
	closeFiles(p.fifos[:]...)
	p.done.Wait()
}
