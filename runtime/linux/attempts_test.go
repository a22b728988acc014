package linux_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// world is what an attempt aims at.
type world struct {
	Marker  string   // a file of the server, which no container has
	Handle  string   // the same by file handle: its kind, a colon, its bytes in hex
	Volume  string   // a directory on the marker's file system that the attempt may use
	Others  []string // directories of another container: its root, its writable layer, its volume
	Sockets []string // of the agent and the supervisor
	Pids    []int    // process 1 of other containers, as the server counts
	Disk    uint64   // the device that the marker is on
}

// String is how attemptInside is told.
func (w world) String() string {
	data, _ := json.Marshal(w) // strings and numbers
	return string(data)
}

// attempt is one way to harm the server or a neighbour, which does no harm where it works: on the server it must work, or
// it shows nothing.
type attempt struct {
	name string
	do   func(w world) error // nil: it worked
	// own says that it harms nobody but who does it, so that root in a user namespace of its own may be let do it.
	own bool
	// kernel says that a kernel may not have it at all.
	kernel bool
	// refusals are what the kernel may answer inside besides EPERM, EACCES and EROFS. What is not there cannot be reached,
	// but says nothing about rights.
	refusals []unix.Errno
}

// hidden is the answer for what is another's: it is not there.
func hidden() []unix.Errno { return []unix.Errno{unix.ENOENT, unix.ESRCH, unix.ENXIO} }

func attempts() []attempt {
	return slices.Concat(attemptsOnFiles(), attemptsOnMounts(), attemptsOnProcesses(), attemptsOnTheKernel(), attemptsOnLimits())
}

func attemptsOnFiles() []attempt {
	return []attempt{
		{name: "read a file", do: func(w world) error { return readable(w.Marker) }, refusals: hidden()},
		{name: "write a file", do: func(w world) error { return writeFile(w.Marker + ".written") }, refusals: hidden()},
		{name: "files through /proc", do: throughProc, refusals: append(hidden(), unix.ENOTDIR)},
		{name: "files by chroot", do: byChroot, refusals: hidden()},
		{name: "files by handle", do: byHandle, refusals: []unix.Errno{unix.ESTALE}},
		{name: "files of another container", do: func(w world) error { return anyOf(w.Others, readable) }, refusals: hidden()},
		{name: "sockets of agent and supervisor", do: func(w world) error { return anyOf(w.Sockets, dial) }, refusals: hidden()},
		{name: "make a device node", do: func(w world) error {
			err := device(unix.S_IFBLK, w.Disk, unix.O_RDONLY)
			if at, ok := errors.AsType[*os.PathError](err); ok && at.Op == "open" {
				return nil
			}
			return err
		}},
		{name: "the disk", do: func(w world) error { return device(unix.S_IFBLK, w.Disk, unix.O_RDONLY) }, kernel: true},
		{name: "memory", do: func(world) error { return device(unix.S_IFCHR, unix.Mkdev(1, 1), unix.O_RDONLY) }, kernel: true},
		{name: "the kernel log's device", do: func(world) error { return device(unix.S_IFCHR, unix.Mkdev(1, 11), unix.O_RDONLY) }, kernel: true},
		{name: "loop devices", do: func(world) error { return device(unix.S_IFCHR, unix.Mkdev(10, 237), unix.O_RDWR) }, kernel: true},
		{name: "fuse", do: func(world) error { return device(unix.S_IFCHR, unix.Mkdev(10, 229), unix.O_RDWR) }, kernel: true},
		{name: "a console", do: func(world) error { return device(unix.S_IFCHR, unix.Mkdev(5, 1), unix.O_RDWR|unix.O_NOCTTY) }, kernel: true},
	}
}

