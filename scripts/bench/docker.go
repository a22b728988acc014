package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// daemon is a program that runs until it is told to stop.
type daemon struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// startDaemon starts a program and waits until it is ready.
func (b *bench) startDaemon(ready func() bool, name string, args ...string) (*daemon, error) {
	d := &daemon{log: filepath.Join(b.dir, filepath.Base(name)+".log"), ended: make(chan struct{})}
	log, err := os.Create(d.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the daemon has its own
	d.cmd = exec.Command(name, args...)
	d.cmd.Env, d.cmd.Stdout, d.cmd.Stderr, d.cmd.Dir = b.environment(), log, log, b.dir
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(d.ended)
		_ = d.cmd.Wait() // its log says why
	}()
	const tries = 600
	for range tries {
		if ready() {
			return d, nil
		}
		select {
		case <-d.ended:
			return nil, d.failed("ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, errors.Join(d.failed("does not get ready"), d.stop())
}

func (d *daemon) failed(how string) error {
	text, _ := os.ReadFile(d.log) // the best that there is
	return fmt.Errorf("%s %s: %s", filepath.Base(d.cmd.Path), how, lastOf(string(text)))
}

// stop ends it, by force after a while.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(time.Minute):
		_, _ = d.cmd.Process.Kill(), <-d.ended // gone by now, or by this
		return d.failed("had to be killed")
	}
}

// dockerd is a Docker of its own: containerd and dockerd started by hand, with the image in it.
type dockerd struct {
	b                *bench
	dir              string
	env              []string
	containerd, self *daemon
}

func (b *bench) startDocker() (_ *dockerd, err error) {
	d := &dockerd{b: b, dir: filepath.Join(b.dir, "docker")}
	config, socket, api := filepath.Join(d.dir, "containerd.toml"), filepath.Join(runOf(d.dir), "containerd.sock"), filepath.Join(runOf(d.dir), "docker.sock")
	d.env = []string{"DOCKER_HOST=unix://" + api, "COMPOSE_HTTP_TIMEOUT=600"} // what is slow is to be measured
	if err = errors.Join(os.MkdirAll(d.dir, 0o755), os.MkdirAll(runOf(d.dir), 0o755)); err != nil {
		return nil, err
	}
	toml := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(d.dir, "containerd"), filepath.Join(runOf(d.dir), "containerd"), socket)
	daemonJSON := filepath.Join(d.dir, "daemon.json")
	if err = errors.Join(os.WriteFile(config, []byte(toml), 0o644), os.WriteFile(daemonJSON, []byte("{}"), 0o644)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	isThere := func(path string) func() bool {
		return func() bool { _, statErr := os.Stat(path); return statErr == nil }
	}
	if d.containerd, err = b.startDaemon(isThere(socket), "/usr/bin/containerd", "--config", config); err != nil {
		return nil, err
	}
	answers := func() bool {
		_, _, askErr := d.docker("version")
		return askErr == nil
	}
	d.self, err = b.startDaemon(answers, "/usr/sbin/dockerd", "--config-file", daemonJSON, "--containerd", socket,
		"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(runOf(d.dir), "docker"), "--pidfile", filepath.Join(runOf(d.dir), "dockerd.pid"),
		"--host", "unix://"+api, "--cgroup-parent", "/"+b.id+"/docker")
	if err != nil {
		return nil, err
	}
	image, err := b.imageFile()
	if err != nil {
		return nil, err
	}
	_, _, err = d.docker("import", image, imageName)
	return d, err
}

// stop removes what is left of the containers and ends the daemons.
func (d *dockerd) stop() error {
	var errs []error
	if d.self != nil {
		out, _, err := d.docker("ps", "-aq")
		if left := strings.Fields(out); err == nil && len(left) > 0 {
			_, _, err = d.docker(append([]string{"rm", "-f"}, left...)...)
		}
		errs = append(errs, err, d.self.stop())
	}
	if d.containerd != nil {
		errs = append(errs, d.containerd.stop())
	}
	_, _ = os.RemoveAll(d.dir), os.RemoveAll(runOf(d.dir)) // what is busy goes with the mount namespace
	return errors.Join(errs...)
}

func (d *dockerd) docker(args ...string) (string, time.Duration, error) {
	return d.b.do(d.env, "/usr/bin/docker", args...)
}

// startedAt returns when a container's process was started.
func (d *dockerd) startedAt(name string) (time.Time, error) {
	out, _, err := d.docker("inspect", "--format", "{{.State.StartedAt}}", name)
	if err != nil {
		return time.Time{}, err
	}
	return time.Parse(time.RFC3339Nano, strings.TrimSpace(out))
}

// dockersOwn are the names of all its processes. This pid namespace has no other Docker's.
func dockersOwn() []string {
	return []string{"dockerd", "containerd", "containerd-shim", "docker-proxy"}
}

// dockerRun measures `docker run -d` in a loop, on its bridge; and at rest, ours beside it.
func (b *bench) dockerRun() (err error) {
	d, err := b.startDocker()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	run := func(name string) (time.Duration, error) {
		return b.timed(d.env, "/usr/bin/docker", "run", "-d", "--name", name, imageName, "/bin/busybox", "sleep", "100000")
	}
	remove := func(names []string) (time.Duration, error) {
		return b.timed(d.env, "/usr/bin/docker", append([]string{"rm", "-f"}, names...)...)
	}
	if err := firstOne(run, remove); err != nil {
		return err
	}
	memory := func() (float64, error) { return pssOf(dockersOwn()...) }
	return b.measure(loop{who: docker, run: run, started: d.startedAt, remove: remove, memory: memory}, func() error {
		if !b.wants("idle") {
			return nil
		}
		return b.idle()
	})
}
