package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"reconciler/runtime/network"
	"reconciler/runtime/rootfs"
	"reconciler/runtime/supervisor"
)

// Check is one line of Doctor.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"` // containers do not run without it
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do where it is not OK
}

// Doctor looks at what this server has and lacks for running containers. It needs no Runtime, makes nothing that stays,
// and works where Open fails; without root some lines say that they could not look.
func Doctor(ctx context.Context, cfg Config) []Check {
	checks := []Check{checkRoot(), checkKernel()}
	checks = append(checks, checkCgroups()...)
	checks = append(checks, checkOverlay(cfg), checkNamespaces(), checkUserNamespaces(), checkUserIDs(cfg), checkDiskLimits(ctx, cfg), checkSeccomp(), checkAppArmor(),
		checkResourceCapability(), checkDisk(cfg), checkDirectories(cfg), checkSupervisor(ctx, cfg))
	checks = append(checks, checkNetwork(ctx, cfg)...)
	for i := range checks {
		switch {
		case checks[i].OK:
			checks[i].Remedy = ""
		case os.Geteuid() != 0 && slices.Contains([]string{"overlay", "own user ids", "disk limits", "directories"}, checks[i].Name):
			checks[i].Remedy = "look again as root" // what was found without says nothing of the server
		}
	}
	return checks
}

func checkRoot() Check {
	uid := os.Geteuid()
	return Check{Name: "root", Needed: true, OK: uid == 0, Detail: fmt.Sprintf("running as user id %d", uid), Remedy: "run it with sudo"}
}

// leastKernel is what mount_setattr, clone3 and pidfds together ask for.
const leastKernelMajor, leastKernelMinor = 5, 12

func checkKernel() Check {
	c := Check{
		Name: "kernel", Needed: true,
		Remedy: fmt.Sprintf("use Linux %d.%d or later", leastKernelMajor, leastKernelMinor),
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		c.Detail = err.Error()
		return c
	}
	release := unix.ByteSliceToString(uts.Release[:])
	f := facts(release)
	c.Detail = "Linux " + release + " on " + f.Architecture
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil {
		c.OK = major > leastKernelMajor || (major == leastKernelMajor && minor >= leastKernelMinor)
	}
	return c
}

func checkCgroups() []Check {
	version := "v1"
	switch {
	case cgroups.IsCgroup2UnifiedMode():
		version = "v2"
	case cgroups.IsCgroup2HybridMode():
		version = "v1 (hybrid)"
	}
	c := Check{
		Name: "cgroup controllers", Needed: true, Detail: "cgroup " + version + ": cpu, memory, pids",
		Remedy: "mount cgroups, and enable the controllers on the kernel's command line, such as cgroup_enable=memory",
	}
	missing, err := missingControllers()
	switch {
	case err != nil:
		c.Detail = err.Error()
	case len(missing) > 0:
		c.Detail = "cgroup " + version + " without " + strings.Join(missing, ", ")
	default:
		c.OK = true
	}
	swap := Check{
		Name: "swap limit", OK: true, Detail: "a memory limit counts swap",
		Remedy: "add swapaccount=1 to the kernel's command line, or turn swap off",
	}
	if h, err := readHost(); err != nil {
		swap.OK, swap.Detail = false, err.Error()
	} else if !h.SwapLimit {
		swap.OK, swap.Detail = false, "containers may swap beyond their memory limit"
	}
	return []Check{c, swap}
}

// checkOverlay mounts one: on some file systems (overlay itself, NFS) it cannot be written to.
func checkOverlay(cfg Config) Check {
	c := Check{
		Name: "overlay", Needed: true, Detail: "a writable overlay can be mounted on " + existing(cfg.StateDir),
		Remedy: "load the module with modprobe overlay, and put --state-dir on ext4, xfs or btrfs",
	}
	if os.Geteuid() != 0 {
		c.Detail = "cannot be tried without root"
		return c
	}
	if err := rootfs.Try(existing(cfg.StateDir)); err != nil {
		c.Detail = err.Error()
		return c
	}
	c.OK = true
	return c
}

