package supervisor

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"

	"reconciler/runtime/failpoint"
)

// cgroupRoots returns where every cgroup hierarchy of this server is mounted: one for v2, several for v1 and hybrid.
func cgroupRoots() ([]string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	roots := make([]string, 0, len(mounts))
	seen := map[string]bool{}
	for _, m := range mounts {
		key := fmt.Sprintf("%d:%d", m.Major, m.Minor) // one hierarchy may be mounted twice
		if m.Root == "/" && !seen[key] {
			seen[key] = true
			roots = append(roots, m.Mountpoint)
		}
	}
	return roots, nil
}

// ownCgroup is the supervisor's place below a hierarchy's root: a leaf beside the containers', since on v2 no process may
// sit in an inner node.
func ownCgroup(root, instance string) string {
	return filepath.Join(root, "reconciler", instance, "supervisor")
}

// containerCgroup is where a container's processes are, beside the supervisor's.
func containerCgroup(root, instance, id string) string {
	return filepath.Join(root, "reconciler", instance, id)
}

// removeCgroups removes a container's cgroups from all hierarchies. Processes in them are about to vanish.
func removeCgroups(instance, id string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		failpoint.Here("clear: a cgroup there")
		errs = append(errs, cgroups.RemovePath(containerCgroup(root, instance, id)))
		failpoint.Here("clear: a cgroup gone")
	}
	return errors.Join(errs...)
}

// enterOwnCgroup moves this process out of its parent's cgroup in all hierarchies, so that the end of a service or of a
// login session does not take the supervisor along.
func enterOwnCgroup(instance string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	var errs []error
	for _, root := range roots {
		dir := ownCgroup(root, instance)
		failpoint.Here("own cgroup: none")
		if err := makeCgroup(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		failpoint.Here("own cgroup: made")
		if err := inheritCpuset(root, dir); err != nil {
			errs = append(errs, err)
		}
		failpoint.Here("own cgroup: not joined")
		errs = append(errs, joinCgroup(dir))
	}
	return errors.Join(errs...)
}

// expect is what takes long in a start and can be done before it. The first process in a while that is moved into a cgroup waits
// until the kernel has seen that nobody is being forked (cgroup_threadgroup_rwsem, an RCU grace period: 15 to 25 ms); who is
// moved soon after does not. So this process is moved to where it is.
func (s *server) expect() error {
	if !s.detached || !s.expecting.TryLock() { // whoever is at it is enough
		return nil
	}
	defer s.expecting.Unlock()
	if s.cgroup == "" {
		roots, err := cgroupRoots()
		if err != nil || len(roots) == 0 {
			return err
		}
		s.cgroup = ownCgroup(roots[0], s.cfg.Instance)
	}
	return joinCgroup(s.cgroup) // no failpoint: nothing changes
}

// makeCgroup makes a cgroup and those above it. Another instance that ends may remove the common parent in between,
// which is not yet held by anything of ours: it is missing then, or was there and is gone at the second look.
func makeCgroup(dir string) error {
	for {
		err := os.MkdirAll(dir, 0o755)
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrExist) {
			return err
		}
		if _, serr := os.Stat(filepath.Dir(filepath.Dir(filepath.Dir(dir)))); serr != nil {
			return err // the hierarchy itself is gone
		}
	}
}

// inheritCpuset fills the cpus and memory nodes of new v1 cpuset cgroups from their parents: they begin empty, and
// nobody may enter then.
func inheritCpuset(root, dir string) error {
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return err
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil // not a cpuset hierarchy of v1, whose root has these files
		}
		at := root
		for part := range strings.SplitSeq(rel, "/") {
			at = filepath.Join(at, part)
			have, err := os.ReadFile(filepath.Join(at, name))
			if err != nil {
				return err
			}
			if len(have) > 1 {
				value = have
				continue
			}
			if err := writeCgroup(filepath.Join(at, name), string(value)); err != nil {
				return err
			}
		}
	}
	return nil
}

func joinCgroup(dir string) error {
	return writeCgroup(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(os.Getpid()))
}

// writeCgroup writes one value into a cgroup's file, which exists.
func writeCgroup(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// memoryLimit is what a v2 cgroup has, -1 for none: somebody may have changed what is known.
func memoryLimit(cgroup string, known int64) int64 {
	switch have, err := fscommon.GetCgroupParamUint(cgroup, "memory.max"); {
	case err != nil:
		return known
	case have > math.MaxInt64:
		return -1
	default:
		return int64(have)
	}
}

// makeRoom lets a v2 cgroup use no more than limit bytes, by having the kernel take cached files from it, and fails where more
// than that is in use. libcontainer, which looks for itself, goes back to what it set last when it finds that: where somebody
// has raised that in the meantime, going back kills.
func makeRoom(cgroup string, limit int64) error {
	over := func() int64 {
		used, err := fscommon.GetCgroupParamUint(cgroup, "memory.current")
		if err != nil {
			return 0 // libcontainer's to judge
		}
		return int64(used) - limit
	}
	if n := over(); n > 0 {
		reclaim(cgroup, uint64(n))
	}
	if n := over(); n > 0 {
		return fmt.Errorf("a memory limit of %d bytes is %d less than what is in use", limit, n)
	}
	return nil
}

// reclaim asks the kernel to take cached files of so many bytes from a v2 cgroup, where it has as many: looking for more than
// there is would take it seconds. v1 does so by itself; before Linux 5.19 v2 cannot be asked.
func reclaim(cgroup string, bytes uint64) {
	cached := uint64(0)
	for _, list := range []string{"inactive_file", "active_file"} {
		n, err := fscommon.GetValueByKey(cgroup, "memory.stat", list)
		if err != nil {
			return
		}
		cached += n
	}
	if bytes <= cached {
		_ = writeCgroup(filepath.Join(cgroup, "memory.reclaim"), strconv.FormatUint(bytes, 10))
	}
}

// leaveOwnCgroup moves this process, which is about to end, to the roots and removes its cgroups, with the instance's if
// no container is left in it.
func leaveOwnCgroup(instance string) {
	roots, err := cgroupRoots()
	if err != nil {
		return
	}
	for _, root := range roots {
		dir := ownCgroup(root, instance)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		failpoint.Here("own cgroup: not left")
		if err := joinCgroup(root); err != nil {
			continue
		}
		failpoint.Here("own cgroup: left")
		for range 3 { // supervisor, instance, reconciler: each only if it is empty
			if os.Remove(dir) != nil {
				break
			}
			dir = filepath.Dir(dir)
		}
		failpoint.Here("own cgroup: gone")
	}
}
