package linux

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"reconciler/runtime"
)

// limitFile is a file of a cgroup, and what it is to begin with.
type limitFile struct{ controller, name, want string }

// changedLimits says which files of a container's cgroups do not have what its limits ask for. What this server does not have,
// and what has ended, is not looked at.
func (r *Runtime) changedLimits(id runtime.ID, limits runtime.Resources) (changed []string) {
	path := filepath.Join("reconciler", r.cfg.Instance, string(id))
	for _, f := range limitFiles(limits, r.host.CgroupV1) {
		have := strings.Join(readWords(filepath.Join(cgroupRoot, f.controller, path), f.name), " ")
		if have != "" && have != f.want && !strings.HasPrefix(have, f.want+" ") {
			changed = append(changed, fmt.Sprintf("%s was %s, not %s", f.name, have, f.want))
		}
	}
	return changed
}

// limitFiles are what the supervisor makes of limits.
func limitFiles(l runtime.Resources, v1 bool) []limitFile {
	memory, swap, quota, pids := int64(-1), int64(-1), int64(-1), int64(-1)
	if l.Memory > 0 {
		memory, swap = wholePages(l.Memory), 0
	}
	if r := ociResources(l, false); r.CPU != nil {
		quota = *r.CPU.Quota
	}
	if l.Pids > 0 {
		pids = l.Pids
	}
	if !v1 {
		cpu := limitWord(quota)
		if quota > 0 {
			cpu += " " + strconv.Itoa(cpuPeriod)
		}
		return []limitFile{
			{"", "memory.max", limitWord(memory)}, {"", "memory.swap.max", limitWord(swap)}, {"", "cpu.max", cpu}, {"", "pids.max", limitWord(pids)},
		}
	}
	if memory < 0 {
		memory = wholePages(math.MaxInt64)
	}
	files := []limitFile{
		{"memory", "memory.limit_in_bytes", strconv.FormatInt(memory, 10)},
		{"memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(memory, 10)}, // memory and swap together
		{"cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota, 10)},
		{"pids", "pids.max", limitWord(pids)},
	}
	if quota > 0 {
		files = append(files, limitFile{"cpu", "cpu.cfs_period_us", strconv.Itoa(cpuPeriod)})
	}
	return files
}

// limitWord is how cgroups write a limit; less than nothing is none.
func limitWord(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// wholePages is how the kernel keeps a number of bytes.
func wholePages(n int64) int64 { return n - n%int64(os.Getpagesize()) }