func checkNamespaces() Check {
	c := Check{
		Name: "namespaces", Needed: true, Detail: "pid, mnt, uts, ipc, net, cgroup",
		Remedy: "use a kernel that is built with CONFIG_NAMESPACES and all of its parts",
	}
	var missing []string
	for _, ns := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup"} {
		if _, err := os.Lstat("/proc/self/ns/" + ns); err != nil {
			missing = append(missing, ns)
		}
	}
	if c.OK = len(missing) == 0; !c.OK {
		c.Detail = "the kernel has no " + strings.Join(missing, ", ")
	}
	return c
}

func checkUserNamespaces() Check {
	c := Check{Name: "user namespaces", Detail: "allowed", Remedy: "sysctl -w user.max_user_namespaces=15000"}
	data, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	switch limit := strings.TrimSpace(string(data)); {
	case err != nil:
		c.Detail = "the kernel has none"
		c.Remedy = "use a kernel that is built with CONFIG_USER_NS"
	case limit == "0":
		c.Detail = "turned off by user.max_user_namespaces"
	default:
		c.OK = true
	}
	return c
}

// checkUserIDs tries what a container with user ids of its own needs.
func checkUserIDs(cfg Config) Check {
	c := Check{
		Name: "own user ids", Detail: "files on " + existing(cfg.StateDir) + " can be shown with them",
		Remedy: "use Linux 5.19 or later, put --state-dir on ext4, xfs or btrfs, and --run-dir where others may pass; " +
			"without, root inside is root of the server, confined by capabilities and seccomp alone",
	}
	if os.Geteuid() != 0 {
		c.Detail = "cannot be tried without root"
		return c
	}
	if err := rootfs.TryMapped(existing(cfg.StateDir), cfg.RunDir); err != nil {
		c.Detail = err.Error()
		return c
	}
	c.OK = true
	return c
}

// checkDiskLimits makes a small limited disk.
func checkDiskLimits(ctx context.Context, cfg Config) Check {
	c := Check{
		Name: "disk limits", Detail: "can be kept by images of ext4 on " + existing(cfg.StateDir),
		Remedy: "install e2fsprogs, load the modules with modprobe -a loop ext4, and put --state-dir on ext4 or xfs; " +
			"without, a container with resources.limits.disk or a volume with a size is refused",
	}
	if os.Geteuid() != 0 {
		c.Detail = "cannot be tried without root"
		return c
	}
	if err := rootfs.TryDisk(ctx, existing(cfg.StateDir)); err != nil {
		c.Detail = err.Error()
		return c
	}
	c.OK = true
	return c
}

func checkSeccomp() Check {
	c := Check{
		Name: "seccomp", Needed: true, Detail: "in this build and in the kernel",
		Remedy: "use a build with the tag seccomp, on a kernel with CONFIG_SECCOMP_FILTER",
	}
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	switch {
	case !supervisor.Seccomp():
		c.Detail = "this binary was built without it: containers would run unconfined and are refused"
	case err != nil:
		c.Detail = "the kernel has no seccomp filters"
	default:
		c.OK = true
	}
	return c
}

func checkResourceCapability() Check {
	c := Check{
		Name: "CAP_SYS_RESOURCE", Detail: "there",
		Remedy: "let the agent run with it; without, ulimits that are higher than its own are lowered, with a warning",
	}
	h, err := readHost()
	switch {
	case err != nil:
		c.Detail = err.Error()
	case slices.Contains(h.Caps, "CAP_SYS_RESOURCE"):
		c.OK = true
	default:
		c.Detail = "missing"
	}
	return c
}

// Least space that a node should have free for images and writable layers.
const (
	leastFree   = 1 << 30 // bytes
	leastInodes = 10_000
)

