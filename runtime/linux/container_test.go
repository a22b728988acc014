package linux_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

func TestIsolation(t *testing.T) {
	e := newEnv(t)
	out, st := e.run(e.sh("web", `
		echo pid $$
		hostname
		echo env $FROM_IMAGE $HOME $HOSTNAME
		id
		pwd
		ls /
		grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd|CapPrm):' /proc/self/status
		ip -o addr
		cat /etc/hosts /etc/hostname
		mknod /tmp/sda b 8 0 2>&1
		mount -t tmpfs none /tmp 2>&1
		echo x 2>&1 > /proc/sys/kernel/hostname
		cat /proc/sched_debug /proc/keys /proc/interrupts 2>/dev/null | wc -c
		ls /proc | grep -c '^[0-9]'
		cat /proc/1/oom_score_adj
	`))
	for _, want := range []string{
		"pid 1\n", "\nweb\n", "env yes /root web\n", "uid=0(root) gid=0(root)\n",
		"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000800405fb", "CapBnd:\t00000000800405fb", "127.0.0.1/8", "127.0.0.1\tweb",
		"mknod: /tmp/sda: Operation not permitted", "permission denied", "Read-only file system", "\n0\n", "\n500\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if st.ExitCode == nil || *st.ExitCode != 0 || t.Failed() {
		t.Errorf("exit %v, output:\n%s", st.ExitCode, out)
	}
}

func TestFilesOfOthersAndOfTheServerAreNotThere(t *testing.T) {
	e := newEnv(t)
	a := e.start(e.sh("a", "echo secret of a >/tmp/a; sleep 1000"))
	b := e.start(e.sh("b", "sleep 1000"))
	out, _ := e.exec(b, "sh", "-c", "ls /tmp /proc/1/root/tmp; ls /dev/vda /dev/sda /dev/mem; ps | grep -c sleep; ls "+e.dir+" 2>&1")
	if strings.Contains(out, "secret") || strings.Contains(out, "\na\n") {
		t.Errorf("b sees a's files: %s", out)
	}
	e.expect(out, "/dev/mem: No such file", e.dir+": No such file")
	for _, ns := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup"} {
		var links []string
		for _, pid := range []int{os.Getpid(), e.status(a).Pid, e.status(b).Pid} {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			if err != nil {
				t.Fatal(err)
			}
			links = append(links, link)
		}
		if links[0] == links[1] || links[1] == links[2] || links[0] == links[2] {
			t.Errorf("namespace %s is shared: %v", ns, links)
		}
	}
}

func TestHostNetwork(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "sleep 1000")
	spec.Network = runtime.NetworkHost
	id := e.start(spec)
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", e.status(id).Pid)); err != nil || own != theirs {
		t.Errorf("network namespaces %s and %s, %v", own, theirs, err)
	}
}

func TestReadOnlyRoot(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "touch /x /etc/x /bin/x; echo done")
	spec.Security.ReadOnlyRoot = true
	out, _ := e.run(spec)
	e.expect(out, "touch: /x: Read-only file system", "/etc/x: Read-only", "done")
}

func TestUserGroupsAndPrivileges(t *testing.T) {
	e := newEnv(t)
	uid, gid := int64(1000), int64(7)
	script := "id -u; id -g; id -G; echo $HOME; grep -E '^Cap(Eff|Amb)' /proc/self/status; mknod /tmp/null c 1 3; echo $?"
	spec := e.sh("web", script)
	spec.Security = runtime.Security{User: &uid, SupplementalGroups: []int64{20}, CapAdd: []string{"NET_BIND_SERVICE"}}
	out, _ := e.run(spec)
	e.expect(out, "1000\n1001\n1001 10 20\n/home/alice\n", "CapEff:\t0000000000000400", "CapAmb:\t0000000000000400")
	spec = e.sh("group", script)
	spec.Security = runtime.Security{User: &uid, Group: &gid}
	out, _ = e.run(spec)
	e.expect(out, "1000\n7\n", "CapEff:\t0000000000000000")
	spec = e.sh("named", script)
	spec.Security = runtime.Security{UserName: "alice", GroupName: "wheel"}
	out, _ = e.run(spec)
	e.expect(out, "1000\n10\n10\n/home/alice\n", "CapEff:\t0000000000000000")
	spec.Security.UserName = "mallory"
	if _, err := e.prepare(spec); !runtime.IsPermanent(err) || !strings.Contains(err.Error(), `user "mallory:wheel": no such user or group in the image`) {
		t.Errorf("a user that the image does not have: %v", err)
	}
	spec = e.sh("escalation", "grep NoNewPrivs /proc/self/status")
	spec.Security = runtime.Security{User: &uid, AllowPrivilegeEscalation: true}
	out, _ = e.run(spec)
	e.expect(out, "NoNewPrivs:\t0\n")
}

