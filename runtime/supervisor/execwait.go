package supervisor

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// execPatience is how long a process 1 may take from being let go to executing its command: it builds the seccomp filter
// in between, in 1 to 2 ms.
const execPatience = 2 * time.Second

// executable identifies the file that a process executes.
type executable struct{ dev, ino uint64 }

func executableOf(pid int) (executable, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/exe", &st); err != nil {
		return executable{}, &os.PathError{Op: "stat", Path: "/proc/" + strconv.Itoa(pid) + "/exe", Err: err}
	}
	return executable{st.Dev, st.Ino}, nil
}

// awaitExec waits until process 1 executes something else than before, or is gone. libcontainer's Exec returns a moment
// earlier: a stop signal that arrives in between meets a Go program, which ends by it with exit code 2, whatever the
// command would have done. The kernel has no event for this that a process other than a tracer could wait for.
func awaitExec(pid int, before executable) {
	for deadline := time.Now().Add(execPatience); time.Now().Before(deadline); {
		now, err := executableOf(pid)
		if err != nil || now != before {
			return
		}
		time.Sleep(200 * time.Microsecond)
	}
}
