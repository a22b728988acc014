package linux_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/linux"
)

// device makes a node of this server's below its own directory of /dev, which the test allows, and takes it away again.
func (e *env) device(name string, mode, major, minor uint32, gid int) string {
	e.Helper()
	dir, err := os.MkdirTemp("/dev", "rl-")
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := dir + "/" + name
	if err = unix.Mknod(path, mode, int(unix.Mkdev(major, minor))); err != nil {
		e.Fatal(err)
	}
	if err = os.Chown(path, 0, gid); err != nil {
		e.Fatal(err)
	}
	if err = os.Chmod(path, os.FileMode(mode&0o777)); err != nil { // the umask counted
		e.Fatal(err)
	}
	return path
}

// A device is there for who runs inside, owned as on the server, for what its permissions say; others are not.
func TestDevices(t *testing.T) {
	if _, err := os.Open("/dev/fuse"); err != nil {
		t.Skip("needs a harmless device: ", err)
	}
	forUserIDs(t, func(t *testing.T, hostUsers *bool) {
		e := newEnv(t, func(cfg *linux.Config) { cfg.AllowDevice = []string{"/dev"} })
		fuse := e.device("fuse", unix.S_IFCHR|0o660, 10, 229, 20)
		memory := e.device("memory", unix.S_IFCHR|0o600, 1, 1, 0)
		const try = `(: <%[1]s) && echo read; (: >%[1]s) && echo wrote; `
		spec := e.sh("web", "stat -c '%u %g %a %t %T' "+fuse+"; "+fmt.Sprintf(try, fuse)+"mknod /tmp/fuse c 10 229 || echo no mknod; sleep 1000")
		spec.Security.HostUsers = hostUsers
		spec.Devices = []runtime.Device{{Path: fuse, Permissions: "r"}}
		id := e.start(spec)
		e.said(id, "no mknod")
		out := e.output(id)
		e.expect(out, "0 20 660 a e5\n", "read\n", "can't create "+fuse+": Operation not permitted")
		if strings.Contains(out, "wrote") {
			t.Errorf("a device for reading was opened for writing: %s", out)
		}
		if listed, code := e.exec(id, "ls", memory); code == 0 {
			t.Errorf("another device of the server: %s", listed)
		}
		e.restart(id)
		e.said(id, "no mknod")

		both := e.sh("both", fmt.Sprintf(try, fuse)+fmt.Sprintf(try, memory)+"id -G")
		both.Security = runtime.Security{HostUsers: hostUsers, User: new(int64(1000)), SupplementalGroups: []int64{20}}
		both.Devices = []runtime.Device{{Path: fuse, Permissions: "rw"}, {Path: memory, Permissions: "rw"}}
		out, _ = e.run(both)
		e.expect(out, "1001 10 20\n", memory+": Permission denied")
		if strings.Count(out, "read") != 1 || strings.Count(out, "wrote") != 1 {
			t.Errorf("a device of root's was opened by another user: %s", out)
		}
	})
}

// What a container may not have, or this server does not have, is said before anything is made.
func TestDevicesThatCannotBe(t *testing.T) {
	e := newEnv(t, func(cfg *linux.Config) { cfg.AllowDevice = []string{"/dev/rl-none", "/dev/shm", "/dev/null"} })
	kmem := e.device("kmem", unix.S_IFCHR|0o600, 1, 2, 0)
	file, link := "/dev/shm/"+e.cfg.Instance, "/dev/shm/"+e.cfg.Instance+"-link"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kmem, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = os.Remove(file), os.Remove(link) })
	for path, c := range map[string]struct {
		want      string
		permanent bool
	}{
		"/dev/rl-none":       {"use device /dev/rl-none: this server has no such device", false},
		file:                 {"neither a character nor a block device", true},
		link:                 {kmem + " is not below what this server allows", true},
		kmem:                 {kmem + " is not below what this server allows", true},
		"/dev/null/":         {"not a clean path below /dev", true},
		"/dev/../etc/passwd": {"not a clean path below /dev", true},
		"/etc/passwd":        {"not a clean path below /dev", true},
	} {
		spec := e.sh("web", "sleep 1000")
		spec.Devices = []runtime.Device{{Path: path, Permissions: "rw"}}
		_, err := e.prepare(spec)
		if err == nil || !strings.Contains(err.Error(), c.want) || runtime.IsPermanent(err) != c.permanent {
			t.Errorf("%s: %v", path, err)
		}
	}
	// One that goes between preparing and starting leaves nothing.
	gone := e.device("gone", unix.S_IFCHR|0o600, 1, 5, 0)
	e.cfg.AllowDevice = []string{gone}
	rt, err := linux.Open(e.cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Runtime = rt
	spec := e.sh("web", "sleep 1000")
	spec.Devices = []runtime.Device{{Path: gone, Permissions: "rw"}}
	id := e.create(spec)
	if err = os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	if err = e.Start(t.Context(), id); err == nil || !strings.Contains(err.Error(), "this server has no such device") {
		t.Errorf("started without its device: %v", err)
	}
}

