package supervisor

import (
	goruntime "runtime"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"reconciler/runtime/calm"
)

// startProcess is libcontainer's Start without what a failed one leaves. It makes a process in three steps, each a child
// of ours, and forgets the later ones if the first fails: when the container ends in the middle of an exec, say. Nobody
// collects them then, and one that is in the container's pid namespace keeps its process 1 from ever ending.
//
// They cannot be waited for by number, which is lost, nor with wait4(-1), which steals everybody's. But they are children
// of the thread that began: on a thread of its own nothing else is, and the kernel can wait for a thread's children alone.
func startProcess(lc *libcontainer.Container, proc *libcontainer.Process) error {
	result := make(chan error, 1)
	onOwnThread(func() {
		_ = calm.Thread(calm.Slack) // for the monitor of libcontainer's init, which is Go's too; see reexec.go
		err := lc.Start(proc)
		result <- err
		if err != nil {
			collectChildren()
		}
	})
	return <-result
}

// onOwnThread runs f in a goroutine on a thread that has no children and ends with f. What f leaves running belongs to
// the main thread from then on.
func onOwnThread(f func()) {
	go func() {
		goruntime.LockOSThread()
		if unix.Gettid() != unix.Getpid() && childless() {
			f()
			return // still locked: the thread ends
		}
		done := make(chan struct{})
		onOwnThread(func() { // on another, while this one is held here
			defer close(done)
			f()
		})
		<-done
		goruntime.UnlockOSThread()
	}()
}

// childless reports whether this thread has begun no process that was not collected.
func childless() bool {
	const look = unix.WEXITED | unix.WNOHANG | unix.WNOWAIT | unix.WALL | unix.WNOTHREAD
	return unix.Waitid(unix.P_ALL, 0, nil, look, nil) == unix.ECHILD
}

// collectChildren waits for every child of this thread.
func collectChildren() {
	for {
		_, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOTHREAD, nil) //nolint:forbidigo // this thread's alone
		if err != nil && err != unix.EINTR {
			return
		}
	}
}
