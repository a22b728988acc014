package linux_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"reconciler/runtime"
)

const canary = "canary-5b1f09"

// write makes a file below the test's directory.
func (e *env) write(name, content string) string {
	e.Helper()
	path := filepath.Join(e.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		e.Fatal(err)
	}
	return path
}

// expect fails for every want that is not in out.
func (e *env) expect(out string, wants ...string) {
	e.Helper()
	for _, want := range wants {
		if !strings.Contains(out, want) {
			e.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestEveryKindOfMount(t *testing.T) {
	e := newEnv(t)
	host := filepath.Dir(e.write("host/dir/file", "of the host"))
	e.write("secret/web/token", canary)
	files := &runtime.Files{Name: "web", Content: map[string][]byte{"app.conf": []byte("workers = 4")}}
	spec := e.sh("web", `
		cat /etc/web/app.conf /etc/one.conf /run/secrets/web/token /h/file /srv/seed; echo
		ls -ld /scratch /srv/seed
		df -m /scratch | tail -1
		for f in /etc/web/app.conf /etc/one.conf /run/secrets/web/token /hro/file /etc/hosts; do echo x 2>/dev/null >>$f || echo ro $f; done
		echo changed >/h/file; echo kept >/srv/kept; echo x >/scratch/x && echo wrote
		grep -E ' (/h|/srv|/scratch|/run/secrets/web|/etc/one.conf) ' /proc/mounts
	`)
	spec.Mounts = []runtime.Mount{
		{Path: "/etc/web", Files: files},
		{Path: "/etc/one.conf", Files: &runtime.Files{Name: "web", Key: "app.conf", Content: files.Content}},
		{Path: "/run/secrets/web", Secret: &runtime.Secret{Name: "web", Directory: e.dir + "/secret/web", Mode: 0o400}},
		{Path: "/h", HostPath: host},
		{Path: "/hro", HostPath: host, ReadOnly: true},
		{Path: "/srv", Volume: &runtime.Volume{Name: "data"}},
		{Path: "/scratch", Tmpfs: &runtime.Tmpfs{Size: 8 << 20}},
	}
	spec.Security.ReadOnlyRoot = true
	out, _ := e.run(spec)
	e.expect(out, "workers = 4workers = 4"+canary+"of the hostseed", "drwxrwxrwt", "1000", " 8 ", "wrote",
		"ro /etc/web/app.conf", "ro /etc/one.conf", "ro /run/secrets/web/token", "ro /hro/file", "ro /etc/hosts")
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) == 6 && strings.HasPrefix(fields[1], "/") && strings.Contains(line, "rel") {
			e.expect(line, "nosuid", "nodev")
		}
	}
	if data, err := os.ReadFile(host + "/file"); err != nil || string(data) != "changed\n" {
		t.Errorf("the host's file holds %q, %v", data, err)
	}
	volumes, err := e.Volumes(t.Context())
	if err != nil || len(volumes) != 1 || volumes[0].Orphan || volumes[0].Owner != "default/web" {
		t.Errorf("volumes %+v, %v", volumes, err)
	}
	if data, err := os.ReadFile(volumes[0].Path + "/kept"); err != nil || string(data) != "kept\n" {
		t.Errorf("the volume's file holds %q, %v", data, err)
	}
}

func TestSecretsNeverReachTheDisk(t *testing.T) {
	e := newEnv(t)
	e.write("secret/web/token", canary+"\n")
	spec := e.sh("web", "[ \"$TOKEN\" = "+canary[:6]+"-5b1f09 ] && cat /run/secrets/web/token | wc -c; sleep 1000")
	spec.Env = []runtime.EnvVar{{Name: "TOKEN", Secret: &runtime.SecretKey{Directory: e.dir + "/secret/web", Key: "token"}}}
	spec.Mounts = []runtime.Mount{{Path: "/run/secrets/web", Secret: &runtime.Secret{Name: "web", Directory: e.dir + "/secret/web"}}}
	spec.Command[2] = strings.ReplaceAll(spec.Command[2], canary, `"canary""-5b1f09"`)
	id := e.start(spec)
	if out, code := e.exec(id, "sh", "-c", "echo $TOKEN"); out != canary+"\n" || code != 0 {
		t.Errorf("TOKEN is %q", out)
	}
	var inMemory bool
	err := filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == e.dir+"/secret" || d.Name() == "rootfs":
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if !bytes.Contains(data, []byte(canary)) {
			return err
		}
		if strings.HasPrefix(path, e.cfg.RunDir+"/containers/") { // of which rootfs' tests say that it is a tmpfs
			inMemory = true
		} else {
			t.Errorf("%s holds the secret", path)
		}
		return err
	})
	if err != nil || !inMemory {
		t.Errorf("walked %s: %v, found in memory: %v", e.dir, err, inMemory)
	}
	if data, err := os.ReadFile(e.cfg.StateDir + "/containers/" + string(id) + "/config.json"); err != nil || !bytes.Contains(data, []byte("TOKEN=secret:")) {
		t.Errorf("the kept config.json has no placeholder: %v", err)
	}
}