// A privileged container is what its name says, and only with the administrator's leave.
func TestPrivileged(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", `exec 2>&1 # one stream, in its order
		grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd):' /proc/self/status
		cat /proc/self/uid_map /proc/self/attr/current
		mount -t tmpfs none /tmp && echo mounted
		mknod /tmp/zero c 1 5 && head -c 1 /tmp/zero | wc -c
		ls /dev | grep -x -E 'loop0|kmsg|vda|full' | tr '\n' ' '
		head -c 1 /proc/kcore >/dev/null && echo kcore
		echo 1 >/proc/sys/net/ipv4/ip_forward && echo sysctl
		busybox mkdir /sys/fs/cgroup/x 2>/dev/null || busybox mkdir /sys/fs/cgroup/pids/x && echo cgroup
		busybox rmdir /sys/fs/cgroup/x 2>/dev/null || busybox rmdir /sys/fs/cgroup/pids/x`)
	spec.Security = runtime.Security{Privileged: true, AllowPrivilegeEscalation: true, SeccompUnconfined: true}
	if _, err := e.prepare(spec); runtime.ReasonOf(err) != runtime.ReasonNotAllowed || !strings.Contains(runtime.HintOf(err), "--allow-privileged") {
		t.Errorf("without leave: %v", err)
	}
	e.cfg.AllowPrivileged = true
	rt, err := linux.Open(e.cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.Runtime = rt
	out, st := e.run(spec)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, caps, _ := strings.Cut(string(own), "CapEff:\t")
	e.expect(out, "NoNewPrivs:\t0", "Seccomp:\t0", "CapEff:\t"+caps[:16], "4294967295\n", "mounted\n1\n", "loop0 ", "sysctl\n", "cgroup\n")
	if hasAppArmor() {
		e.expect(out, "unconfined\n")
	}
	if st.FirstID != 0 {
		t.Errorf("it has user ids of its own: %+v", st)
	}
}

// Limits of a process are its command's and what is executed inside later, with ids of its own and without.
func TestUlimits(t *testing.T) {
	forUserIDs(t, func(t *testing.T, hostUsers *bool) {
		e := newEnv(t)
		spec := e.sh("web", "ulimit -n; ulimit -Hn; echo done; sleep 1000")
		spec.Security.HostUsers = hostUsers
		spec.Ulimits = map[string]int64{"nofile": 64, "core": 0}
		id := e.start(spec)
		e.said(id, "done")
		out, _ := e.exec(id, "sh", "-c", "ulimit -n; ulimit -n 65 || echo no more")
		e.expect(out, "64\n", "no more")
		e.expect(e.output(id), "64\n64\n")
		more := e.sh("more", "ulimit -Hn; ulimit -Hl; echo done; sleep 1000")
		more.Security.HostUsers = hostUsers
		more.Ulimits = map[string]int64{"nofile": -1, "memlock": -1}
		id = e.start(more)
		e.said(id, "done")
		e.expect(strings.Join(e.status(id).Warnings, "\n"), "ulimit nofile of unlimited is lowered to ")
	})
}

// Kernel parameters of the container are set for it alone; what cannot be set is told of with what to do.
func TestSysctls(t *testing.T) {
	forUserIDs(t, func(t *testing.T, hostUsers *bool) {
		e := newEnv(t)
		spec := e.sh("web", "cat /proc/sys/net/ipv4/tcp_fin_timeout /proc/sys/net/ipv4/ip_unprivileged_port_start; sleep 1000")
		spec.Security.HostUsers = hostUsers
		spec.Sysctls = map[string]string{"net.ipv4.tcp_fin_timeout": "77", "net.ipv4.ip_unprivileged_port_start": "500"}
		id := e.start(spec)
		e.said(id, "500")
		e.expect(e.output(id), "77\n500\n")
		if data, err := os.ReadFile("/proc/sys/net/ipv4/tcp_fin_timeout"); err != nil || string(data) == "77\n" {
			t.Errorf("the server's own is %q, %v", data, err)
		}
		ipc := e.sh("ipc", "cat /proc/sys/kernel/shmmni; sleep 1000")
		ipc.Security.HostUsers = hostUsers
		ipc.Sysctls = map[string]string{"kernel.shmmni": "33"}
		id = e.create(ipc)
		if err := e.Start(t.Context(), id); err == nil {
			e.said(id, "33")
		} else if *hostUsers || !strings.Contains(runtime.HintOf(err), "hostUsers: true") || !runtime.IsPermanent(err) {
			t.Errorf("kernel.shmmni: %v", err)
		}
		for name, hint := range map[string]string{
			"net.core.no_such":             "has no such parameter",
			"net.ipv4.ip_local_port_range": "does not take this value",
		} {
			bad := e.sh("bad", "sleep 1000")
			bad.Security.HostUsers = hostUsers
			bad.Sysctls = map[string]string{name: "x"}
			err := e.Start(t.Context(), e.create(bad))
			if err == nil || !runtime.IsPermanent(err) || !strings.Contains(err.Error(), name) || !strings.Contains(runtime.HintOf(err), hint) {
				t.Errorf("%s: %v (%s)", name, err, runtime.HintOf(err))
			}
		}
	})
}
