package linux

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
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

// claimDirectories makes the state and the run directory and marks the state directory as this instance's.
func claimDirectories(cfg Config) error {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(cfg.Instance) {
		return &runtime.Error{
			Op: "use instance " + cfg.Instance, Err: errors.New("not a name of lower case letters, digits and dashes"), Permanent: true,
		}
	}
	for _, dir := range []string{cfg.StateDir, cfg.RunDir} {
		if !filepath.IsAbs(dir) {
			return &runtime.Error{Op: "use directory " + dir, Err: errors.New("not an absolute path"), Permanent: true}
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return &runtime.Error{Op: "make directory " + dir, Err: err, Hint: "check the disk it is on, or name another"}
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return &runtime.Error{Op: "use directory " + dir, Err: err}
		}
	}
	path := filepath.Join(cfg.StateDir, "instance.json")
	op := "use state directory " + cfg.StateDir
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = json.Marshal(marker{Version: markerVersion, Instance: cfg.Instance}); err != nil {
			return err
		}
		if err = atomicfile.WriteDurable(path, data, 0o600); err != nil {
			return &runtime.Error{Op: op, Err: err, Hint: "check that its disk is writable and not full"}
		}
		return nil
	}
	if err != nil {
		return &runtime.Error{Op: op, Err: err}
	}
	var m marker
	if err := json.Unmarshal(data, &m); err != nil {
		return &runtime.Error{Op: op, Err: fmt.Errorf("instance.json: %w", err), Permanent: true, Hint: "write {\"version\":1,\"instance\":\"" + cfg.Instance + "\"} into it if the directory is this instance's"}
	}
	if m.Version != markerVersion {
		return &runtime.Error{Op: op, Err: fmt.Errorf("instance.json: version %d is not known to this release", m.Version), Permanent: true, Hint: "use the release that wrote it or a later one"}
	}
	if m.Instance != cfg.Instance {
		return &runtime.Error{
			Op: op, Err: fmt.Errorf("it belongs to instance %s, this is instance %s", m.Instance, cfg.Instance), Permanent: true,
			Hint: "give each instance a --state-dir and --run-dir of its own, or say --instance " + m.Instance,
		}
	}
	return nil
}
