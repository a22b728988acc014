package linux

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Capacity is what this server has for containers and everything else; 0 where that is not known.
type Capacity struct {
	CPUMillis int64 `json:"cpuMillis"` // thousandths of a core
	Memory    int64 `json:"memory"`    // bytes, in whole MiB
	Disk      int64 `json:"disk"`      // bytes of the file system of the state directory, in whole MiB
}

// capacity is what the kernel gives, or the cgroup that containers are made in where it gives less: a virtual server in a
// container has a part of its host.
func capacity(root, stateDir string) Capacity {
	c := Capacity{CPUMillis: 1000 * int64(goruntime.NumCPU())}
	if quota, ok := cpuQuota(root); ok {
		c.CPUMillis = min(c.CPUMillis, quota)
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		c.Memory = clamped(info.Totalram, uint64(info.Unit))
	}
	if limit, ok := memoryLimit(root); ok {
		c.Memory = min(c.Memory, limit)
	}
	var st unix.Statfs_t
	if unix.Statfs(existing(stateDir), &st) == nil {
		c.Disk = clamped(st.Blocks, uint64(st.Bsize))
	}
	const mi = 1 << 20
	c.Memory -= c.Memory % mi // so that the sums in messages are readable
	c.Disk -= c.Disk % mi
	return c
}

func clamped(count, unit uint64) int64 {
	if unit > 0 && count > math.MaxInt64/unit {
		return math.MaxInt64
	}
	return int64(count * unit)
}

// cpuQuota returns the limit on the cgroups below root, which is where they are mounted.
func cpuQuota(root string) (millis int64, ok bool) {
	words := readWords(root, "cpu.max") // v2: "200000 100000", "max 100000"
	if words == nil {
		words = append(readWords(root, "cpu/cpu.cfs_quota_us"), readWords(root, "cpu/cpu.cfs_period_us")...)
	}
	if len(words) != 2 {
		return 0, false
	}
	quota, err := strconv.ParseInt(words[0], 10, 64)
	period, err2 := strconv.ParseInt(words[1], 10, 64)
	if errors.Join(err, err2) != nil || quota <= 0 || period <= 0 || quota > math.MaxInt64/1000 {
		return 0, false
	}
	return 1000 * quota / period, true
}

func memoryLimit(root string) (int64, bool) {
	words := readWords(root, "memory.max")
	if words == nil {
		words = readWords(root, "memory/memory.limit_in_bytes")
	}
	if len(words) != 1 {
		return 0, false
	}
	n, err := strconv.ParseInt(words[0], 10, 64)
	return n, err == nil && n > 0
}

// readWords returns nil where there is no such file, as at the real root of cgroup v2.
func readWords(root, file string) []string {
	data, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}
