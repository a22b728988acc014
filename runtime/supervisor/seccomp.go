package supervisor

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Seccomp reports whether this build can give containers a seccomp filter: whether it has the build tag seccomp.
func Seccomp() bool { return seccomp.Enabled }

// maxFilters bounds how many seccomp profiles are kept; a server has few.
const maxFilters = 16

// filters keeps what libcontainer makes of a seccomp profile, 30 kB for the usual one, so that containers share it: it only
// reads it. A filter is found by the profile's own text, so that it is never out of date.
type filters struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]*configs.Seccomp
}

// of returns the filter of a profile as it is in the spec, nil for none.
func (f *filters) of(profile json.RawMessage) (*configs.Seccomp, error) {
	if len(profile) == 0 {
		return nil, nil //nolint:nilnil // as in specconv
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := sha256.Sum256(profile)
	if have, ok := f.known[sum]; ok {
		return have, nil
	}
	var spec *specs.LinuxSeccomp
	if err := json.Unmarshal(profile, &spec); err != nil {
		return nil, fmt.Errorf("the bundle's config.json: seccomp: %w", err)
	}
	filter, err := specconv.SetupSeccomp(spec)
	if err != nil {
		return nil, err
	}
	if f.known == nil || len(f.known) >= maxFilters {
		f.known = map[[sha256.Size]byte]*configs.Seccomp{}
	}
	f.known[sum] = filter
	return filter, nil
}