// Later sources win over earlier ones and env over all; what cannot name a variable is left out with a warning.
func TestVariablesFromWholeSources(t *testing.T) {
	e := newEnv(t)
	e.write("secret/app/TOKEN", canary+"\n")
	e.write("secret/app/MODE", "secret")
	e.write("secret/app/LEVEL", "secret")
	e.write("secret/app/not a name", "x")
	spec := e.sh("web", "sleep 1000")
	spec.EnvFrom = []runtime.EnvSource{
		{Values: map[string]string{"MODE": "first", "ONLY": "here"}},
		{SecretDirectory: e.dir + "/secret/app"},
		{Values: map[string]string{"LEVEL": "last"}},
	}
	spec.Env = []runtime.EnvVar{{Name: "OWN", Value: "1"}}
	id := e.start(spec)
	if out, code := e.exec(id, "sh", "-c", "echo $TOKEN $MODE $ONLY $LEVEL $OWN"); out != canary+" secret here last 1\n" || code != 0 {
		t.Errorf("the variables are %q, exit code %d", out, code)
	}
	data, err := os.ReadFile(e.cfg.StateDir + "/containers/" + string(id) + "/config.json")
	if err != nil || bytes.Contains(data, []byte(canary)) || !bytes.Contains(data, []byte("TOKEN=secret:")) {
		t.Errorf("the kept config.json holds the secret or no placeholder: %v", err)
	}
	statuses, err := e.List(t.Context())
	if err != nil || len(statuses) != 1 || !slices.ContainsFunc(statuses[0].Warnings, func(w string) bool { return strings.Contains(w, `"not a name"`) }) {
		t.Errorf("no warning of the key that is left out: %+v, %v", statuses, err)
	}
}

func TestVolumeOutlivesItsContainerAndIsGuarded(t *testing.T) {
	e := newEnv(t)
	mount := []runtime.Mount{{Path: "/data", Volume: &runtime.Volume{Name: "data"}}}
	spec := e.sh("web", "cat /data/notexec /data/kept; echo kept >/data/kept")
	spec.Mounts = mount
	id := e.start(spec)
	e.exited(id)
	other := e.sh("api", "true")
	other.Mounts = mount
	_, err := e.prepare(other)
	if runtime.ReasonOf(err) != runtime.ReasonVolumeConflict || !runtime.IsPermanent(err) || !strings.Contains(err.Error(), "default/web") {
		t.Errorf("another container may have it: %v", err)
	}
	if err := e.RemoveVolume(t.Context(), "default", "data"); err == nil || !strings.Contains(err.Error(), "default/web") {
		t.Errorf("removed a volume in use: %v", err)
	}
	if err := e.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if volumes, err := e.Volumes(t.Context()); err != nil || len(volumes) != 1 || !volumes[0].Orphan {
		t.Errorf("volumes %+v, %v", volumes, err)
	}
	out, _ := e.run(spec)
	e.expect(out, "xkept") // the image's content, from the first time, and what the first one wrote
	if err := e.Remove(t.Context(), e.only().ID); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveVolume(t.Context(), "default", "data"); err != nil {
		t.Error(err)
	}
}

// only is the one container that there is.
func (e *env) only() runtime.Status {
	e.Helper()
	list, err := e.List(e.Context())
	if err != nil || len(list) != 1 {
		e.Fatalf("containers %+v, %v", list, err)
	}
	return list[0]
}
