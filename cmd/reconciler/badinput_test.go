package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// Commits that cannot be used: each is refused with file and line, and what runs is not touched.
func TestBadCommitsTouchNothing(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"good.yaml": busybox("good", forever)})
	s.start("--repo", repo.Bare, "--node", "test")
	s.must("sync", "--timeout", patience)
	pid := s.rows()["good"].Pid
	commits := []brokenCommit{
		{"large file", sourcetest.Files{"bad.yaml": "# " + strings.Repeat("x", 100<<20)}, []string{"bad.yaml: cannot be read: too large"}},
		{"zero bytes", sourcetest.Files{"bad.yaml": "apiVersion: \x00\n"}, []string{"bad.yaml:1:13: holds a NUL byte"}},
		{"link out", sourcetest.Files{"bad.yaml": sourcetest.Symlink + "/etc/passwd"}, []string{"bad.yaml: "}},
	}
	for _, tt := range append(commits, brokenCommits(t)...) {
		want := tt.want[0]
		t.Run(tt.name, func(t *testing.T) {
			repo.CommitPush(tt.name, tt.files)
			r := s.do("sync", "--timeout", patience)
			if r.code != 1 || !strings.Contains(r.err, want) {
				t.Errorf("sync: status %d, want 1 and %q\n%s%s", r.code, want, r.out, r.err)
			}
			st := s.status()
			if st.Sync != report.OutOfSync || st.Reason != report.ReasonRejected || !strings.Contains(st.Message, want) {
				t.Errorf("status: %s %s %s", st.Sync, st.Reason, st.Message)
			}
			if good := s.rows()["good"]; good.Pid != pid || good.State != "Running" {
				t.Errorf("what ran was touched: %+v", good)
			}
			undo := sourcetest.Files{}
			for name := range tt.files {
				undo[name] = sourcetest.Removed
			}
			repo.CommitPush("undo", undo)
		})
	}
	s.must("sync", "--timeout", patience)
}

// foreignRegistry serves foreign:1, an image for another architecture, and nothing else.
func foreignRegistry(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	img, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "s390x"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/foreign:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return server.URL
}