func attemptsOnMounts() []attempt {
	return []attempt{
		{name: "mount", own: true, do: func(world) error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") }},
		{name: "bind mount", own: true, do: func(world) error { return unix.Mount("/", "/tmp", "", unix.MS_BIND, "") }},
		{name: "mount the disk", kernel: true, do: mountDisk},
		{name: "mount proc", own: true, do: func(world) error { return unix.Mount("proc", "/tmp", "proc", 0, "") }},
		{name: "mount sysfs", own: true, do: func(world) error { return unix.Mount("sysfs", "/tmp", "sysfs", 0, "") }},
		{name: "remount", own: true, do: func(world) error { return unix.Mount("", "/proc", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
		{name: "propagation", own: true, do: func(world) error { return unix.Mount("", "/", "", unix.MS_SHARED, "") }},
		{name: "unmount", own: true, do: func(world) error { return unix.Unmount("/proc", unix.MNT_DETACH) }},
		{name: "fsopen", own: true, do: func(world) error { _, err := unix.Fsopen("tmpfs", 0); return err }},
		{name: "open_tree and move_mount", own: true, do: moveTree},
		{name: "mount_setattr", own: true, do: func(world) error {
			return unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
		}},
		{name: "pivot_root", own: true, do: pivot},
	}
}

func attemptsOnProcesses() []attempt {
	return []attempt{
		{name: "signal", do: ofOthers(func(pid int) error { return unix.Kill(pid, 0) }), refusals: hidden()},
		{name: "pidfd", do: ofOthers(func(pid int) error { _, err := unix.PidfdOpen(pid, 0); return err }), refusals: hidden()},
		{name: "ptrace", do: ofOthers(func(pid int) error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid)) }), refusals: hidden()},
		{name: "process_vm_readv", do: ofOthers(readMemory), refusals: hidden()},
		{name: "environment", do: ofOthers(func(pid int) error { return readable(fmt.Sprintf("/proc/%d/environ", pid)) }), refusals: hidden()},
		{name: "root", do: ofOthers(func(pid int) error { return readable(fmt.Sprintf("/proc/%d/root", pid)) }), refusals: hidden()},
		{name: "namespaces", do: ofOthers(func(pid int) error { return enter(fmt.Sprintf("/proc/%d/ns/net", pid)) }), refusals: hidden()},
		{name: "priority", do: ofOthers(func(pid int) error { return unix.Setpriority(unix.PRIO_PROCESS, pid, 5) }), refusals: hidden()},
		{name: "own namespaces", own: true, do: func(world) error { return enter("/proc/self/ns/uts") }},
		{name: "new user namespace", own: true, do: func(world) error { return unshare(unix.CLONE_NEWUSER) }},
		{name: "new mount namespace", own: true, do: func(world) error { return unshare(unix.CLONE_NEWNS) }},
		{name: "new network namespace", own: true, do: func(world) error { return unshare(unix.CLONE_NEWNET) }},
		{name: "new cgroup namespace", own: true, do: func(world) error { return unshare(unix.CLONE_NEWCGROUP) }},
		{name: "new time namespace", own: true, kernel: true, do: func(world) error { return unix.Unshare(unix.CLONE_NEWTIME) }},
	}
}

// ofOthers tries something on the processes of others. A thread of one's own may have the number of one of theirs in a pid
// namespace, on a server that has just booted above all.
func ofOthers(try func(pid int) error) func(world) error {
	return func(w world) error {
		return anyOf(w.Pids, func(pid int) error {
			if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", pid)); err == nil {
				return unix.ESRCH
			}
			return try(pid)
		})
	}
}

// throughProc looks for the marker through every door that /proc has to a directory.
func throughProc(w world) error {
	var doors []string
	for _, pattern := range []string{"root", "cwd", "fd/*", "task/*/root", "task/*/fd/*"} {
		found, err := filepath.Glob("/proc/[0-9]*/" + pattern)
		if err != nil {
			return err
		}
		doors = append(doors, found...)
	}
	return anyOf(doors, func(door string) error { return readable(door + strings.Repeat("/..", 8) + w.Marker) })
}

// byChroot climbs over the root directory, as one can who keeps a directory outside of a new one open.
func byChroot(w world) error {
	out, err := os.Open("/")
	if err != nil {
		return err
	}
	if err = errors.Join(unix.Chroot(w.Volume), out.Chdir()); err != nil {
		return err
	}
	for range 16 {
		if err = os.Chdir(".."); err != nil {
			return err
		}
	}
	return errors.Join(unix.Chroot("."), readable(w.Marker))
}

