package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// cpuPeriod is the period of the CPU limit in microseconds, the kernel's default.
const cpuPeriod = 100_000

// degrade takes out of spec what this server does not let us do, and says so. A container that runs with a little less
// is more use than one that does not run: limits that protect others are never touched here.
func degrade(spec *specs.Spec) []string {
	var warnings []string
	have, err := capability.NewPid2(0)
	if err == nil {
		err = have.Load()
	}
	may := func(c capability.Cap) bool { return err == nil && have.Get(capability.EFFECTIVE, c) }
	if p := spec.Process; p != nil {
		warnings = append(warnings, lowerRlimits(p, may(capability.CAP_SYS_RESOURCE))...)
		if !may(capability.CAP_SYS_RESOURCE) {
			warnings = append(warnings, raiseOOMScore(p)...)
		}
		if p.Capabilities != nil && err == nil {
			warnings = append(warnings, dropMissing(p.Capabilities, have)...)
		}
	}
	return warnings
}

// lowerRlimits keeps limits below our own hard ones, which nobody without CAP_SYS_RESOURCE can raise, and that of open files
// below the kernel's own, which nobody can.
func lowerRlimits(p *specs.Process, mayRaise bool) (warnings []string) {
	for i, r := range p.Rlimits {
		num, ok := rlimitNumber(r.Type)
		if !ok {
			continue // specconv or newProcess says so
		}
		most := uint64(unix.RLIM_INFINITY)
		var own unix.Rlimit
		if err := unix.Getrlimit(num, &own); err == nil && !mayRaise {
			most = own.Max
		}
		if num == unix.RLIMIT_NOFILE {
			most = min(most, mostFiles())
		}
		if r.Hard <= most {
			continue
		}
		p.Rlimits[i].Hard, p.Rlimits[i].Soft = most, min(r.Soft, most)
		warnings = append(warnings, fmt.Sprintf("ulimit %s of %s is lowered to %d: this server does not allow to raise it",
			strings.ToLower(strings.TrimPrefix(r.Type, "RLIMIT_")), limitText(r.Hard), most))
	}
	return warnings
}

// mostFiles is what the kernel allows one process to have open at most.
func mostFiles() uint64 {
	data, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return unix.RLIM_INFINITY
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return unix.RLIM_INFINITY
	}
	return n
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

func raiseOOMScore(p *specs.Process) []string {
	if p.OOMScoreAdj == nil {
		return nil
	}
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return nil
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || *p.OOMScoreAdj >= own {
		return nil
	}
	was := *p.OOMScoreAdj
	p.OOMScoreAdj = &own
	return []string{fmt.Sprintf("oomScoreAdj is %d instead of %d: this server does not allow to lower it", own, was)}
}

func dropMissing(caps *specs.LinuxCapabilities, have capability.Capabilities) (warnings []string) {
	missing := map[string]bool{}
	for _, c := range capability.ListKnown() {
		if !have.Get(capability.BOUNDING, c) || !have.Get(capability.PERMITTED, c) {
			missing["CAP_"+strings.ToUpper(c.String())] = true
		}
	}
	var dropped []string
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Inheritable, &caps.Permitted, &caps.Ambient} {
		*set = slices.DeleteFunc(slices.Clone(*set), func(c string) bool {
			if missing[c] && !slices.Contains(dropped, c) {
				dropped = append(dropped, c)
			}
			return missing[c]
		})
	}
	slices.Sort(dropped)
	for _, c := range dropped {
		warnings = append(warnings, c+" is not given: this server's own root does not have it")
	}
	return warnings
}

func rlimitNumber(name string) (int, bool) {
	n, ok := map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	}[name]
	return n, ok
}

// newProcess makes a libcontainer process of what the spec says about one, without its files.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, UID: int(p.User.UID), GID: int(p.User.GID), Cwd: p.Cwd,
		Label: p.SelinuxLabel, NoNewPrivileges: &p.NoNewPrivileges, AppArmorProfile: p.ApparmorProfile,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority,
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	for _, r := range p.Rlimits {
		num, ok := rlimitNumber(r.Type)
		if !ok {
			return nil, fmt.Errorf("unknown resource limit %q", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: num, Hard: r.Hard, Soft: r.Soft})
	}
	return lp, nil
}

// applyLimits puts limits into a container's cgroup resources. 0 means unlimited, which the kernel calls -1. Without
// swap, the kernel cannot limit it, and has no file to write to.
func applyLimits(r *cgroups.Resources, limits runtime.Resources, swap bool) {
	r.CpuQuota, r.CpuPeriod = -1, cpuPeriod
	if limits.CPUMillis > 0 {
		r.CpuQuota = max(limits.CPUMillis*cpuPeriod/1000, 1000) // the kernel refuses less than 1 ms
	}
	// On v2 the kernel would make room for a lower limit by killing; v1 refuses. Where the limit is not lowered there is
	// nothing to check, and a container that is full of cache uses all that it may.
	r.MemoryCheckBeforeUpdate = limits.Memory > 0 && (r.Memory <= 0 || limits.Memory < r.Memory)
	r.Memory, r.MemorySwap = -1, -1
	if limits.Memory > 0 {
		r.Memory, r.MemorySwap = limits.Memory, limits.Memory
	}
	if !swap {
		r.MemorySwap = 0
	}
	pids := int64(-1)
	if limits.Pids > 0 {
		pids = limits.Pids
	}
	r.PidsLimit = &pids
}

// limitsSwap reports whether swap can be limited in a cgroup: on v2 libcontainer copes where it cannot, on v1 there is
// a file for it only if the kernel was started with swapaccount=1. It is looked for at the root, not in the container's
// cgroup: where that is, libcontainer keeps in a map that it changes at the container's end.
func limitsSwap() bool {
	if cgroups.IsCgroup2UnifiedMode() {
		return true
	}
	root, err := cgroups.FindCgroupMountpoint("", "memory")
	if err == nil {
		_, err = os.Stat(filepath.Join(root, "memory.memsw.limit_in_bytes"))
	}
	return err == nil
}
