package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// bundles measures an OCI runtime alone, in a loop: the spec that it writes itself, with the default seccomp profile as
// Docker expands it (three architectures on amd64), and no network. Each container has a bundle of its own; the files of
// all are one read-only directory.
func (b *bench) bundles(who, program string) (err error) {
	dir := filepath.Join(b.dir, filepath.Base(program))
	root := runOf(dir)
	if err = rootfs(filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(runOf(dir))) }()
	if _, _, err = b.do(nil, program, "spec", "--bundle", dir); err != nil {
		return err
	}
	run := func(name string) (time.Duration, error) { // without the making of its bundle
		bundle, bundleErr := b.bundle(dir, name)
		if bundleErr != nil {
			return 0, bundleErr
		}
		return b.timed(nil, program, "--root", root, "run", "--detach", "--bundle", bundle, name)
	}
	remove := func(name string) (time.Duration, error) {
		return b.timed(nil, program, "--root", root, "delete", "--force", name)
	}
	var started []string
	defer func() {
		for _, name := range started {
			_, gone := remove(name)
			err = errors.Join(err, gone)
		}
	}()
	var all time.Duration
	for i := range b.n {
		name := fmt.Sprintf("c%d", i)
		took, err := run(name)
		if err != nil {
			return err
		}
		started, all = append(started, name), all+took
	}
	b.set("start", who, millis(all))
	if b.wants("one") {
		var backs []float64
		for i := range times {
			name := fmt.Sprintf("more%d", i)
			took, err := run(name)
			if err != nil {
				return err
			}
			if _, err := remove(name); err != nil {
				return err
			}
			backs = append(backs, millis(took))
		}
		for _, key := range []string{"one-step", "one-runs", "one-back"} { // when it is back its process runs
			b.set(key, who, median(backs))
		}
	}
	all = 0
	for len(started) > 0 {
		took, err := remove(started[0])
		if err != nil {
			return err
		}
		started, all = started[1:], all+took
	}
	b.set("removal", who, millis(all))
	return nil
}

// rootfs makes a directory with the files of a container: busybox.
func rootfs(dir string) error {
	text, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "bin/busybox"), text, 0o755)
}

// bundle makes the bundle of one container of what the runtime wrote as an example.
func (b *bench) bundle(dir, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return "", err
	}
	var spec specs.Spec
	if err = json.Unmarshal(text, &spec); err != nil {
		return "", err
	}
	spec.Process.Terminal = false
	spec.Process.Args = []string{"/bin/busybox", "sleep", "100000"}
	spec.Root.Path = filepath.Join(dir, "rootfs")
	spec.Hostname = name
	spec.Linux.CgroupsPath = "/" + b.id + "/" + filepath.Base(dir) + "/" + name
	if spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(&spec); err != nil {
		return "", err
	}
	if text, err = json.Marshal(&spec); err != nil {
		return "", err
	}
	at := filepath.Join(dir, "bundles", name)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return "", err
	}
	return at, os.WriteFile(filepath.Join(at, "config.json"), text, 0o644)
}
