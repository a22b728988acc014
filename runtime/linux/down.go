package linux

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
	"reconciler/runtime/supervisor"
)

// Down stops every container of this instance with its own grace period and removes it, with volumes those too, ends
// the supervisor and takes away what this instance has in the kernel and in the run directory. Images stay.
// It goes on after an error, so that as little as possible is left, and may be called again.
func (r *Runtime) Down(ctx context.Context, volumes bool) error {
	const op = "take down instance"
	statuses, err := r.List(ctx)
	if err != nil {
		return err
	}
	group := errgroup.Group{}
	group.SetLimit(8)
	errs := make([]error, len(statuses))
	for i, st := range statuses {
		group.Go(func() error {
			if stopErr := r.Stop(ctx, st.ID, st.Spec.StopGrace); stopErr != nil {
				r.log.Warn("cannot stop a container, killing it", "container", st.ID, "err", stopErr)
			}
			errs[i] = r.Remove(ctx, st.ID)
			return nil
		})
	}
	_ = group.Wait() // never an error: they are gathered in errs
	if err = errors.Join(errs...); err != nil {
		return failure(op, "", runtime.Name{}, err)
	}
	r.sweep(ctx)
	client, err := supervisor.Dial(ctx, r.supervisorConfig())
	switch {
	case err == nil:
		err = client.Shutdown(ctx, true)
	case errors.Is(err, supervisor.ErrNotRunning):
		err = nil
	}
	if err != nil {
		return failure(op, "", runtime.Name{}, err)
	}
	failpoint.Here("down: the supervisor has ended")
	if err = errors.Join(r.roots.Close(), r.net.Destroy(ctx), r.removeCgroups(), r.clearRunDir()); err != nil {
		return failure(op, "", runtime.Name{}, err)
	}
	failpoint.Here("down: all but volumes gone")
	if !volumes {
		return nil
	}
	list, err := r.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range list {
		errs = append(errs, r.RemoveVolume(ctx, v.Namespace, v.Name))
	}
	return failure(op, "", runtime.Name{}, errors.Join(errs...))
}

// clearRunDir takes away what containers and the supervisor keep there, and the directory if nothing else is in it.
func (r *Runtime) clearRunDir() error {
	var errs []error
	for _, name := range []string{"supervisor", "libcontainer", "init", "supervisor.sock", "supervisor.lock", "holder.sock", namesFile} {
		failpoint.Here("down: something in the run directory")
		errs = append(errs, os.RemoveAll(filepath.Join(r.cfg.RunDir, name)))
	}
	errs = append(errs, atomicfile.Sweep(r.cfg.RunDir, 0)) // nobody writes there any more
	failpoint.Here("down: the run directory cleared")
	// An agent's own lock and socket may still be there.
	if err := os.Remove(r.cfg.RunDir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		errs = append(errs, err)
	}
	failpoint.Here("down: the run directory gone")
	return errors.Join(errs...)
}

// cgroupDirs returns the directories of a cgroup path: one on v2, one for each hierarchy on v1.
func cgroupDirs(path string) []string {
	var dirs []string
	seen := map[unix.Stat_t]bool{}
	for _, pattern := range []string{filepath.Join(cgroupRoot, path), filepath.Join(cgroupRoot, "*", path)} {
		matches, err := filepath.Glob(pattern)
		if err != nil {
			continue // a bad pattern only: paths hold no special characters
		}
		for _, dir := range matches {
			var st unix.Stat_t
			if unix.Stat(dir, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || seen[unix.Stat_t{Dev: st.Dev, Ino: st.Ino}] {
				continue
			}
			seen[unix.Stat_t{Dev: st.Dev, Ino: st.Ino}] = true // cpu and cpu,cpuacct are one
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// removeCgroups takes away the empty cgroups of this instance, and the common parent if it is the last one's. A cgroup
// with a process in it cannot be removed: that is an error.
func (r *Runtime) removeCgroups() error {
	var errs []error
	for _, top := range cgroupDirs(filepath.Join("reconciler", r.cfg.Instance)) {
		var dirs []string
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		errs = append(errs, err)
		slices.SortFunc(dirs, func(a, b string) int { return cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")) })
		for _, dir := range dirs {
			failpoint.Here("down: a cgroup there") // apart: where no supervisor took it away
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, &fs.PathError{Op: "rmdir", Path: dir, Err: err})
			}
		}
		_ = unix.Rmdir(filepath.Dir(top))        // fails while another instance has cgroups there
		failpoint.Here("down: the cgroups gone") // apart: where no supervisor took them away
	}
	return errors.Join(errs...)
}
