package supervisor

import (
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func memory(n int64) *specs.LinuxMemory { return &specs.LinuxMemory{Limit: &n, Swap: &n} }
func pids(n int64) *specs.LinuxPids     { return &specs.LinuxPids{Limit: &n} }
func rlimit(name string, n uint64) []specs.POSIXRlimit {
	return []specs.POSIXRlimit{{Type: name, Hard: n, Soft: n}}
}

func fileOwner(fi os.FileInfo) uint32 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}
