package linux

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
)

// initInside is where the init is found inside: in /dev, which is the container's own and never the image's.
const initInside = "/dev/.init"

// defaultShm is the size of /dev/shm in bytes where the spec names none.
const defaultShm = 64 << 20

// ociMounts are what every container has and then its own, parents first. Its own on the same path wins.
func ociMounts(in specInput) []specs.Mount {
	shm := in.Spec.ShmSize
	if shm == 0 {
		shm = defaultShm
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{
			Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"},
		},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{
			Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shm)},
		},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{
			Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"},
		},
	}
	if in.Host.Mqueue {
		mounts = append(mounts, specs.Mount{
			Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"},
		})
	}
	if in.Init != "" {
		mounts = append(mounts, bind(in.Init, initInside, "ro", "nosuid", "nodev"))
	}
	// Read-only: they are in memory that no limit of the container's counts.
	for _, f := range []struct{ source, path string }{
		{in.Files.Hosts, "/etc/hosts"}, {in.Files.Hostname, "/etc/hostname"}, {in.Files.ResolvConf, "/etc/resolv.conf"},
	} {
		if f.source != "" {
			mounts = append(mounts, bind(f.source, f.path, "ro", "nosuid", "nodev", "noexec"))
		}
	}
	for _, m := range in.Root.Mounts {
		mounts = slices.DeleteFunc(mounts, func(own specs.Mount) bool { return own.Destination == m.Path })
	}
	for _, m := range in.Root.Mounts {
		mounts = append(mounts, ociMount(m))
	}
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return mounts
}

func ociMount(m rootfs.Mounted) specs.Mount {
	options := []string{"nosuid", "nodev"}
	if !m.Exec {
		options = append(options, "noexec")
	}
	if m.ReadOnly {
		options = append(options, "ro")
	} else {
		options = append(options, "rw")
	}
	if m.Tmpfs != nil {
		options = append(options, "mode=1777")
		if m.Tmpfs.Size > 0 {
			options = append(options, fmt.Sprintf("size=%d", m.Tmpfs.Size))
		}
		return specs.Mount{Destination: m.Path, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	return bind(m.Source, m.Path, options...)
}

// bind mounts with everything below the source: rootfs has made what is there private and, where asked, read-only.
func bind(source, path string, options ...string) specs.Mount {
	return specs.Mount{Destination: path, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)}
}

// maskedPaths are Moby's: what of the kernel's files tells about the server or can be misused.
func maskedPaths(cpus []int) []string {
	paths := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	// Timing side channel: moby/moby#49560.
	for _, cpu := range cpus {
		paths = append(paths, fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", cpu))
	}
	return paths
}

// stopSignal is what Stop sends to the container.
func stopSignal(spec runtime.Spec, images string) string {
	switch {
	case spec.StopSignal != "":
		return spec.StopSignal
	case images != "":
		return images
	}
	return "SIGTERM"
}