// byHandle opens what a mount of the same file system leads to, whatever the mount shows of it.
func byHandle(w world) error {
	kind, text, _ := strings.Cut(w.Handle, ":")
	n, err := strconv.ParseInt(kind, 10, 32)
	if err != nil {
		return err
	}
	handle, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	dir, err := os.Open(w.Volume)
	if err != nil {
		return err
	}
	_, err = unix.OpenByHandleAt(int(dir.Fd()), unix.NewFileHandle(int32(n), handle), unix.O_RDONLY)
	return err
}

// device makes a device node and opens it; /dev is the one place where it would be a device.
func device(kind uint32, dev uint64, flags int) error {
	path := fmt.Sprintf("/dev/attempt-%d", os.Getpid())
	if err := unix.Mknod(path, kind|0o600, int(dev)); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err == nil {
		_ = f.Close()
	}
	return err
}

func mountDisk(w world) error {
	path := fmt.Sprintf("/dev/attempt-%d", os.Getpid())
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(w.Disk)); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	return reached(unix.Mount(path, "/tmp", "ext4", unix.MS_RDONLY, ""), unix.EBUSY, unix.EINVAL) // it is mounted, or another's format
}

func moveTree(world) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
	if err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, "/tmp", unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func pivot(world) error {
	// The kernel looks at rights first, and then finds that this is no mount.
	return reached(unix.PivotRoot("/tmp", "/tmp"), unix.EINVAL, unix.EBUSY)
}

func readMemory(pid int) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	start := uint64(0x400000)
	if err == nil {
		first, _, _ := strings.Cut(string(maps), "-")
		if start, err = strconv.ParseUint(first, 16, 64); err != nil {
			return err
		}
	}
	buf := make([]byte, 1)
	local := []unix.Iovec{{Base: &buf[0], Len: 1}}
	_, err = unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(start), Len: 1}}, 0)
	return err
}

func enter(ns string) error {
	f, err := os.Open(ns)
	if err != nil {
		return err
	}
	return unix.Setns(int(f.Fd()), 0)
}

// unshare starts a process in a new namespace: this one has several threads.
func unshare(flag uintptr) error {
	p, err := os.StartProcess("/proc/self/exe", []string{"nothing", "attempt", "nothing"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: flag}})
	if err == nil {
		_, err = p.Wait()
	}
	return err
}

func readable(path string) error {
	f, err := os.Open(path)
	if err == nil {
		_ = f.Close()
	}
	return err
}

func writeFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		_ = f.Close()
		_ = os.Remove(path)
	}
	return err
}

func dial(path string) error {
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	return err
}

// anyOf tries all and returns nil if one works, else what the last one said that is there at all.
func anyOf[T any](all []T, try func(T) error) error {
	last := error(unix.ENOENT)
	for _, one := range all {
		err := try(one)
		if err == nil {
			return nil
		}
		if errors.Is(last, unix.ENOENT) || !errors.Is(err, unix.ENOENT) {
			last = err
		}
	}
	return last
}

// reached takes what the kernel says to who has the right as a success.
func reached(err error, after ...unix.Errno) error {
	for _, e := range after {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// call makes a system call for which there is no function.
func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// pointer is the address of a value, as system calls take it. The value must be kept alive by the caller.
func pointer[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

// cgroupMounts are where control groups are mounted.
func cgroupMounts() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	paths := make([]string, 0, len(mounts))
	for _, m := range mounts {
		paths = append(paths, m.Mountpoint)
	}
	return paths, err
}

// attemptInside runs one attempt in this process, says what the kernel answered and returns the exit status.
func attemptInside(name string) int {
	var w world
	if err := json.Unmarshal([]byte(os.Getenv("ATTEMPT")), &w); err != nil && name != "nothing" {
		fmt.Println(err)
		return 2
	}
	for _, a := range attempts() {
		if a.name != name {
			continue
		}
		err := a.do(w)
		if err == nil {
			return 0
		}
		var errno unix.Errno
		if !errors.As(err, &errno) {
			fmt.Println(err)
			return 2
		}
		fmt.Println(int(errno), err)
		return 1
	}
	return 0
}

// handleOf is a file's handle as world has it.
func handleOf(t testing.TB, path string) string {
	t.Helper()
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%x", handle.Type(), handle.Bytes())
}