// Containers that this server cannot run: each is held with its reason, and nobody waits for it. Where one of that name
// runs it goes on, because nothing is stopped before all that the new one needs is here.
func TestBadContainersHoldNobody(t *testing.T) {
	s := newServer(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := listener.Addr().String() // nobody listens there any more
	_ = listener.Close()
	registry := strings.TrimPrefix(foreignRegistry(t), "http://")
	image := func(name, ref string) string {
		return "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: " + name + "}\nspec: {image: \"" + ref + "\", network: none}\n"
	}
	bad := func(name string) sourcetest.Files {
		return sourcetest.Files{
			name + "registry.yaml": image(name+"registry", down+"/x:1"),
			name + "missing.yaml":  image(name+"missing", registry+"/nothing:1"),
			name + "arch.yaml":     image(name+"arch", registry+"/foreign:1"),
			name + "command.yaml":  strings.Replace(busybox(name+"command", "x"), "command: [/bin/busybox", "command: [/bin/bsybox", 1),
			name + "capture.yaml":  strings.Replace(busybox(name+"capture", "x"), "paths: [/bin/busybox]", "paths: [/etc/passwd]", 1),
			name + "host.yaml":     busybox(name+"host", "x", "mounts: [{path: /x, hostPath: /etc}]"),
			name + "secret.yaml":   busybox(name+"secret", "x", "mounts: [{path: /x, secret: elsewhere}]"),
		}
	}
	secret := "apiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: elsewhere}\nspec: {fromDirectory: /etc/ssl}\n"
	good := sourcetest.Files{"good.yaml": busybox("good", forever), "secret.yaml": secret}
	for file := range bad("was-") {
		good[file] = busybox(strings.TrimSuffix(file, ".yaml"), forever)
	}
	repo := repository(t, good)
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	before := s.rows()

	files := bad("was-")
	maps.Copy(files, bad("new-"))
	repo.CommitPush("all that can be wrong", files)
	for _, name := range []string{"registry", "missing", "arch", "command"} {
		s.awaitEvent([]string{"was-" + name}, "Failed", "replace")
		s.awaitEvent([]string{"new-" + name}, "Failed", "create")
	}
	// However short the time is, what it waits for is told.
	if r := s.do("sync", "--timeout", "1ms"); r.code != 1 || !strings.Contains(r.err, "sync: ") || !strings.Contains(r.err, "hint: ") {
		t.Errorf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
	rows := s.rows()
	if rows["good"].Pid != before["good"].Pid {
		t.Errorf("good was touched: %+v", rows["good"])
	}
	for name, want := range map[string]string{
		"registry": down, "missing": "nothing:1", "arch": "s390x", "command": "/bin/bsybox",
		"capture": "/etc/passwd", "host": "/etc", "secret": "/etc/ssl",
	} {
		was, made := rows["was-"+name], rows["new-"+name]
		for _, row := range []report.Row{was, made} {
			if row.Health != report.Degraded || row.Reason == "" || !strings.Contains(row.Message, want) {
				t.Errorf("%s: want %q in the message: %+v", name, want, row)
			}
		}
		if made.Pid != 0 {
			t.Errorf("%s runs: %+v", name, made)
		}
		if was.Pid != before["was-"+name].Pid || was.State != "Running" || was.Restarts != 0 {
			t.Errorf("%s: what ran was touched: %+v", name, was)
		}
	}
}

// An agent that cannot start says why and what to do, and ends with 1.
func TestAgentThatCannotStart(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no repository", nil, "--repo URL"},
		{"scheme", []string{"--repo", "gopher://example.com/x"}, "gopher"},
		{"git scheme", []string{"--repo", "git://example.com/x.git"}, "https or ssh"},
		{"token over http", []string{"--repo", "http://git.example.com/x.git", "--git-token-file", "/dev/null"}, "use https"},
		{"path out of the repository", []string{"--repo", repo.Bare, "--path", "../x"}, "leaves the repository"},
		{"share", []string{"--repo", repo.Bare, "--max-remove", "half"}, "--max-remove"},
		{"mirror", []string{"--repo", repo.Bare, "--registry-mirror", "x"}, "HOST=URL"},
		{"run directory too long", []string{"--repo", repo.Bare, "--run-dir", "/tmp/" + strings.Repeat("x", 120)}, "shorter --run-dir"},
	} {
		r := s.do(append([]string{"agent"}, tt.args...)...)
		if r.code != 1 || !strings.Contains(r.err, tt.want) {
			t.Errorf("%s: status %d, want 1 and %q\n%s", tt.name, r.code, tt.want, r.err)
		}
	}
}

// What the source says shows in status, and what runs goes on.
func TestBadSources(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	good := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	pid := s.rows()["a"].Pid
	good.stop(syscall.SIGTERM)
	empty := sourcetest.NewRepo(t)
	sshd := sourcetest.SSHD(t, sourcetest.SSHOptions{})
	nobody := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(nobody, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "key")
	sourcetest.NewKey(t, wrong)
	ssh := fmt.Sprintf("ssh://%s@%s%s", sshd.User, sshd.Addr, repo.Bare)
	for _, tt := range []struct {
		name string
		args []string
		want string
		code int
	}{
		{"no such place", []string{"--repo", "/no/such/place.git"}, "/no/such/place.git", 1},
		{"branch", []string{"--repo", repo.Bare, "--branch", "mian"}, "there is no branch mian; there are: main", 3},
		{"path", []string{"--repo", repo.Bare, "--path", "nowhere"}, "nowhere", 3},
		{"empty", []string{"--repo", empty.Bare}, "empty", 3},
		{"host key", []string{"--repo", ssh, "--git-ssh-key", sshd.Key, "--git-known-hosts", nobody}, "host key", 1},
		{"key", []string{"--repo", ssh, "--git-ssh-key", wrong, "--git-known-hosts", sshd.KnownHosts}, "authentication failed", 1},
		{"server down", []string{"--repo", "http://127.0.0.1:1/x.git"}, "refused", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			agent := s.start(tt.args...)
			r := s.do("sync", "--timeout", patience)
			if r.code != tt.code || !strings.Contains(r.err, tt.want) || !strings.Contains(r.err, "hint: ") {
				t.Errorf("sync: status %d, want %d, %q and a hint\n%s%s", r.code, tt.code, tt.want, r.out, r.err)
			}
			if st := s.status(); st.LastFetch.OK || !strings.Contains(st.LastFetch.Error, tt.want) || st.NextFetch == nil {
				t.Errorf("status: %+v", st)
			}
			if a := s.rows()["a"]; a.Pid != pid {
				t.Errorf("what ran was touched: %+v", a)
			}
			agent.stop(syscall.SIGTERM)
		})
	}
	agent := s.start("--repo", ssh, "--git-ssh-key", sshd.Key, "--git-known-hosts", sshd.KnownHosts)
	s.must("sync", "--timeout", patience)
	agent.stop(syscall.SIGTERM)
}

