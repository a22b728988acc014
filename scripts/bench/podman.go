package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// podmanAt are the settings of a podman with directories of its own. Where rlimits cannot be raised it needs to be told
// to leave them as they are.
func (b *bench) podmanAt(name string) (env []string, dir string, err error) {
	dir = filepath.Join(b.dir, name)
	containers := fmt.Sprintf(`[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = %q
`, filepath.Join(dir, "networks"))
	storage := fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", filepath.Join(dir, "graph"), runOf(dir))
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	files := map[string]string{"containers.conf": containers, "storage.conf": storage, "policy.json": `{"default": [{"type": "insecureAcceptAnything"}]}`}
	for file, text := range files {
		if err = os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return nil, "", err
		}
	}
	return []string{
		"CONTAINERS_CONF=" + filepath.Join(dir, "containers.conf"), "CONTAINERS_STORAGE_CONF=" + filepath.Join(dir, "storage.conf"),
	}, dir, nil
}

// podman measures `podman run -d` in a loop, on its bridge.
func (b *bench) podman() error {
	env, dir, err := b.podmanAt("podman")
	if err != nil {
		return err
	}
	do := func(args ...string) (time.Duration, error) { return b.timed(env, "/usr/bin/podman", args...) }
	defer func() { _, _ = os.RemoveAll(dir), os.RemoveAll(runOf(dir)) }() // what is busy goes with the mount namespace
	image, err := b.imageFile()
	if err != nil {
		return err
	}
	if _, err = do("import", image, imageName); err != nil {
		return err
	}
	run := func(name string) (time.Duration, error) {
		return do("run", "-d", "--name", name, "--cgroup-parent", "/"+b.id+"/podman", imageName, "/bin/busybox", "sleep", "100000")
	}
	remove := func(names []string) (time.Duration, error) {
		return do(append([]string{"rm", "-f", "-t", "0"}, names...)...)
	}
	if err = firstOne(run, remove); err != nil {
		return err
	}
	memory := func() (float64, error) { return pssOf("conmon") }
	err = b.measure(loop{who: podman, run: run, remove: remove, memory: memory}, func() error { return nil })
	if err != nil {
		_, _ = do("rm", "-f", "-a", "-t", "0") // the error says more
	}
	return err
}

// firstOne starts a container and removes it: what is made once is not measured.
func firstOne(run func(string) (time.Duration, error), remove func([]string) (time.Duration, error)) error {
	if _, err := run("first"); err != nil {
		return err
	}
	_, err := remove([]string{"first"})
	return err
}

const imageName = "localhost/busybox:1"

// imageFile is the one layer of the image that the peers' containers have.
func (b *bench) imageFile() (string, error) {
	dir, file := filepath.Join(b.dir, "image"), filepath.Join(b.dir, "image.tar")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := rootfs(dir); err != nil {
		return "", err
	}
	_, _, err := b.do(nil, "/usr/bin/tar", "-C", dir, "-cf", file, ".")
	return file, err
}
