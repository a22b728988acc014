package supervisor

import (
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// What a detached supervisor must not take from whoever happened to start it: it outlives them, and passes on to every
// container what it does not change.

// ownEnviron is what of the caller's environment a supervisor gets: credentials in the rest would live as long as it.
func ownEnviron(environ []string) []string {
	names := []string{"PATH", "HOME", "TZ", "LANG", "TMPDIR", failpoint.Variable}
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return !slices.Contains(names, name) && !strings.HasPrefix(name, "GO") && !strings.HasPrefix(name, "RECONCILER_LOG_")
	})
}

// keepFiles makes sure that no file descriptor of ours that was not given on purpose reaches a child: a script's lock or
// pipe, inherited from a shell, would stay open for as long as the supervisor runs. Linux 5.11; without, they stay.
func keepFiles() { _ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }

// ownSettings undoes what a process inherits besides: a file mode mask, under which commands run by exec would write,
// signals that nohup or a shell made it ignore, which would then be ignored in containers, and the name of the link
// that it was executed through.
func ownSettings() {
	unix.Umask(0o022)
	// A signal that is caught is back to its default in what is executed; one that is ignored is not.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGALRM, unix.SIGUSR1, unix.SIGUSR2,
		unix.SIGTTIN, unix.SIGTTOU, unix.SIGTSTP)
	go func() {
		for range caught {
			// Of no meaning to a process without a terminal; SIGTERM is what ends it.
		}
	}()
	// Those that the C library keeps for itself: Go leaves them as they are, and glibc's posix_spawn, with which make
	// starts programs, has its children ignore them.
	for sig := unix.Signal(32); sig <= 34; sig++ {
		setHandler(sig, 0)
	}
	if f, err := os.OpenFile("/proc/self/comm", os.O_WRONLY, 0); err == nil {
		_, _ = io.WriteString(f, programName)
		_ = f.Close()
	}
}

// setHandler sets how this process takes a signal that Go's own package does not let through: 0 by default, 1 not at all
// (SIG_DFL and SIG_IGN of signal(7)).
func setHandler(sig unix.Signal, handler uint64) {
	action := struct{ handler, flags, restorer, mask uint64 }{handler: handler} // as 64-bit kernels have it
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
}

// programName is what ps shows of a supervisor that was executed as /proc/self/exe, which is the binary that started it
// even after an upgrade has put another one in its place.
const programName = "reconciler"
