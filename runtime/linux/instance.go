package linux

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// checkServer says whether containers could run here at all.
func checkServer() error {
	const op = "use this server"
	if os.Geteuid() != 0 {
		return &runtime.Error{Op: op, Err: errors.New("containers need root"), Permanent: true, Hint: "run it with sudo"}
	}
	missing, err := missingControllers()
	if err != nil {
		return &runtime.Error{Op: op, Err: err, Permanent: true, Hint: "mount cgroups: on systemd they are, else mount -t cgroup2 none /sys/fs/cgroup"}
	}
	if len(missing) > 0 {
		return &runtime.Error{
			Op: op, Err: fmt.Errorf("cgroup controllers are missing: %s", strings.Join(missing, ", ")), Permanent: true,
			Hint: "enable them on the kernel's command line, such as cgroup_enable=memory; `reconciler doctor` shows more",
		}
	}
	return nil
}

// marker is instance.json in the state directory: whose it is.
type marker struct {
	Version  int    `json:"version"`
	Instance string `json:"instance"`
}

const markerVersion = 1

// vetDirectories says whether the state and the run directory can be this instance's. It makes nothing, so that a verb
// that only looks leaves no trace of an instance that never was.
func vetDirectories(cfg Config) error {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(cfg.Instance) {
		return &runtime.Error{
			Op: "use instance " + cfg.Instance, Err: errors.New("not a name of lower case letters, digits and dashes"), Permanent: true,
		}
	}
	// Through the run directory others may pass, without seeing what is there: containers' own users do.
	for _, d := range []struct {
		path   string
		closed fs.FileMode
	}{{cfg.StateDir, 0o077}, {cfg.RunDir, 0o066}} {
		if !filepath.IsAbs(d.path) {
			return &runtime.Error{Op: "use directory " + d.path, Err: errors.New("not an absolute path"), Permanent: true}
		}
		if err := closeToOthers(d.path, d.closed); err != nil {
			return err
		}
	}
	_, err := readMarker(cfg)
	return err
}

// closeToOthers makes sure that nobody but root has any of the rights closed to a directory of ours. One that holds other
// things is left as it is and refused: a mistyped --run-dir must not take /run away from everybody.
func closeToOthers(dir string, closed fs.FileMode) error {
	op := "use directory " + dir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &runtime.Error{Op: op, Err: err}
	case !info.IsDir():
		return &runtime.Error{Op: op, Err: errors.New("not a directory"), Permanent: true}
	case info.Mode().Perm()&closed == 0:
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return &runtime.Error{Op: op, Err: err}
	}
	ours := len(entries) == 0 || slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() == markerFile || e.Name() == "supervisor.sock" || e.Name() == "agent.sock"
	})
	if !ours {
		return &runtime.Error{
			Op: op, Err: fmt.Errorf("it holds other things and is open to other users (mode %#o)", info.Mode().Perm()), Permanent: true,
			Hint: "name a directory of its own; it need not exist",
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return &runtime.Error{Op: op, Err: err}
	}
	return nil
}

const markerFile = "instance.json"

// readMarker says whether the state directory is marked, and refuses one that is marked as another instance's.
func readMarker(cfg Config) (marked bool, err error) {
	op := "use state directory " + cfg.StateDir
	data, err := os.ReadFile(filepath.Join(cfg.StateDir, markerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, &runtime.Error{Op: op, Err: err}
	}
	var m marker
	if err := json.Unmarshal(data, &m); err != nil {
		return false, &runtime.Error{Op: op, Err: fmt.Errorf("instance.json: %w", err), Permanent: true, Hint: "write {\"version\":1,\"instance\":\"" + cfg.Instance + "\"} into it if the directory is this instance's"}
	}
	if m.Version != markerVersion {
		return false, &runtime.Error{Op: op, Err: fmt.Errorf("instance.json: version %d is not known to this release", m.Version), Permanent: true, Hint: "use the release that wrote it or a later one"}
	}
	if m.Instance != cfg.Instance {
		return false, &runtime.Error{
			Op: op, Err: fmt.Errorf("it belongs to instance %s, this is instance %s", m.Instance, cfg.Instance), Permanent: true,
			Hint: "give each instance a --state-dir and --run-dir of its own, or say --instance " + m.Instance,
		}
	}
	return true, nil
}

// claim makes the directories and marks the state directory as this instance's, where that is not done yet. It comes
// before anything of a container is made; what it costs afterwards is a few system calls.
func claim(cfg Config) error {
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return &runtime.Error{Op: "make directory " + dir, Err: err, Hint: "check the disk it is on, or name another"}
		}
	}
	marked, err := readMarker(cfg)
	if err != nil || marked {
		return err
	}
	failpoint.Here("instance: not marked")
	data, err := json.Marshal(marker{Version: markerVersion, Instance: cfg.Instance})
	if err != nil {
		return err
	}
	if err = atomicfile.WriteDurable(filepath.Join(cfg.StateDir, markerFile), data, 0o600); err != nil {
		return &runtime.Error{Op: "use state directory " + cfg.StateDir, Err: err, Hint: "check that its disk is writable and not full"}
	}
	return nil
}
