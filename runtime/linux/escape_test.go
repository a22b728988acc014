package linux_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// Each is tried by root inside an ordinary container, and must not succeed.
func TestEscapes(t *testing.T) {
	e := newEnv(t)
	marker := e.write("on-the-server", "x")
	spec := e.spec("prisoner", "sleep", "1000")
	spec.Limits.Memory = 64 << 20
	id := e.start(spec)
	for _, tool := range []string{"dmesg", "mkdir", "mknod", "mount", "nsenter", "readlink", "umount", "unshare"} {
		if _, code := e.exec(id, "sh", "-c", "busybox --list | grep -x "+tool); code != 0 {
			t.Fatalf("busybox has no %s: what needs it would be refused for that alone", tool)
		}
	}
	for name, script := range map[string]string{
		"sysrq":                   "echo h >/proc/sysrq-trigger",
		"kernel memory":           `test -n "$(head -c 1 /proc/kcore)"`,
		"keys":                    "grep . /proc/keys",
		"timers":                  "grep . /proc/timer_list",
		"firmware":                "ls /sys/firmware | grep .",
		"core pattern":            "echo x >/proc/sys/kernel/core_pattern",
		"panic":                   "echo 0 >/proc/sys/kernel/panic",
		"uevent helper":           "echo x >/sys/kernel/uevent_helper",
		"write sysfs":             "echo never >/sys/kernel/mm/transparent_hugepage/enabled",
		"mount tmpfs":             "mount -t tmpfs none /tmp",
		"mount proc":              "mount -t proc proc /tmp",
		"bind mount":              "mount -o bind / /tmp",
		"remount sysfs":           "mount -o remount,rw /sys",
		"remount /proc/sys":       "mount -o remount,bind,rw /proc/sys",
		"unmask":                  "busybox umount /proc/kcore",
		"block device":            "mknod /tmp/vda b 254 0",
		"memory device":           "mknod /tmp/mem c 1 1",
		"loop device":             "ls /dev/loop*",
		"make a cgroup":           "mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x",
		"leave the memory cgroup": "echo 1 >/sys/fs/cgroup/memory/cgroup.procs || echo 1 >/sys/fs/cgroup/cgroup.procs",
		"raise the memory limit":  "echo -1 >/sys/fs/cgroup/memory/memory.limit_in_bytes || echo max >/sys/fs/cgroup/memory.max",
		"release agent":           "echo /tmp/x >/sys/fs/cgroup/memory/release_agent",
		"user namespace":          "busybox unshare -r true",
		"mount namespace":         "busybox unshare -m true",
		"network namespace":       "busybox unshare -n true",
		"another's namespaces":    "busybox nsenter -t 1 -m true",
		"kernel log":              "busybox dmesg",
		"clock":                   "! busybox date -s @$(busybox date +%s) 2>&1 | grep \"can't set\"",
		"host name":               "hostname other",
		"lower oom score":         "echo -1000 >/proc/1/oom_score_adj",
		"new privileges":          "grep 'NoNewPrivs:.0' /proc/self/status",
		"no seccomp":              "grep 'Seccomp:.0' /proc/self/status",
		"server's files": "for d in /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/[0-9]*/fd/* / /dev/fd; do " +
			"ls $d/../../../../../../../../.." + marker + " && exit 0; done; exit 1",
		"agent's directories": "ls " + e.cfg.RunDir + " " + e.cfg.StateDir,
		"processes of others": "ls -d /proc/[0-9]* | grep -v -E '^/proc/(1|'$$')$' | while read p; do test -e $p/exe && readlink $p/exe; done | grep -v busybox",
	} {
		t.Run(name, func(t *testing.T) {
			if out, code := e.exec(id, "sh", "-c", script); code == 0 {
				t.Errorf("it worked: %s", out)
			}
		})
	}
	out, _ := e.exec(id, "ls", "/dev")
	const want = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
	out = strings.TrimPrefix(out, "core\n") // a link to /proc/kcore, where the kernel has that
	if got := strings.Join(strings.Fields(out), " "); got != want && got != strings.Replace(want, " mqueue", "", 1) {
		t.Errorf("/dev has %s", got)
	}
	if data, err := os.ReadFile(marker); err != nil || string(data) != "x" {
		t.Errorf("a file of the server: %q, %v", data, err)
	}
}

// said waits until the container has printed a line.
func (e *env) said(id runtime.ID, want string) {
	e.Helper()
	for entry, err := range e.Logs(e.Context(), id, supervisor.LogOptions{Follow: true, Current: true}) {
		if err != nil {
			e.Fatal(err)
		}
		if string(entry.Line) == want {
			return
		}
	}
}