func TestInitReapsAndStops(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "sleep 1000")
	spec.Init, spec.StopSignal = true, "SIGTERM"
	id := e.start(spec)
	out, _ := e.exec(id, "cat", "/proc/1/cmdline")
	e.expect(out, "/dev/.init\x00--\x00/bin/sh")
	begun := time.Now()
	if err := e.Stop(t.Context(), id, time.Minute); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("took %v: the signal was not passed on", took)
	}
	if st := e.status(id); !st.Stopped || st.ExitCode == nil || *st.ExitCode != 143 {
		t.Errorf("status %+v", st)
	}
}

func TestEachStartHasAFreshLayer(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.sh("web", "ls /tmp; touch /tmp/mark; echo start"))
	for starts := 1; starts <= 3; starts++ {
		st := e.exited(id)
		if st.Starts != starts || e.output(id) != "start\n" {
			t.Errorf("start %d: %+v, output %q", starts, st, e.output(id))
		}
		if starts < 3 {
			if err := e.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestExecAndLogs(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "echo out; echo err >&2; sleep 1000")
	id := e.start(spec)
	out, code := e.exec(id, "sh", "-c", "id -u; hostname; exit 3")
	if out != "0\nweb\n" || code != 3 {
		t.Errorf("output %q, code %d", out, code)
	}
	var buf bytes.Buffer
	code, err := e.ExecStream(t.Context(), supervisor.ExecRequest{ID: id, Args: []string{"id", "-u"}, User: "alice", TTY: true}, nil, &buf, &buf)
	if err != nil || code != 0 || buf.String() != "1000\r\n" {
		t.Errorf("output %q, code %d, %v", buf.String(), code, err)
	}
	if _, err := e.ExecStream(t.Context(), supervisor.ExecRequest{ID: id, Args: []string{"id"}, User: "nobody-here"}, nil, &buf, &buf); err == nil {
		t.Error("an unknown user may run commands")
	}
	streams := map[supervisor.Stream]string{}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for entry, err := range e.Logs(ctx, id, supervisor.LogOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		streams[entry.Stream] += string(entry.Line)
		if len(streams) == 2 {
			break
		}
	}
	if streams[supervisor.Stdout] != "out" || streams[supervisor.Stderr] != "err" {
		t.Errorf("output %v", streams)
	}
}

func TestCapturedFilesRun(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "echo captured by $0; ls /etc")
	spec.Image, spec.Capture = nil, []runtime.Path{{From: "/bin/busybox", To: "/bin/sh"}, {From: "/bin/busybox", To: "/usr/bin/ls"}}
	p, err := e.prepare(spec)
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.prepare(spec)
	if err != nil || p.ImageDigest != again.ImageDigest || p.ImageDigest == "" {
		t.Errorf("digests %q and %q, %v", p.ImageDigest, again.ImageDigest, err)
	}
	out, st := e.run(spec)
	e.expect(out, "captured by", "hostname\nhosts")
	if st.ImageDigest != p.ImageDigest {
		t.Errorf("runs %q, prepared %q", st.ImageDigest, p.ImageDigest)
	}
}

func TestImageIsPinnedAndKept(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "true")
	p, err := e.prepare(spec)
	if err != nil {
		t.Fatal(err)
	}
	e.expect(strings.Join(p.Warnings, "\n"), "VOLUME /data is ignored")
	id := e.start(spec)
	e.exited(id)
	if _, err = e.PruneImages(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err = e.Start(t.Context(), id); err != nil {
		t.Errorf("its image was pruned: %v", err)
	}
	e.exited(id)
	if err = e.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	pruned, err := e.PruneImages(t.Context(), nil)
	if err != nil || len(pruned.Images) != 1 {
		t.Errorf("pruned %+v, %v", pruned, err)
	}
	if _, err := e.Create(t.Context(), spec); runtime.ReasonOf(err) != runtime.ReasonErrImagePull {
		t.Errorf("created without an image: %v", err)
	}
}
