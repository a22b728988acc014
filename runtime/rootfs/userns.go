package rootfs

/*
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

// The child shares the memory and the open files of a program of many threads, which goes on: it does nothing but system
// calls that cannot fail, and dies with who made it.
static int wait_to_die(void *parent) {
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != (pid_t)(long)parent)
		_exit(1);
	for (;;)
		syscall(SYS_ppoll, 0, 0, 0, 0, 0);
}

// in_user_namespace returns a child in a user namespace of its own, or minus errno. No handler of a signal may run in it,
// so it gets none but SIGKILL.
static int in_user_namespace(void *stack, size_t size) {
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int pid = clone(wait_to_die, (char *)stack + size, CLONE_VM | CLONE_FILES | CLONE_NEWUSER | SIGCHLD, (void *)(long)getpid());
	int err = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid < 0 ? -err : pid;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"reconciler/runtime/idrange"
)

// newUserNamespace makes a user namespace that maps 0 to 65535 to the ids from first on. The kernel makes one only for a new
// process, of which nothing else is wanted. It shares our memory: to copy the page tables of an agent that has been running
// for a while, as fork does, takes longer than all else that a root file system needs.
func newUserNamespace(first int) (*os.File, error) {
	const size = 16 << 10
	stack, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	// The child dies with the thread that made it.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	pid := int(C.in_user_namespace(unsafe.Pointer(&stack[0]), size))
	if pid < 0 {
		return nil, errors.Join(syscall.Errno(-pid), unix.Munmap(stack))
	}
	f, err := mapIDs(pid, first)
	child, findErr := os.FindProcess(pid)
	if findErr == nil {
		_ = child.Kill()
		_, findErr = child.Wait()
	}
	if findErr != nil { // it may be there still, on its stack
		if f != nil {
			_ = f.Close()
		}
		return nil, errors.Join(err, findErr)
	}
	return f, errors.Join(err, unix.Munmap(stack))
}

// mapIDs gives the user namespace of a process its ids, and opens it.
func mapIDs(pid, first int) (*os.File, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	for _, name := range []string{"uid_map", "gid_map"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		_, err = fmt.Fprintf(f, "0 %d %d\n", first, idrange.Size)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return os.Open(filepath.Join(dir, "ns/user"))
}
