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
		_, _ = e.ExecStream(t.Context(), supervisor.ExecRequest{ID: id, Args: []string{"/tmp/evil"}}, nil, io.Discard, io.Discard)
		_, _ = e.ExecStream(t.Context(), supervisor.ExecRequest{ID: id, Args: []string{"/proc/self/exe", "supervisor"}}, nil, io.Discard, io.Discard)
	}
	// The same as process 1: what is in a volume is not known before.
	shared := []runtime.Mount{{Path: "/vol", Volume: &runtime.Volume{Name: "shared", Shared: true}}}
	maker := e.sh("maker", `printf '#!/proc/self/exe\n' >/vol/evil; chmod 755 /vol/evil; ln -s /proc/self/exe /vol/link`)
	maker.Mounts = shared
	e.run(maker)
	for _, command := range []string{"/vol/evil", "/vol/link"} {
		itself := e.spec("itself", command, "supervisor")
		itself.Mounts = shared
		trial := e.create(itself)
		if err := e.Start(t.Context(), trial); err == nil {
			e.exited(trial)
		}
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
		code, err := e.ExecStream(t.Context(), supervisor.ExecRequest{
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