// Nothing of the supervisor is open in what it starts, and its binary cannot be written to from inside while it is on
// its way there (CVE-2019-5736).
func TestNoFileOfTheSupervisorIsReachable(t *testing.T) {
	e := newEnv(t)
	plain := e.spec("plain", "sleep", "1000")
	withInit := e.spec("init", "sleep", "1000")
	withInit.Init = true
	for _, spec := range []runtime.Spec{plain, withInit} {
		pid := e.status(e.start(spec)).Pid
		fds, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
		if err != nil || len(fds) != 3 {
			t.Errorf("%s has open %v, %v", spec.Name, fds, err)
		}
	}
	spec := e.sh("thief", `printf '#!/proc/self/exe\n' >/tmp/evil; chmod 755 /tmp/evil; echo ready
		while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in
			*busybox|'') ;;
			*) echo x 2>/dev/null >>$p/exe && echo wrote;;
		esac; done; done`)
	id := e.start(spec)
	e.said(id, "ready")
	before := sum(t, "/proc/self/exe")
	for range 5 {
		if out, _ := e.exec(id, "ls", "/proc/self/fd"); out != "0\n1\n2\n3\n" { // 3 is the directory that ls reads
			t.Errorf("exec has open: %q", out)
		}
		// It may fail to execute, or run into the supervisor's own code: whatever it does, it must end.
		_, _ = e.Exec(t.Context(), supervisor.ExecRequest{ID: id, Args: []string{"/tmp/evil"}}, nil, io.Discard, io.Discard)
		_, _ = e.Exec(t.Context(), supervisor.ExecRequest{ID: id, Args: []string{"/proc/self/exe", "supervisor"}}, nil, io.Discard, io.Discard)
	}
	if strings.Contains(e.output(id), "wrote") || sum(t, "/proc/self/exe") != before {
		t.Error("the supervisor's binary was written to from inside")
	}
}

func sum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// CVE-2024-21626: a working directory that is a descriptor left open by the runtime leads to the server's files.
func TestWorkingDirectoryStaysInside(t *testing.T) {
	e := newEnv(t)
	marker := e.write("on-the-server", "x")
	id := e.start(e.spec("web", "sleep", "1000"))
	for fd := 3; fd < 12; fd++ {
		dir := "/proc/self/fd/" + strconv.Itoa(fd)
		code, err := e.Exec(t.Context(), supervisor.ExecRequest{
			ID: id, Cwd: dir, Args: []string{"/bin/ls", "../../../../../../../.." + marker},
		}, nil, io.Discard, io.Discard)
		if err == nil && code == 0 {
			t.Errorf("exec in %s reaches the server", dir)
		}
		if fd%3 != 0 {
			continue
		}
		spec := e.spec("cwd", "/bin/ls", "../../../../../../../.."+marker)
		spec.WorkingDir = dir
		trial := e.create(spec)
		if err := e.Start(t.Context(), trial); err == nil {
			if st := e.exited(trial); st.ExitCode == nil || *st.ExitCode == 0 {
				t.Errorf("process 1 in %s reaches the server", dir)
			}
		}
	}
}

// A link that one container left in a shared volume does not lead the mounts of another out of it.
func TestMountTargetsFollowNoLinkOut(t *testing.T) {
	e := newEnv(t)
	outside := filepath.Dir(e.write("outside/there", "x"))
	shared := runtime.Mount{Path: "/vol", Volume: &runtime.Volume{Name: "shared", Shared: true}}
	writer := e.sh("writer", "ln -s "+outside+" /vol/abs; ln -s ../../../../../../../../../.."+outside+" /vol/rel; ln -s /proc/1/root /vol/proc")
	writer.Mounts = []runtime.Mount{shared}
	if out, st := e.run(writer); st.ExitCode == nil || *st.ExitCode != 0 {
		t.Fatalf("writer: %s", out)
	}
	for _, link := range []string{"abs", "rel", "proc"} {
		victim := e.sh("victim-"+link, "echo started")
		victim.Mounts = []runtime.Mount{shared, {
			Path: "/vol/" + link + "/deep/file", Files: &runtime.Files{Name: "c", Key: "k", Content: map[string][]byte{"k": []byte("y")}},
		}}
		id := e.create(victim)
		if err := e.Start(t.Context(), id); err == nil {
			e.exited(id)
		}
	}
	if _, err := os.Lstat(outside + "/deep"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a mount target was made on the server: %v", err)
	}
}
