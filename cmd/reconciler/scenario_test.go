package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/image/imagetest"
)

// world is what the steps of the walk work with: a repository behind HTTP, a registry, and files of this server.
type world struct {
	*server
	repo            *sourcetest.Repo
	url, ref        string
	layer, manifest v1.Hash // of the image in the registry: the digest of its lower layer's blob, and its own
	diff            v1.Hash // of the lower layer, unpacked
	first, second   int     // ports of this server
	archive         string  // an image, as docker saves it
}

func newWorld(s *server) *world {
	t := s.t
	w := &world{server: s}
	host := imagetest.Registry(t, imagetest.RegistryOptions{})
	w.ref = host + "/shop/pulled:1"
	img := imagetest.Busybox(t, v1.Config{Entrypoint: []string{"/bin/sh", "-c", forever}}, imagetest.File{Name: "etc/more", Body: "more"})
	imagetest.Push(t, w.ref, img)
	layers, err := img.Layers()
	if err == nil {
		w.layer, err = layers[0].Digest()
	}
	if err == nil {
		w.diff, err = layers[0].DiffID()
	}
	if err == nil {
		w.manifest, err = img.Digest()
	}
	if err != nil {
		t.Fatal(err)
	}
	boxed := imagetest.Busybox(t, v1.Config{}, imagetest.File{Name: "home/app/welcome", Body: "welcome"})
	saved, err := os.ReadFile(imagetest.Archive(t, "box:1", boxed))
	if err != nil {
		t.Fatal(err)
	}
	w.archive = string(saved)
	w.first, w.second = freePort(t), freePort(t)
	sourcetest.WriteTree(t, s.dir, sourcetest.Files{"secrets/web/token": "s3cr3t", "host/file": "of the server"})
	w.repo = sourcetest.NewRepo(t)
	w.repo.CommitPush("nothing", sourcetest.Files{"README.md": "a fleet"})
	w.url = sourceServer(t, w.repo)
	return w
}

// args are those of the agent.
func (w *world) args() []string {
	return []string{
		"--repo", w.url, "--allow-host-path", filepath.Join(w.dir, "host"), "--allow-device", "/dev/loop-control",
		"--max-remove", "100%", "--interval", "1h",
	}
}

