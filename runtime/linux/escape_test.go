package linux_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// prisoner is a kind of container that root inside tries to get out of.
type prisoner struct {
	name   string
	change func(s *runtime.Spec)
	// strong has every capability and no seccomp, so that nothing but its user ids is in its way.
	strong bool
}

func prisoners() []prisoner {
	return []prisoner{
		{name: "own ids", change: func(*runtime.Spec) {}},
		{name: "server's ids", change: func(s *runtime.Spec) { s.Security.HostUsers = new(true) }},
		{name: "bridge", change: func(s *runtime.Spec) { s.Network = runtime.NetworkBridge }},
		{name: "server's network", change: func(s *runtime.Spec) { s.Network = runtime.NetworkHost }},
		{name: "own ids and all capabilities", strong: true, change: func(s *runtime.Spec) {
			s.Security.HostUsers, s.Security.CapAdd, s.Security.SeccompUnconfined = new(false), []string{"ALL"}, true
		}},
	}
}

// Each is tried by root inside each kind of container, and must be refused there for want of a right. On the server, as
// root, it must work: else it is badly tried, or the kernel does not have what it tries.
func TestEscapes(t *testing.T) {
	e := newEnv(t)
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	volume := []runtime.Mount{{Path: "/vol", Volume: &runtime.Volume{Name: "shared", Shared: true}}}
	victim := e.sh("victim", "echo x >/secret; echo x >/vol/secret; echo ready; sleep 1000")
	victim.Mounts = volume
	neighbour := e.start(victim)
	e.said(neighbour, "ready")
	alike := e.sh("alike", "sleep 1000")
	alike.Security.HostUsers = new(true)
	bundle := filepath.Join(e.cfg.RunDir, "containers", string(neighbour))
	w := world{
		Marker: e.write("on-the-server", "x"), Pids: []int{e.status(neighbour).Pid, e.status(e.start(alike)).Pid},
		Sockets: []string{filepath.Join(e.cfg.RunDir, "supervisor.sock"), filepath.Join(e.cfg.RunDir, "agent.sock")},
		Others: []string{
			filepath.Join(bundle, "rootfs", "secret"), filepath.Join(e.cfg.StateDir, "snapshots", string(neighbour), "upper", "secret"),
			filepath.Join(e.cfg.StateDir, "volumes"),
		},
	}
	var st unix.Stat_t
	if err = unix.Stat(w.Marker, &st); err != nil {
		t.Fatal(err)
	}
	w.Handle, w.Disk = handleOf(t, w.Marker), st.Dev
	onServer := w
	onServer.Volume = t.TempDir()
	w.Volume = "/vol"

	refused := map[string]string{} // what does not work on this server, and why
	for _, a := range attempts() {
		errno, why := e.attemptOnServer(binary, a.name, onServer)
		if errno != 0 && !a.kernel {
			t.Errorf("%s does not work on the server either: %s", a.name, why)
		}
		if errno != 0 {
			refused[a.name] = why
		}
	}
	for _, p := range prisoners() {
		t.Run(p.name, func(t *testing.T) {
			spec := e.spec("prisoner", "/bin/busybox", "sleep", "1000")
			spec.Image, spec.Capture = nil, []runtime.Path{{From: "/bin/busybox", To: "/bin/busybox"}, {From: binary, To: "/attempt"}}
			spec.Mounts = append([]runtime.Mount{{Path: "/tmp", Tmpfs: &runtime.Tmpfs{Size: 1 << 20}}}, volume...)
			spec.Security.AppArmor = runtime.AppArmorUnconfined // many servers have none, and nothing may depend on it
			p.change(&spec)
			id := e.start(spec)
			for _, a := range attempts() {
				if p.strong && a.own {
					continue
				}
				t.Run(a.name, func(t *testing.T) {
					if why := refused[a.name]; why != "" {
						t.Skipf("this server has nothing to try it on: %s", why)
					}
					errno, why := e.attemptIn(id, a.name, w)
					if errno == 0 {
						t.Fatalf("it worked %s", why)
					}
					if !slices.Contains(append(a.refusals, unix.EPERM, unix.EACCES, unix.EROFS), errno) {
						t.Errorf("it did not fail for want of a right: %s", why)
					}
				})
			}
			if err := e.Remove(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
	if data, err := os.ReadFile(w.Marker); err != nil || string(data) != "x" {
		t.Errorf("the file of the server: %q, %v", data, err)
	}
}

// attemptOnServer tries as root of the server, with mounts of its own so that none is left.
func (e *env) attemptOnServer(binary, name string, w world) (unix.Errno, string) {
	e.Helper()
	cmd := exec.CommandContext(e.Context(), binary, "attempt", name)
	cmd.Env = append(os.Environ(), "ATTEMPT="+w.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		e.Fatal(err)
	} else if ok {
		return e.answer(name, string(out), exit.ExitCode())
	}
	return 0, ""
}

// attemptIn tries in a container.
func (e *env) attemptIn(id runtime.ID, name string, w world) (unix.Errno, string) {
	e.Helper()
	var out, stderr bytes.Buffer
	code, err := e.ExecStream(e.Context(), supervisor.ExecRequest{
		ID: id, Args: []string{"/attempt", "attempt", name}, Env: []string{"ATTEMPT=" + w.String()},
	}, nil, &out, &stderr)
	if err != nil {
		e.Fatal(err)
	}
	return e.answer(name, out.String()+stderr.String(), code)
}

// answer is what attemptInside said.
func (e *env) answer(name, out string, code int) (unix.Errno, string) {
	e.Helper()
	if code == 0 {
		return 0, out
	}
	number, why, _ := strings.Cut(strings.TrimSpace(out), " ")
	errno, err := strconv.Atoi(number)
	if err != nil || code != 1 {
		e.Fatalf("%s: status %d, %s", name, code, out)
	}
	return unix.Errno(errno), why
}

// What is to be seen inside tells nothing of the server.
func TestNothingOfTheServerIsSeen(t *testing.T) {
	e := newEnv(t)
	for _, p := range prisoners() {
		if p.strong {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			spec := e.spec("prisoner", "sleep", "1000")
			p.change(&spec)
			id := e.start(spec)
			for name, script := range map[string]string{
				"keys":                "grep . /proc/keys",
				"timers":              "grep . /proc/timer_list",
				"new privileges":      "grep 'NoNewPrivs:.0' /proc/self/status",
				"no seccomp":          "grep 'Seccomp:.0' /proc/self/status",
				"processes of others": "ls -d /proc/[0-9]* | grep -v -E '^/proc/(1|'$$')$' | while read p; do test -e $p/exe && readlink $p/exe; done | grep -v busybox",
				"abstract sockets":    "grep -E '@.*(reconciler|" + e.cfg.Instance + ")' /proc/net/unix",
			} {
				if out, code := e.exec(id, "sh", "-c", script); code == 0 {
					t.Errorf("%s: %s", name, out)
				}
			}
			out, _ := e.exec(id, "ls", "/dev")
			const want = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
			out = strings.TrimPrefix(out, "core\n") // a link to /proc/kcore, where the kernel has that
			if got := strings.Join(strings.Fields(out), " "); got != want && got != strings.Replace(want, " mqueue", "", 1) {
				t.Errorf("/dev has %s", got)
			}
			if err := e.Remove(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
	}
}

// said waits until the container has printed a line.
func (e *env) said(id runtime.ID, want string) {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), 30*time.Second)
	defer cancel()
	for entry, err := range e.Logs(ctx, id, supervisor.LogOptions{Follow: true, Current: true}) {
		if err != nil {
			e.Fatalf("it never said %q: %v, output %q", want, err, e.output(id))
		}
		if string(entry.Line) == want {
			return
		}
	}
}
