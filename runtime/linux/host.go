package linux

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"reconciler/runtime/image"
)

// host is what this server is and can, as far as specs depend on it.
type host struct {
	Kernel    string   // such as 6.1.0-28-cloud-amd64
	Caps      []string // CAP_…, that this process may give away, sorted
	SwapLimit bool     // the cgroup can limit swap
	Mqueue    bool     // POSIX message queues
	CgroupV1  bool     // cgroups are v1 or hybrid
	AppArmor  bool     // the kernel confines by AppArmor profiles
	CPUs      []int    // with a thermal_throttle directory
}

// readHost looks at the server this process runs on.
func readHost() (host, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return host{}, fmt.Errorf("uname: %w", err)
	}
	h := host{Kernel: unix.ByteSliceToString(uts.Release[:])}
	own, err := capability.NewPid2(0)
	if err != nil {
		return host{}, err
	}
	if err = own.Load(); err != nil {
		return host{}, fmt.Errorf("read capabilities: %w", err)
	}
	supported, err := capability.ListSupported()
	if err != nil {
		return host{}, fmt.Errorf("read capabilities: %w", err)
	}
	for _, c := range supported {
		if own.Get(capability.BOUNDING, c) && own.Get(capability.PERMITTED, c) {
			h.Caps = append(h.Caps, "CAP_"+strings.ToUpper(c.String()))
		}
	}
	slices.Sort(h.Caps)
	// On cgroup v2 libcontainer copes with a missing memory.swap.max itself.
	h.CgroupV1 = !cgroups.IsCgroup2UnifiedMode()
	h.SwapLimit = !h.CgroupV1
	if h.CgroupV1 {
		_, statErr := os.Stat(filepath.Join(cgroupRoot, "memory/memory.memsw.limit_in_bytes"))
		h.SwapLimit = statErr == nil
	}
	if h.Mqueue, err = hasFileSystem("mqueue"); err != nil {
		return host{}, err
	}
	h.AppArmor = hasAppArmor()
	throttles, err := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	if err != nil {
		return host{}, err
	}
	for _, path := range throttles {
		var cpu int
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(path)), "cpu%d", &cpu); err == nil {
			h.CPUs = append(h.CPUs, cpu)
		}
	}
	slices.Sort(h.CPUs)
	return h, nil
}

const cgroupRoot = "/sys/fs/cgroup"

// hasFileSystem says whether the kernel knows a file system now. A module that is not loaded yet is not seen.
func hasFileSystem(name string) (bool, error) {
	data, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return false, err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 0 && fields[len(fields)-1] == name {
			return true, nil
		}
	}
	return false, lines.Err()
}

// missingControllers returns the cgroup controllers that limits need and this server does not offer.
func missingControllers() ([]string, error) {
	have, err := cgroups.GetAllSubsystems()
	if err != nil {
		return nil, fmt.Errorf("read cgroup controllers: %w", err)
	}
	var missing []string
	for _, want := range []string{"cpu", "memory", "pids"} {
		ok := slices.Contains(have, want)
		if ok && !cgroups.IsCgroup2UnifiedMode() {
			// Known to the kernel is not enough on v1: it must be mounted.
			_, err := os.Stat(filepath.Join(cgroupRoot, want, "cgroup.procs"))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			ok = err == nil
		}
		if !ok {
			missing = append(missing, want)
		}
	}
	return missing, nil
}

// Facts are what this server is.
type Facts struct {
	Architecture string `json:"architecture"` // in the words of OCI, such as amd64
	Variant      string `json:"variant,omitempty"`
	Kernel       string `json:"kernel"` // such as 6.1.0-28-cloud-amd64
}

func facts(kernel string) Facts {
	platform := image.HostPlatform()
	return Facts{Architecture: platform.Architecture, Variant: platform.Variant, Kernel: kernel}
}