// begin makes the state directory of a server that has seen better days: a full journal, a log that is too long, and of
// what comes from elsewhere the half or the wrong.
func (w *world) begin(cycle int) {
	t := w.t
	t.Helper()
	w.repo.CommitPush("nothing again", sourcetest.Files{
		"live.yaml": sourcetest.Removed, "by.yaml": sourcetest.Removed, "web.yaml": sourcetest.Removed, "box.yaml": sourcetest.Removed, "box.tar": sourcetest.Removed, "last.yaml": sourcetest.Removed,
		"pulled.yaml": sourcetest.Removed, "README.md": fmt.Sprint("a fleet, for the ", cycle, ". time"),
	})
	store, err := journal.Open(w.state())
	if err != nil {
		t.Fatal(err)
	}
	note := journal.Record{Time: time.Now(), Type: journal.TypeNote, Message: strings.Repeat("long ago ", 5000)}
	for store.BytesWritten() < 8<<20-100<<10 {
		if err := store.Append(false, note); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	for name, content := range map[string]string{
		"state.json":                                    "{torn",
		".state.json.1.tmp":                             "",
		"supervisor.log":                                strings.Repeat("level=INFO msg=\"long ago\"\n", 50_000),
		"images/index.json":                             "{torn",
		"images/.index.json.1.tmp":                      "",
		"layers/aside-another/1/fs/half":                "",
		"images/tmp/1/half":                             "",
		"images/ingest/sha256-" + w.layer.Hex:           "wrong bytes",
		"images/ingest/sha256-" + w.diff.Hex[1:]:        "broken off",
		"images/blobs/sha256/" + w.manifest.Hex:         "corrupt",
		"layers/" + w.diff.Hex + "/fs/half":             "",
		"containers/.new-1/spec.json":                   "",
		"containers/left-0/run.json":                    "",
		"snapshots/gone-0/upper/file":                   "",
		"repo.git.old-1/HEAD":                           "",
		"volumes/.removing/1/volume/left":               "", // of a removal that was cut short
		"network/.leases.json.1.tmp":                    "",
		"images/blobs/sha256/." + w.diff.Hex + ".1.tmp": "",
	} {
		path := filepath.Join(w.state(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
}

// web uses all that a container can have of this server.
func (w *world) web(port int, ingress, egress, size, memory string) string {
	text := busybox("web", "for i in $(busybox seq 2000); do echo line $i; done; exec busybox httpd -f -p 8080 -h /etc/page",
		"mounts:",
		"  - {path: /etc/page, config: page}",
		"  - {path: /etc/one, config: page, key: index.html}",
		"  - {path: /etc/live, config: live, onChange: none}",
		"  - {path: /run/secrets/web, secret: web}",
		"  - {path: /data, volume: {name: data, size: "+size+"}}",
		"  - {path: /host, hostPath: "+filepath.Join(w.dir, "host")+"}",
		"  - {path: /tmp, tmpfs: 1Mi}",
		"devices: [{path: /dev/loop-control, permissions: r}]",
		"logs: {maxSize: 4Ki, maxFiles: 2}",
		fmt.Sprintf("ports: [{name: http, containerPort: 8080, hostPort: %d}, {name: udp, containerPort: 53, hostPort: %d, protocol: UDP}]", port, port),
		fmt.Sprintf("resources: {limits: {memory: %s, disk: 8Mi%s%s}}", memory, ingress, egress),
	)
	return strings.Replace(text, "network: none", "network: bridge", 1) + "---\n" + page + "---\n" +
		"apiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: web}\nspec: {fromDirectory: " + w.secret + "/web}\n"
}

// live is what web gets while it runs.
func live(data string) string {
	return "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: live}\ndata: {" + data + "}\n"
}

// box is an image of the repository, a volume with the image's files, and a process 1 that has to be killed.
func box(n int) string {
	return fmt.Sprintf(`apiVersion: reconciler/v1
kind: Container
metadata: {name: box}
spec:
  image: docker-archive:box.tar
  command: [/bin/sh, -c, "trap '' TERM; while true; do sleep 1; done"]
  env: {N: %d}
  mounts: [{path: /home/app, volume: home}]
  terminationGracePeriodSeconds: 1
`, n)
}

func (w *world) pulled() string {
	return "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: pulled}\nspec: {image: \"" + w.ref + "\", init: true, network: none, terminationGracePeriodSeconds: 1}\n"
}

// unstartable has a command that is there and cannot be executed.
const unstartable = `apiVersion: reconciler/v1
kind: Container
metadata: {name: bad}
spec:
  capture: {paths: [/bin/busybox]}
  command: [/etc/page/index.html]
  mounts: [{path: /etc/page, config: page}]
`

// step is one step of the walk. It is done however often somebody dies in it.
type step struct {
	name    string
	touches []string      // whose process it may end
	begin   func(w *walk) // nobody is to die in it
	do      func(w *walk)
}

// pushes is a step that makes a commit the state of the server.
func pushes(name string, touches []string, files func(w *world) sourcetest.Files) step {
	return step{
		name: name, touches: touches,
		begin: func(w *walk) { w.world.repo.CommitPush(name+"\n\nReconciler-Allow: remove", files(w.world)) },
		do:    func(w *walk) { w.converge() },
	}
}

// runs is a step that carries out commands of the program until each has ended well.
func runs(name string, touches []string, commands ...string) step {
	return step{name: name, touches: touches, begin: func(*walk) {}, do: func(w *walk) {
		for _, line := range commands {
			w.insist(strings.Fields(line)...)
		}
	}}
}

// insist runs a command until it ended well.
func (w *walk) insist(args ...string) {
	w.t.Helper()
	var r result
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if r = w.do(args...); r.code == 0 {
			return
		}
	}
	w.t.Fatalf("%v: status %d\n%s%s\n%s", args, r.code, r.out, r.err, w.told())
}

// converge goes on until an agent is alive and says that everything is done, and a supervisor answers.
func (w *walk) converge() {
	w.t.Helper()
	var r result
	// No event says that the agent has seen the supervisor's end.
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if r = w.settle(); r.code == 0 && w.alive() && (w.supervisor().Pid != 0 || len(w.rows()) == 0) {
			return
		}
	}
	w.t.Fatalf("it does not converge, or no supervisor comes back: status %d\n%s%s\n%s\n%s", r.code, r.out, r.err, w.do("ps", "-A").out, w.told())
}

// scenario is what happens to a server in its life.
var scenario = []step{
	pushes("first start", nil, func(*world) sourcetest.Files {
		return sourcetest.Files{"by.yaml": busybox("by", forever)}
	}),
	pushes("create", nil, func(w *world) sourcetest.Files {
		return sourcetest.Files{"web.yaml": w.web(w.first, ", ingress: 100M", ", egress: 100M", "16Mi", "64Mi"), "live.yaml": live("a: one, b: one")}
	}),
	pushes("create from a registry", nil, func(w *world) sourcetest.Files {
		return sourcetest.Files{"pulled.yaml": w.pulled()}
	}),
	pushes("create from an archive", nil, func(w *world) sourcetest.Files {
		return sourcetest.Files{"box.yaml": box(1), "box.tar": w.archive}
	}),
	pushes("update", nil, func(w *world) sourcetest.Files {
		// A pack that did not arrive, of a process that died.
		torn := filepath.Join(w.state(), "repo.git/objects/pack/tmp_pack_1")
		if err := os.WriteFile(torn, nil, 0o600); err != nil {
			w.t.Fatal(err)
		}
		return sourcetest.Files{"web.yaml": w.web(w.second, ", ingress: 50M", "", "16Mi", "96Mi")}
	}),
	pushes("resize", []string{"web"}, func(w *world) sourcetest.Files {
		return sourcetest.Files{"web.yaml": w.web(w.second, ", ingress: 50M", "", "24Mi", "96Mi")}
	}),
	pushes("swap", nil, func(*world) sourcetest.Files { return sourcetest.Files{"live.yaml": live("a: two, c: two")} }),
	pushes("swap again", nil, func(*world) sourcetest.Files { return sourcetest.Files{"live.yaml": live("c: three")} }),
	pushes("replace", []string{"box"}, func(*world) sourcetest.Files { return sourcetest.Files{"box.yaml": box(2)} }),
	{name: "crash", touches: []string{"pulled"}, begin: func(*walk) {}, do: func(w *walk) {
		pid := w.rows()["pulled"].Pid
		_ = unix.Kill(pid, unix.SIGKILL) // it may have died of somebody's death
		for end := time.Now().Add(time.Minute); pid != 0 && w.rows()["pulled"].Pid == pid && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond) // until that is known
		}
		w.awaitRunning("pulled")
	}},
	{name: "exec", begin: func(*walk) {}, do: func(w *walk) {
		w.insist("exec", "web", "--", "/bin/busybox", "true")
		w.converge()
	}},
	{name: "supervisor killed", begin: func(*walk) {}, do: func(w *walk) {
		if pid := w.supervisor().Pid; pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		w.converge()
	}},
	{name: "agent stopped", begin: func(*walk) {}, do: func(w *walk) {
		w.stop(syscall.SIGTERM)
		w.converge()
	}},
	{
		name:  "start that fails",
		begin: func(w *walk) { w.world.repo.CommitPush("bad", sourcetest.Files{"bad.yaml": unstartable}) },
		do: func(w *walk) {
			for range 20 {
				if r := w.settle(); r.code == 1 && strings.Contains(r.err, "index.html") {
					return
				}
			}
			w.t.Fatalf("bad does not fail:\n%s\n%s", w.do("ps", "-A").out, w.told())
		},
	},
	pushes("remove", []string{"web", "box", "pulled"}, func(*world) sourcetest.Files {
		return sourcetest.Files{
			"web.yaml": sourcetest.Removed, "box.yaml": sourcetest.Removed, "pulled.yaml": sourcetest.Removed, "bad.yaml": sourcetest.Removed,
			"live.yaml": sourcetest.Removed,
		}
	}),
	runs("clean", nil, "volume ls", "image prune"),
	{name: "remove volumes", begin: func(*walk) {}, do: func(w *walk) {
		for _, name := range []string{"data", "home"} {
			for strings.Contains(w.do("volume", "ls").out, name) {
				w.do("volume", "rm", name)
			}
		}
	}},
	pushes("remove the last", []string{"by"}, func(*world) sourcetest.Files {
		return sourcetest.Files{"by.yaml": sourcetest.Removed, "last.yaml": strings.Replace(busybox("last", forever), "network: none", "network: bridge", 1)}
	}),
	{name: "down", touches: []string{"last"}, begin: func(*walk) {}, do: func(w *walk) {
		w.stop(syscall.SIGTERM)
		w.insist("down", "--volumes", "--yes")
	}},
}

// awaitRunning waits until a container runs that is not the same process any more.
func (w *walk) awaitRunning(name string) {
	w.t.Helper()
	w.converge()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if w.alive() && w.rows()[name].State == "Running" {
			w.converge()
			return
		}
		w.retry()
	}
	w.t.Fatalf("%s does not come back\n%s", name, w.told())
}
