package supervisor

import "github.com/opencontainers/runc/libcontainer/seccomp"

// Seccomp reports whether this build can give containers a seccomp filter: whether it has the build tag seccomp.
func Seccomp() bool { return seccomp.Enabled }
