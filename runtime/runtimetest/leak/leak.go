package leak

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"reconciler/runtime/idrange"
	"reconciler/runtime/network"
)

// settle is how long what is just going away may take: a killed process that was not yet collected by its new parent, a
// cgroup that the kernel removes after its last process, a loop device of a mount that is just gone. Nothing is waited for
// where nothing is left.
const settle = 3 * time.Second

// Check fails the test for everything that instance left: processes in its cgroups, the cgroups themselves, its interfaces and
// tables of rules, mounts below stateDir and runDir, network namespaces that only a mount holds, loop devices of files in
// stateDir, leases of user ids, and files in runDir other than the directory itself. Call it last, when supervisor and
// containers should be gone; directories may be removed already.
func Check(t testing.TB, stateDir, runDir, instance string) {
	t.Helper()
	for _, problem := range Wait(stateDir, runDir, instance) {
		t.Errorf("leak: %s", problem)
	}
}

// Wait is Find, which is asked again for a few seconds while there is something that may be going away.
func Wait(stateDir, runDir, instance string) []string {
	deadline := time.Now().Add(settle)
	for {
		problems := Find(stateDir, runDir, instance)
		if len(problems) == 0 || time.Now().After(deadline) {
			return problems
		}
		// No event says that a cgroup of v1 is empty or that a stranger's zombie was collected.
		time.Sleep(20 * time.Millisecond)
	}
}

// Find returns what is left now, one line each.
func Find(stateDir, runDir, instance string) []string {
	var problems []string
	add := func(found []string, err error) {
		problems = append(problems, found...)
		if err != nil {
			problems = append(problems, "cannot look: "+err.Error())
		}
	}
	add(cgroups(instance))
	add(processes(instance, runDir))
	add(mounts(stateDir, runDir))
	add(files(runDir))
	add(userIDs(stateDir))
	add(loops(stateDir))
	add(network.Remains(instance))
	return problems
}

// loops finds loop devices of files of the state directory, also of those that are deleted.
func loops(stateDir string) (found []string, err error) {
	if real, realErr := filepath.EvalSymlinks(stateDir); realErr == nil {
		stateDir = real
	}
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range names {
		file, readErr := os.ReadFile(name) // fails for one that just went
		if readErr == nil && strings.HasPrefix(string(file), stateDir+"/") {
			found = append(found, fmt.Sprintf("loop device %s of %s", strings.Split(name, "/")[3], strings.TrimSpace(string(file))))
		}
	}
	return found, err
}

// userIDs finds ranges of user ids that containers of the state directory still hold.
func userIDs(stateDir string) (found []string, err error) {
	holders, err := idrange.Open(idrange.Dir).Holders()
	for first, holder := range holders {
		if strings.HasPrefix(holder, stateDir+"/") {
			found = append(found, fmt.Sprintf("user ids from %d on, leased to %s", first, holder))
		}
	}
	return found, err
}

// cgroups finds cgroups of the instance in every hierarchy.
func cgroups(instance string) (found []string, err error) {
	roots, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return nil, err
	}
	for _, m := range roots {
		top := filepath.Join(m.Mountpoint, "reconciler", instance)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				found = append(found, "cgroup "+path)
			}
			return err
		})
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// processes finds what runs in the instance's cgroups or has a file of the run directory open.
func processes(instance, runDir string) (found []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		proc := filepath.Join("/proc", e.Name())
		if ended(proc) {
			continue // a zombie waits for its parent, which is nobody of ours: ours are gone or are found themselves
		}
		cg, err := os.ReadFile(filepath.Join(proc, "cgroup"))
		if err != nil {
			continue // it ended
		}
		if strings.Contains(string(cg), "/reconciler/"+instance+"/") {
			found = append(found, fmt.Sprintf("process %d (%s) in the instance's cgroup", pid, name(proc)))
			continue
		}
		if runDir != "" && holds(proc, runDir) {
			found = append(found, fmt.Sprintf("process %d (%s) has a file of %s open", pid, name(proc), runDir))
		}
	}
	return found, nil
}

func ended(proc string) bool {
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

func name(proc string) string {
	cmd, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || len(cmd) == 0 {
		return "ended"
	}
	return strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " "))
}

func holds(proc, dir string) bool {
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err == nil && strings.HasPrefix(target, strings.TrimSuffix(dir, "/")+"/") {
			return true
		}
	}
	return false
}

// mounts finds mounts below the directories, network namespaces among them.
func mounts(dirs ...string) (found []string, err error) {
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real
		}
		infos, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, strings.TrimSuffix(dir, "/")+"/"), false
		})
		if err != nil {
			return found, err
		}
		for _, m := range infos {
			what := "mount"
			if m.FSType == "nsfs" {
				what = "namespace"
			}
			found = append(found, fmt.Sprintf("%s %s (%s)", what, m.Mountpoint, m.FSType))
		}
	}
	return found, nil
}

// files finds what is left in the run directory.
func files(runDir string) (found []string, err error) {
	if runDir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if e.Name() == "init" && e.Type().IsRegular() {
			continue // the one that containers share stays
		}
		found = append(found, "file "+filepath.Join(runDir, e.Name()))
	}
	return found, err
}

// FDs returns how many file descriptors a process has open, to be compared before and after.
func FDs(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries), err
}