// Two agents, another instance's directory, another node: each is refused before anything is touched.
func TestWrongServer(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{
		"a.yaml":    busybox("a", forever),
		"node.yaml": "apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n1}\n",
	})
	first := s.start("--repo", repo.Bare, "--node", "n1")
	s.must("sync", "--timeout", patience)
	pid := s.rows()["a"].Pid
	if r := s.do("agent", "--repo", repo.Bare, "--node", "n1"); r.code != 1 || !strings.Contains(r.err, "in use by another agent") || !strings.Contains(r.err, "hint: ") {
		t.Errorf("second agent: status %d\n%s", r.code, r.err)
	}
	if r := s.do("agent", "--repo", repo.Bare, "--node", "n1", "--instance", "somebody-else"); r.code != 1 || !strings.Contains(r.err, s.instance) {
		t.Errorf("another instance on this state directory: status %d\n%s", r.code, r.err)
	}
	first.stop(syscall.SIGTERM)

	second := s.start("--repo", repo.Bare, "--node", "n2")
	if r := s.do("sync", "--timeout", patience); r.code != 3 || !strings.Contains(r.err, "UnknownNode") {
		t.Errorf("a node that no Node manifest names: status %d\n%s", r.code, r.err)
	}
	if a := s.rows()["a"]; a.Pid != pid {
		t.Errorf("what ran was touched: %+v", a)
	}
	second.stop(syscall.SIGTERM)
}

// Without root each verb that needs it says so, and what to do instead.
func TestWithoutRoot(t *testing.T) {
	s := newServer(t)
	if err := os.Chmod(filepath.Dir(s.bin), 0o755); err != nil { // so that nobody may run it
		t.Fatal(err)
	}
	for _, verb := range []string{"agent --repo /x", "ps", "status", "logs a", "exec a -- x", "sync", "plan", "down", "image ls", "volume ls", "approve x", "describe a", "history", "events"} {
		cmd := exec.Command(s.bin, strings.Fields(verb)...)
		cmd.Env, cmd.Dir = s.env, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, _ := cmd.CombinedOutput()
		want := 1
		if strings.HasPrefix(verb, "exec") {
			want = 125
		}
		if cmd.ProcessState.ExitCode() != want || !strings.Contains(string(out), "root is needed") || !strings.Contains(string(out), "hint: run it with sudo") {
			t.Errorf("%s: status %d\n%s", verb, cmd.ProcessState.ExitCode(), out)
		}
	}
}

// What a sync without an agent is about to make is not taken away beside it: it would come back.
func TestDownBesideASync(t *testing.T) {
	s := newServer(t)
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hangs.Close() }()
	repo := repository(t, sourcetest.Files{"a.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: a}\n" +
		"spec: {image: \"" + hangs.Addr().String() + "/a:1\", network: none}\n"})
	sync := exec.Command(s.bin, "sync", "--repo", repo.Bare, "--timeout", "10m")
	sync.Env = s.env
	if err = sync.Start(); err != nil {
		t.Fatal(err)
	}
	pulls, err := hangs.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if r := s.do("down"); r.code != 1 || !strings.Contains(r.err, fmt.Sprintf("pid %d", sync.Process.Pid)) || !strings.Contains(r.err, "hint: wait") {
		t.Errorf("down: status %d\n%s", r.code, r.err)
	}
	if err = errors.Join(sync.Process.Signal(syscall.SIGTERM), pulls.Close()); err != nil {
		t.Error(err)
	}
	_ = sync.Wait() // it was told to end
}
