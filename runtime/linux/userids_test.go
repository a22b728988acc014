package linux_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"reconciler/runtime"
	"reconciler/runtime/idrange"
	"reconciler/runtime/linux"
)

// hostUID is who process 1 of a container is on this server.
func (e *env) hostUID(id runtime.ID) uint32 {
	e.Helper()
	return owner(e, "/proc/"+strconv.Itoa(e.status(id).Pid))
}

func owner(t testing.TB, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}

// Root inside is nobody outside, and not the nobody that root of another container is.
func TestOwnUserIDs(t *testing.T) {
	e := newEnv(t)
	script := "cat /proc/self/uid_map; echo to stdout >/dev/stdout; ls -ln /bin/busybox /srv/seed /etc/hosts; touch /tmp/x; chown 65535 /tmp/x; sleep 1000"
	a, b := e.start(e.sh("a", script)), e.start(e.sh("b", script))
	seen := map[uint32]bool{}
	for _, id := range []runtime.ID{a, b} {
		st := e.status(id)
		if uid := e.hostUID(id); st.FirstID == 0 || uid != st.FirstID || seen[uid] {
			t.Errorf("%s has ids from %d on, its root is %d here", id, st.FirstID, uid)
		}
		seen[st.FirstID] = true
		e.said(id, "to stdout")
		if out, code := e.exec(id, "sh", "-c", "id -u; stat -c %u /proc/1 /bin /tmp/x; echo out >/dev/stdout"); out != "0\n0\n0\n65535\nout\n" || code != 0 {
			t.Errorf("exec sees %q", out)
		}
		e.expect(e.output(id), fmt.Sprintf("%10d %10d %10d\n", 0, st.FirstID, idrange.Size), " 0        0 ", " 1000     1000 ")
	}
	// The layers are shared and as they were.
	layers, err := filepath.Glob(e.cfg.StateDir + "/layers/*/*/bin/busybox")
	if err != nil || len(layers) != 1 || owner(t, layers[0]) != 0 {
		t.Errorf("layers %v, %v", layers, err)
	}
	before := e.status(a).FirstID
	e.restart(a)
	if st := e.status(a); st.FirstID != before {
		t.Errorf("after a restart it has ids from %d on, before from %d", st.FirstID, before)
	}
	e.killSupervisor()
	if err := e.Start(t.Context(), b); err != nil { // which runs: this only brings a supervisor back
		t.Fatal(err)
	}
	if out, code := e.exec(b, "id", "-u"); out != "0\n" || code != 0 {
		t.Errorf("exec by a new supervisor: %q, %d", out, code)
	}
}

func (e *env) restart(id runtime.ID) {
	e.Helper()
	if err := e.Stop(e.Context(), id, 0); err != nil {
		e.Fatal(err)
	}
	if err := e.Start(e.Context(), id); err != nil {
		e.Fatal(err)
	}
}

// A volume and a host path have the ids that are seen inside, so that they outlive the range of who wrote them.
func TestFilesKeepTheirOwnersInAnotherRange(t *testing.T) {
	e := newEnv(t)
	host := filepath.Dir(e.write("host/dir/file", "x"))
	if err := os.Chown(host, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	mounts := []runtime.Mount{
		{Path: "/srv", Volume: &runtime.Volume{Name: "data", Shared: true}},
		{Path: "/h", HostPath: host},
		{Path: "/etc/conf", Files: &runtime.Files{Name: "c", Content: map[string][]byte{"k": []byte("v")}}},
	}
	writer := e.sh("writer", "touch /srv/root /h/root; chown 1000 /srv /srv/root; stat -c %u /srv/seed /srv/root /h /h/file /etc/conf/k; sleep 1000")
	writer.Mounts = mounts
	first := e.start(writer)
	e.said(first, "0")
	if out := e.output(first); out != "1000\n1000\n1000\n0\n0\n" {
		t.Errorf("the writer sees %q", out)
	}
	reader := e.sh("reader", "stat -c %u /srv /srv/seed /srv/root /h/root; echo more >>/srv/root && echo done; sleep 1000")
	reader.Mounts, reader.Security.User = mounts[:2], new(int64(1000))
	second := e.start(reader)
	e.said(second, "done")
	if out := e.output(second); out != "1000\n1000\n1000\n0\ndone\n" {
		t.Errorf("the reader sees %q", out)
	}
	if e.status(first).FirstID == e.status(second).FirstID {
		t.Error("two containers have the same ids")
	}
	volumes, err := e.Volumes(t.Context())
	if err != nil || len(volumes) != 1 || owner(t, volumes[0].Path+"/root") != 1000 || owner(t, host+"/root") != 0 {
		t.Errorf("on this server the files have other owners: %+v, %v", volumes, err)
	}
}

// Whose manifest says so has the server's ids, and who joins its network too.
func TestUserIDsOfTheServer(t *testing.T) {
	e := newEnv(t)
	asked, joined := e.sh("asked", "sleep 1000"), e.sh("joined", "sleep 1000")
	asked.Security.HostUsers = new(true)
	joined.Network = runtime.NetworkHost
	for _, spec := range []runtime.Spec{asked, joined} {
		id := e.start(spec)
		if st := e.status(id); st.FirstID != 0 || e.hostUID(id) != 0 || len(st.Warnings) != 1 { // of the image's VOLUME
			t.Errorf("%s has %+v", spec.Name, st)
		}
	}
}

// Where files cannot be shown with other ids, a container that must have its own is refused, and one that need not says
// that it has none.
func TestUserIDsThatCannotBe(t *testing.T) {
	closed := func(cfg *linux.Config) {
		if err := os.Mkdir(filepath.Dir(cfg.RunDir)+"/closed", 0o700); err != nil {
			t.Fatal(err)
		}
		cfg.RunDir = filepath.Dir(cfg.RunDir) + "/closed/run"
		cfg.Self[3] = cfg.RunDir
	}
	e := newEnv(t, closed)
	must := e.sh("must", "sleep 1000")
	must.Security.HostUsers = new(false)
	_, err := e.prepare(must)
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !runtime.IsPermanent(err) || !strings.Contains(err.Error(), "/closed: only root may pass") {
		t.Errorf("got %v", err)
	}
	id := e.start(e.sh("may", "sleep 1000"))
	st := e.status(id)
	if st.FirstID != 0 || !strings.Contains(strings.Join(st.Warnings, "\n"), "none of its own are possible here") {
		t.Errorf("it has %+v", st)
	}
}