func checkDisk(cfg Config) Check {
	dir := existing(cfg.StateDir)
	c := Check{Name: "disk space", Remedy: "free space: `reconciler image prune` takes away images that nothing needs"}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		c.Detail = err.Error()
		return c
	}
	free := st.Bavail * uint64(st.Bsize)
	c.Detail = fmt.Sprintf("%.1f GiB free on %s", float64(free)/(1<<30), dir)
	c.OK = free >= leastFree
	if st.Files > 0 && st.Ffree < leastInodes {
		c.OK = false
		c.Detail += fmt.Sprintf(", %d inodes", st.Ffree)
	}
	return c
}

func checkDirectories(cfg Config) Check {
	c := Check{Name: "directories", Needed: true, OK: true, Detail: cfg.StateDir + " and " + cfg.RunDir + " can be written to", Remedy: "remount the disk read-write, or name others with --state-dir and --run-dir"}
	for _, dir := range []string{existing(cfg.StateDir), existing(cfg.RunDir)} {
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			c.OK, c.Detail = false, fmt.Sprintf("%s: %v", dir, err)
		}
	}
	return c
}

// checkNetwork tries the bridge, the ways in and out, and names, and leaves none of it.
// no failpoint: its directory is one for temporary files.
func checkNetwork(ctx context.Context, cfg Config) []Check {
	if os.Geteuid() != 0 {
		return []Check{{Name: "bridge", Detail: "cannot be tried without root", Remedy: "look again as root"}}
	}
	where := network.Config{Instance: cfg.Instance, StateDir: cfg.StateDir, CIDR: cfg.BridgeCIDR}
	if _, err := os.Lstat(filepath.Join(cfg.StateDir, "network")); errors.Is(err, fs.ErrNotExist) {
		// The instance has no bridge yet, and looking must not make what stays: try another's.
		dir, err := os.MkdirTemp("", "reconciler-doctor-")
		if err != nil {
			return []Check{{Name: "bridge", Needed: true, Detail: err.Error()}}
		}
		defer func() { _ = os.RemoveAll(dir) }()
		where.Instance, where.StateDir = fmt.Sprintf("doctor-%d", os.Getpid()), dir
	}
	_, supervised := supervisor.Dial(ctx, supervisor.Config{StateDir: cfg.StateDir, RunDir: cfg.RunDir, Instance: cfg.Instance})
	var checks []Check
	for _, c := range network.Open(where).Check(ctx) {
		// It is the default network; a manifest may say that a container does without.
		check := Check{Name: c.Name, OK: c.OK, Needed: c.Name == "bridge", Detail: c.Detail, Remedy: c.Remedy}
		if c.Name == "dns" && errors.Is(supervised, supervisor.ErrNotRunning) {
			check = Check{Name: "dns", OK: true, Detail: "not tried: the supervisor answers names, and does not run yet"}
		}
		checks = append(checks, check)
	}
	return checks
}

func checkSupervisor(ctx context.Context, cfg Config) Check {
	c := Check{Name: "supervisor", Remedy: "start the agent: it starts the supervisor"}
	scfg := supervisor.Config{StateDir: cfg.StateDir, RunDir: cfg.RunDir, Instance: cfg.Instance, Logger: cfg.Logger}
	client, err := supervisor.Dial(ctx, scfg)
	if errors.Is(err, supervisor.ErrNotRunning) {
		c.OK, c.Detail = true, "does not run; it is started with the first container"
		return c
	}
	if err == nil {
		var v supervisor.Version
		if v, err = client.Version(ctx); err == nil {
			c.OK, c.Detail = true, fmt.Sprintf("runs as pid %d, protocol %d, %s", v.Pid, v.Protocol, v.Binary)
			return c
		}
	}
	c.Detail, c.Remedy = err.Error(), "see its log in the state directory"
	return c
}

// existing returns dir or the closest parent that is there.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" || dir == "." {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
