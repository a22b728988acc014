package linux

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
	"reconciler/runtime/idrange"
	"reconciler/runtime/image"
	"reconciler/runtime/rootfs"
)

// specInput is everything that an OCI spec is made of: ociSpec reads nothing else, so that it can be tested by example.
type specInput struct {
	ID         runtime.ID
	Instance   string
	Spec       runtime.Spec
	Image      image.Image
	User       image.User
	Root       rootfs.Root
	Files      ownFiles
	Init       string // the init binary on this server; empty without init
	Host       host
	FirstID    uint32          // of the container's own user ids; 0: it has the server's
	AppArmor   string          // the profile; empty: none
	AllDevices []rootfs.Device // of this server, for a privileged container
	Joined     int             // the process whose network and users the container has; 0: none
}

// ownFiles are files on this server that every container gets. Empty ones are left out.
type ownFiles struct{ Hosts, Hostname, ResolvConf string }

// oomScoreAdj makes the kernel kill a container before the agent, the supervisor and what else the server runs. Raising
// it needs no privilege.
const oomScoreAdj = 500

// nameAnnotation is whose container an OCI spec is.
const nameAnnotation = "reconciler.name"

// ociSpec makes what libcontainer (or stock runc, for debugging) runs from what we run. Secrets in the environment are
// placeholders; see withSecrets.
func ociSpec(in specInput) (*specs.Spec, error) {
	process, err := ociProcess(in)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version:  specs.Version,
		Process:  process,
		Root:     &specs.Root{Path: in.Root.Path, Readonly: in.Spec.Security.ReadOnlyRoot},
		Hostname: in.Spec.Hostname,
		Mounts:   ociMounts(in),
		Annotations: map[string]string{
			nameAnnotation:        in.Spec.Name.String(),
			"reconciler.instance": in.Instance,
			"reconciler.revision": in.Spec.Revision,
		},
		Linux: &specs.Linux{
			Namespaces:    ociNamespaces(in),
			CgroupsPath:   filepath.Join("/reconciler", in.Instance, string(in.ID)),
			Resources:     ociResources(in.Spec.Limits, in.Host.SwapLimit),
			MaskedPaths:   maskedPaths(in.Host.CPUs),
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if in.FirstID != 0 && in.Joined == 0 {
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: in.FirstID, Size: idrange.Size}}
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = ids, ids
	}
	if in.Host.CgroupV1 {
		// libcontainer leaves the tmpfs writable that holds the hierarchies, which are read-only themselves.
		spec.Linux.ReadonlyPaths = append(spec.Linux.ReadonlyPaths, "/sys/fs/cgroup")
	}
	spec.Linux.Sysctl = ociSysctls(in)
	giveDevices(spec, in)
	if in.Spec.Security.Privileged {
		unconfine(spec)
	}
	spec.Linux.Seccomp, err = ociSeccomp(in, spec)
	return spec, err
}

func ociSysctls(in specInput) map[string]string {
	sysctls := map[string]string{}
	if in.Spec.Network != runtime.NetworkHost && in.Joined == 0 {
		// As Docker does: who has a network namespace of its own needs no privilege for low ports and ping in it.
		groups := int64(math.MaxInt32)
		if in.FirstID != 0 {
			groups = idrange.Size - 1 // the kernel takes no others than those that there are inside
		}
		sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		sysctls["net.ipv4.ping_group_range"] = fmt.Sprintf("0 %d", groups)
	}
	maps.Copy(sysctls, in.Spec.Sysctls)
	return sysctls
}

func ociNamespaces(in specInput) []specs.LinuxNamespace {
	namespaces := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.CgroupNamespace},
	}
	path := func(kind string) string {
		if in.Joined == 0 {
			return "" // a new one
		}
		return fmt.Sprintf("/proc/%d/ns/%s", in.Joined, kind)
	}
	if in.Spec.Network != runtime.NetworkHost {
		// libcontainer brings up the loopback interface of one it makes.
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path("net")})
	}
	if in.FirstID != 0 {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path("user")})
	}
	return namespaces
}

// cpuPeriod is the kernel's default, in microseconds.
const cpuPeriod = 100_000

func ociResources(r runtime.Resources, swapLimit bool) *specs.LinuxResources {
	res := &specs.LinuxResources{
		// No device but the usual harmless ones, which libcontainer allows after this.
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	if r.Memory > 0 {
		res.Memory = &specs.LinuxMemory{Limit: new(r.Memory)}
		if swapLimit {
			res.Memory.Swap = new(r.Memory) // memory and swap together: no swap
		}
	}
	if r.CPUMillis > 0 {
		quota := max(r.CPUMillis*cpuPeriod/1000, 1000) // the kernel takes no less than a millisecond
		res.CPU = &specs.LinuxCPU{Quota: new(quota), Period: new(uint64(cpuPeriod))}
	}
	if r.Pids > 0 {
		res.Pids = &specs.LinuxPids{Limit: new(r.Pids)}
	}
	return res
}
