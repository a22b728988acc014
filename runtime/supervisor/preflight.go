package supervisor

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	goruntime "runtime"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxScripts is how many interpreters of interpreters are followed; the kernel stops at 4.
const maxScripts = 4

// preflight looks at the command of a container whose process 1 waits to execute it, from outside but through its
// eyes: its own mounts and root. libcontainer has checked already that the file is there; what is left are the reasons
// for which execve(2) says no more than ENOENT or ENOEXEC, at a moment when nobody listens any more.
func (s *server) preflight(pid int, p *specs.Process) error {
	root, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // it ended; waiting for it says why
	}
	defer func() { _ = unix.Close(root) }()
	look := &lookup{root: root, cwd: p.Cwd}
	args := p.Args
	name, f, err := look.command(args[0], p.Env)
	if f == nil {
		return err // libcontainer found it, so that this is a race or a right that we lack
	}
	if s.isInit(f) {
		_ = f.Close()
		if len(args) > 1 && args[1] == "--" {
			args = args[1:]
		}
		if len(args) < 2 {
			return &execError{name: args[0], why: "no command is given after the init"}
		}
		if name, f, err = look.command(args[1], p.Env); err != nil {
			return err
		}
		if f == nil {
			return nil
		}
	}
	defer func() { _ = f.Close() }()
	return look.check(name, f, 0)
}

// isInit reports whether f is our own init, mounted into the container.
func (s *server) isInit(f *os.File) bool {
	ours, err := os.Stat(initPath(s.cfg.RunDir))
	if err != nil {
		return false
	}
	st, err := f.Stat()
	return err == nil && os.SameFile(st, ours)
}

// lookup finds files as a process with that root does.
type lookup struct {
	root int
	cwd  string
}

func (l *lookup) open(name string) (*os.File, error) {
	if !path.IsAbs(name) {
		name = path.Join(l.cwd, name)
	}
	// RESOLVE_IN_ROOT: a link inside never leads out (Linux 5.6). O_PATH: opening a device or a FIFO does something.
	at, err := unix.Openat2(l.root, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(at, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return os.NewFile(uintptr(at), name), err // enough to see what it is
	}
	defer func() { _ = unix.Close(at) }()
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(at), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// command finds a command in PATH. A nil file without an error means that it is there and cannot be looked at.
func (l *lookup) command(name string, env []string) (string, *os.File, error) {
	if strings.Contains(name, "/") {
		f, err := l.open(name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return name, nil, &execError{name: name, why: "no such file or directory"}
		}
		if err != nil {
			return name, nil, nil // not for us to look at: execve will say
		}
		return name, f, nil
	}
	for _, e := range env {
		dirs, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			full := path.Join("/", dir, name)
			f, err := l.open(full)
			if err != nil {
				continue
			}
			if st, err := f.Stat(); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return full, f, nil
			}
			_ = f.Close()
		}
	}
	return name, nil, &execError{
		name: name, why: "executable file not found in $PATH",
		hint: "give the command's full path, or set PATH",
	}
}

// check looks whether the kernel can execute f.
func (l *lookup) check(name string, f *os.File, depth int) error {
	st, err := f.Stat()
	if err != nil {
		return nil //nolint:nilerr // execve will say
	}
	switch {
	case st.IsDir():
		return &execError{name: name, why: "is a directory"}
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return &execError{name: name, why: "permission denied", hint: "the file is not executable"}
	}
	head := make([]byte, 256)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil // execve will say
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return l.checkELF(name, f)
	case bytes.HasPrefix(head, []byte("#!")):
		line, _, _ := bytes.Cut(head[2:], []byte{'\n'})
		fields := bytes.Fields(line)
		if len(fields) == 0 || depth >= maxScripts {
			return &execError{name: name, why: "exec format error", hint: "its first line names no interpreter"}
		}
		return l.interpreter(name, string(fields[0]), depth)
	}
	if _, err := os.Stat("/proc/sys/fs/binfmt_misc/status"); err == nil {
		return nil // somebody may have taught the kernel this format
	}
	return &execError{
		name: name, why: "exec format error",
		hint: "a script must begin with a line such as #!/bin/sh",
	}
}

func (l *lookup) checkELF(name string, f *os.File) error {
	e, err := elf.NewFile(f)
	if err != nil {
		return nil //nolint:nilerr // odd, but the kernel may be content
	}
	if want, ok := hostMachine(); ok && e.Machine != want && !compatible(e.Machine) {
		if _, err := os.Stat("/proc/sys/fs/binfmt_misc/status"); err == nil {
			return nil // an emulator may be registered
		}
		return &execError{
			name: name, why: "exec format error",
			hint: fmt.Sprintf("it is made for %s, this server is %s", machineName(e.Machine), goruntime.GOARCH),
		}
	}
	for _, p := range e.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		data := make([]byte, p.Filesz)
		if _, err := p.ReadAt(data, 0); err != nil {
			return nil //nolint:nilerr // execve will say
		}
		return l.interpreter(name, string(bytes.TrimRight(data, "\x00")), maxScripts)
	}
	return nil
}

// interpreter checks what a file needs to be executed.
func (l *lookup) interpreter(name, interp string, depth int) error {
	f, err := l.open(interp)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return &execError{
			name: name, why: "no such file or directory",
			hint: fmt.Sprintf("the file is there, but it needs %s, which is not", interp),
		}
	}
	if err != nil {
		return nil // execve will say
	}
	defer func() { _ = f.Close() }()
	if depth >= maxScripts {
		return nil
	}
	return l.check(interp, f, depth+1)
}

func hostMachine() (elf.Machine, bool) {
	m, ok := map[string]elf.Machine{
		"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "arm": elf.EM_ARM, "386": elf.EM_386,
		"riscv64": elf.EM_RISCV, "ppc64le": elf.EM_PPC64, "s390x": elf.EM_S390, "loong64": elf.EM_LOONGARCH,
	}[goruntime.GOARCH]
	return m, ok
}

// compatible reports whether the kernel usually runs a machine's programs beside its own.
func compatible(m elf.Machine) bool {
	return goruntime.GOARCH == "amd64" && m == elf.EM_386 || goruntime.GOARCH == "arm64" && m == elf.EM_ARM
}

func machineName(m elf.Machine) string {
	return strings.ToLower(strings.TrimPrefix(m.String(), "EM_"))
}
