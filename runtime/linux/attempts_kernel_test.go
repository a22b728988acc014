package linux_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

func attemptsOnTheKernel() []attempt {
	never := ^uintptr(0)
	all := []attempt{
		{name: "load a module", kernel: true, do: func(world) error { return reached(unix.InitModule([]byte("no module"), ""), unix.ENOEXEC) }},
		{name: "load a module from a file", kernel: true, do: func(world) error {
			return reached(unix.FinitModule(int(never), "", 0), unix.EBADF, unix.ENOEXEC)
		}},
		{name: "unload a module", kernel: true, do: func(world) error { return reached(unix.DeleteModule("no-such", unix.O_NONBLOCK), unix.ENOENT) }},
		{name: "load a kernel", kernel: true, do: func(world) error { return reached(call(unix.SYS_KEXEC_FILE_LOAD, never, never, 0, 0, 0), unix.EBADF) }},
		// Without the numbers that make it one; in a pid namespace of one's own it would be no more than an exit.
		{name: "reboot", own: true, do: func(world) error { return reached(call(unix.SYS_REBOOT, 0, 0, 0, 0), unix.EINVAL) }},
		{name: "swap", do: func(world) error {
			path := []byte("/nothing\x00")
			return reached(call(unix.SYS_SWAPOFF, pointer(&path[0])), unix.ENOENT)
		}},
		{name: "accounting", kernel: true, do: func(world) error { return call(unix.SYS_ACCT, 0) }},
		{name: "kernel log", do: func(world) error {
			_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 64))
			return err
		}},
		{name: "clock", do: func(world) error {
			var now unix.Timex
			_, err := unix.Adjtimex(&now)
			if err != nil {
				return err
			}
			_, err = unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_FREQUENCY, Freq: now.Freq})
			return err
		}},
		{name: "host name", own: true, do: func(world) error {
			name, err := os.Hostname()
			if err != nil {
				return err
			}
			return unix.Sethostname([]byte(name))
		}},
		{name: "bpf", kernel: true, do: func(world) error {
			attr := struct{ kind, keySize, valueSize, entries uint32 }{unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1}
			return call(unix.SYS_BPF, unix.BPF_MAP_CREATE, pointer(&attr), 16)
		}},
		{name: "performance events", kernel: true, do: func(world) error {
			_, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER1}, -1, 0, -1, 0)
			return err
		}},
		{name: "user page faults", kernel: true, own: true, do: func(world) error { return call(unix.SYS_USERFAULTFD, 0) }},
		{name: "io_uring", kernel: true, own: true, do: func(world) error {
			var params [120]byte
			return call(unix.SYS_IO_URING_SETUP, 1, pointer(&params))
		}},
		{name: "keys", kernel: true, own: true, do: func(world) error {
			_, err := unix.AddKey("user", "attempt", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return err
		}},
		{name: "keyring of the session", kernel: true, own: true, do: func(world) error {
			_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true)
			return err
		}},
		{name: "raw sockets", own: true, do: func(world) error {
			_, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			return err
		}},
		{name: "the server from below", kernel: true, own: true, do: func(world) error {
			_, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
			return err
		}},
		{name: "ports of the machine", kernel: true, do: func(world) error { return call(unix.SYS_IOPL, 3) }},
		{name: "physical memory", kernel: true, do: func(world) error {
			_ = unix.Unmount("/proc/kcore", unix.MNT_DETACH)
			f, err := os.Open("/proc/kcore")
			if err == nil {
				_, err = f.Read(make([]byte, 1)) // nothing is in what masks it
			}
			if errors.Is(err, io.EOF) {
				return unix.EACCES
			}
			return err
		}, refusals: hidden()},
		{name: "sysrq", kernel: true, do: func(world) error { return rewrite("/proc/sysrq-trigger", "h") }},
		{name: "lower oom score", kernel: true, do: func(world) error { return rewrite("/proc/self/oom_score_adj", "-1000") }},
		{name: "firmware", kernel: true, do: func(world) error {
			found, err := os.ReadDir("/sys/firmware")
			if err == nil && len(found) == 0 {
				return unix.ENOENT
			}
			return err
		}, refusals: hidden()},
	}
	for _, path := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/panic", "/proc/sys/vm/overcommit_memory", "/proc/sys/fs/protected_symlinks",
		"/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/domainname", "/sys/kernel/mm/transparent_hugepage/defrag", "/sys/kernel/uevent_helper",
		"/sys/module/kernel/parameters/panic", "/proc/irq/default_smp_affinity",
	} {
		// Those of a network and of a host name belong to namespaces.
		own := filepath.Dir(path) == "/proc/sys/net/ipv4" || filepath.Base(path) == "domainname"
		all = append(all, attempt{name: "parameter " + path, kernel: true, own: own, do: func(world) error {
			return reached(rewrite(path, ""), unix.EINVAL) // several values, of which only one may be written
		}})
	}
	return all
}

func attemptsOnLimits() []attempt {
	return []attempt{
		{name: "make a cgroup", do: inCgroups(func(dir string) error {
			_ = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, "")
			path := filepath.Join(dir, "attempt-"+strconv.Itoa(os.Getpid()))
			err := os.Mkdir(path, 0o755)
			if err == nil {
				_ = os.Remove(path)
			}
			return err
		})},
		{name: "leave the cgroup", do: inCgroups(func(dir string) error { return rewrite(filepath.Join(dir, "cgroup.procs"), "0") })},
		{name: "raise limits", kernel: true, do: inCgroups(func(dir string) error {
			return anyOf([]string{"memory.limit_in_bytes", "memory.max", "pids.max", "cpu.cfs_quota_us", "cpu.max"}, func(file string) error {
				return reached(rewrite(filepath.Join(dir, file), "-1"), unix.EINVAL) // the root of a hierarchy has none
			})
		})},
		{name: "devices", kernel: true, refusals: hidden(), do: inCgroups(func(dir string) error {
			return rewrite(filepath.Join(dir, "devices.allow"), "a")
		})},
		{name: "release agent", kernel: true, refusals: hidden(), do: inCgroups(func(dir string) error {
			return rewrite(filepath.Join(dir, "release_agent"), "")
		})},
		{name: "release agent of a new mount", kernel: true, refusals: []unix.Errno{unix.ENOENT, unix.EBUSY}, do: func(world) error {
			if err := unix.Mount("cgroup", "/tmp", "cgroup", 0, "memory"); err != nil {
				return err
			}
			return rewrite("/tmp/release_agent", "")
		}},
	}
}

// inCgroups tries something in every hierarchy.
func inCgroups(try func(dir string) error) func(world) error {
	return func(world) error {
		dirs, err := cgroupMounts()
		if err != nil {
			return err
		}
		return anyOf(dirs, try)
	}
}

// rewrite writes to a file of the kernel: what it holds already, if value is empty. Who may make what is mounted there
// writable does so before.
func rewrite(path, value string) error {
	for at := path; at != "/"; at = filepath.Dir(at) {
		_ = unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND, "")
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if value == "" {
		have, rerr := os.ReadFile(path)
		if rerr != nil && !errors.Is(rerr, fs.ErrPermission) {
			return rerr
		}
		value = string(have)
	}
	if value == "" {
		value = "\n"
	}
	_, err = f.WriteString(value)
	return err
}
