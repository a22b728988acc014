package linux_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// free is how many bytes others can still write beside the instance's state.
func (e *env) free() int64 {
	e.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(e.cfg.StateDir, &st); err != nil {
		e.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// df is what df says inside of a path, in bytes: all, used, available.
func (e *env) df(id runtime.ID, path string) (all, avail int64) {
	e.Helper()
	out, code := e.exec(id, "df", "-k", path)
	fields := strings.Fields(out[strings.LastIndexByte(strings.TrimSpace(out), '\n')+1:])
	if code != 0 || len(fields) != 6 {
		e.Fatalf("df says %q", out)
	}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			e.Fatal(err)
		}
		return n << 10
	}
	return number(fields[1]), number(fields[3])
}

// Who fills the disk gets ENOSPC at the limit; a neighbour writes on, and the server loses no more than was set aside.
func TestDiskLimit(t *testing.T) {
	e := newEnv(t)
	const size = 32 << 20
	neighbour := e.sh("neighbour", "sleep 1000")
	neighbour.Limits.Disk = size
	n := e.start(neighbour)
	spec := e.sh("filler", "sleep 1000")
	spec.Limits.Disk = size
	id := e.start(spec)
	if all, avail := e.df(id, "/"); all > size || avail > size || avail < size-size/50 {
		t.Errorf("df says %d bytes, %d of them free", all, avail)
	}
	before := e.free()
	out, code := e.exec(id, "sh", "-c", "/bin/busybox dd if=/dev/zero of=/tmp/big bs=64k; stat -c %s /tmp/big")
	if !strings.Contains(out, "No space left on device") || code != 0 {
		t.Errorf("exit code %d, output %q", code, out)
	}
	if got, err := strconv.ParseInt(strings.Fields(out)[0], 10, 64); err != nil || got > size || got < size-size/50 {
		t.Errorf("%d bytes fit in, of %d, %v", got, size, err)
	}
	// Others write to the server's disk meanwhile: less than what the container has written is enough to tell.
	if lost := before - e.free(); lost > size/2 {
		t.Errorf("the server has %d bytes less than before", lost)
	}
	if out, code := e.exec(n, "sh", "-c", "head -c 20000000 /dev/zero >/tmp/mine && stat -c %s /tmp/mine"); out != "20000000\n" || code != 0 {
		t.Errorf("the neighbour writes %q", out)
	}
	// A new start has an empty disk.
	e.restart(id)
	if _, avail := e.df(id, "/"); avail < size-size/50 {
		t.Errorf("after a restart %d bytes are free", avail)
	}
	if out, _ := e.exec(id, "ls", "/tmp"); out != "" {
		t.Errorf("after a restart there is %q", out)
	}
}

// What the server has no room for does not start, and says what is missing; nothing of it stays.
func TestDiskLimitThatCannotBeKept(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("greedy", "sleep 1000")
	spec.Limits.Disk = 1 << 50
	_, err := e.prepare(spec)
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !runtime.IsPermanent(err) || runtime.HintOf(err) == "" {
		t.Errorf("more than there is at all: %v", err)
	}
	var disk unix.Statfs_t
	if err = unix.Statfs(e.cfg.StateDir, &disk); err != nil {
		t.Fatal(err)
	}
	spec.Limits.Disk = (int64(disk.Blocks)*disk.Bsize + e.free()) / 2 // more than is free
	id := e.create(spec)
	err = e.Start(t.Context(), id)
	if err == nil || !strings.Contains(err.Error(), "no space left on device") || runtime.HintOf(err) == "" || runtime.IsPermanent(err) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(e.cfg.StateDir + "/snapshots"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Killed with everything that held it, a container leaves nothing that cannot be taken away, and starts again.
func TestDiskOfAKilledInstance(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "echo x >/tmp/x; sleep 1000")
	spec.Limits.Disk = 16 << 20
	spec.Mounts = []runtime.Mount{{Path: "/data", Volume: &runtime.Volume{Name: "data", Size: 16 << 20}}}
	id := e.start(spec)
	e.killSupervisor()
	pidfd, err := unix.PidfdOpen(e.status(id).Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1); err != nil { // until it is gone
		t.Fatal(err)
	}
	if err := e.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if out, code := e.exec(id, "cat", "/data/notexec"); out != "x" || code != 0 {
		t.Errorf("the volume says %q", out)
	}
}

// A volume with a size holds no more, keeps its content over restarts, other ranges of ids and another size.
func TestVolumeWithASize(t *testing.T) {
	e := newEnv(t)
	const size = 16 << 20
	spec := e.sh("web", "sleep 1000")
	mount := func(size int64) []runtime.Mount {
		return []runtime.Mount{{Path: "/srv", Volume: &runtime.Volume{Name: "data", Size: size, Shared: true}}}
	}
	spec.Mounts = mount(size)
	id := e.start(spec)
	if all, avail := e.df(id, "/srv"); all > size || avail < size-size/50 {
		t.Errorf("df says %d bytes, %d of them free", all, avail)
	}
	e.exec(id, "sh", "-c", "echo kept >/srv/kept; chown 1000 /srv/kept")
	if out, _ := e.exec(id, "sh", "-c", "/bin/busybox dd if=/dev/zero of=/srv/big bs=64k"); !strings.Contains(out, "No space left on device") {
		t.Errorf("it took %q", out)
	}
	e.restart(id)
	other := e.sh("other", "sleep 1000")
	other.Mounts, other.Security.HostUsers = mount(size), new(true)
	o := e.start(other)
	for _, id := range []runtime.ID{id, o} {
		if out, code := e.exec(id, "sh", "-c", "cat /srv/kept; stat -c %u /srv/kept /srv/seed; ls /srv"); out != "kept\n1000\n1000\nbig\nkept\nseed\n" || code != 0 {
			t.Errorf("%s sees %q", id, out)
		}
	}
	if e.status(id).FirstID == e.status(o).FirstID {
		t.Error("both have the same ids")
	}
	// Smaller than what it holds it is refused while all goes on.
	spec.Mounts = mount(8 << 20)
	if _, err := e.prepare(spec); runtime.ReasonOf(err) != runtime.ReasonVolumeConflict || !strings.Contains(err.Error(), "more than the new size") {
		t.Errorf("got %v", err)
	}
	for _, id := range []runtime.ID{id, o} {
		if err := e.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	spec.Mounts = mount(64 << 20)
	id = e.start(spec)
	if _, avail := e.df(id, "/srv"); avail < 40<<20 {
		t.Errorf("grown, %d bytes are free", avail)
	}
	if out, _ := e.exec(id, "cat", "/srv/kept"); out != "kept\n" {
		t.Errorf("grown, it holds %q", out)
	}
}
