package rootfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
)

var web = runtime.Name{Namespace: "shop", Name: "web"}

func nobody(string, string) []runtime.Name { return nil }

type bench struct {
	*rootfs.Store
	t               testing.TB
	state, run, dir string
	layer           string
}

// newStore makes a store whose leftovers fail the test.
func newStore(t testing.TB) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: dir, state: dir + "/state", run: dir + "/run", layer: dir + "/layer"}
	for _, d := range []string{b.state, b.run, b.layer + "/etc", b.layer + "/srv", dir + "/host", dir + "/secret"} {
		if err = os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.write("layer/etc/from-image", "image")
	b.write("layer/srv/seed", "seed")
	b.Store, err = rootfs.Open(rootfs.Options{
		StateDir: b.state, RunDir: b.run,
		AllowHostPath: []string{dir + "/host", b.state, b.run}, AllowSecretPath: []string{dir + "/secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if ids, err := b.IDs(); err != nil || len(ids) > 0 {
			t.Errorf("left behind: %v, %v", ids, err)
			for _, id := range ids {
				_ = b.Teardown(id)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if m := b.mounts(); len(m) > 0 {
			t.Errorf("mounts left behind: %v", m)
		}
	})
	return b
}

func (b *bench) write(name, content string) string {
	b.t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *bench) mounts() []string {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(b.dir))
	if err != nil {
		b.t.Fatal(err)
	}
	var paths []string
	for _, i := range infos {
		paths = append(paths, i.Mountpoint)
	}
	return paths
}

func (b *bench) setup(id runtime.ID, mounts ...runtime.Mount) rootfs.Root {
	b.t.Helper()
	root, err := b.Setup(b.t.Context(), id, rootfs.Request{Owner: web, Layers: []string{b.layer}, Mounts: mounts, Users: nobody})
	if err != nil {
		b.t.Fatal(err)
	}
	return root
}

func (b *bench) teardown(id runtime.ID) {
	b.t.Helper()
	if err := b.Teardown(id); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) content(path string) string {
	b.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func TestEachSetupHasAFreshUpperAndSharesTheLayer(t *testing.T) {
	b := newStore(t)
	root := b.setup("web-1")
	if got := b.content(root.Path + "/etc/from-image"); got != "image" {
		t.Errorf("image file holds %q", got)
	}
	if err := os.WriteFile(root.Path+"/etc/written", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other := b.setup("web-2")
	if _, err := os.Stat(other.Path + "/etc/written"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a container sees another's writes: %v", err)
	}
	root = b.setup("web-1") // again, without Teardown: as after a crash
	if _, err := os.Stat(root.Path + "/etc/written"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the writable layer is not fresh: %v", err)
	}
	if _, err := os.Stat(b.layer + "/etc/written"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the shared layer was written to: %v", err)
	}
	b.teardown("web-1")
	b.teardown("web-1")
	b.teardown("web-2")
}

func TestOverlayIsVolatileAndWithoutDevices(t *testing.T) {
	b := newStore(t)
	root := b.setup("web-1")
	defer b.teardown("web-1")
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(root.Path))
	if err != nil || len(infos) != 1 {
		t.Fatalf("%v, %v", infos, err)
	}
	if !strings.Contains(infos[0].Options, "nodev") || !strings.Contains(infos[0].VFSOptions, "volatile") {
		t.Errorf("options %q %q", infos[0].Options, infos[0].VFSOptions)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(b.Bundle("web-1"), &st); err != nil || st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		t.Errorf("the bundle is not in memory: %x, %v", st.Type, err)
	}
}

func TestManyLayersAndOddPaths(t *testing.T) {
	b := newStore(t)
	var layers []string
	for i := range 120 {
		layer := fmt.Sprintf("%s/layers, with: odd\\names %s/%03d", b.dir, strings.Repeat("long", 20), i)
		if err := os.MkdirAll(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/file-%d", layer, i), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(layer+"/top", fmt.Append(nil, i), 0o644); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	root, err := b.Setup(t.Context(), "web-1", rootfs.Request{Owner: web, Layers: layers, Users: nobody})
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	entries, err := os.ReadDir(root.Path)
	if err != nil || len(entries) != 121 {
		t.Errorf("%d files, %v", len(entries), err)
	}
	if got := b.content(root.Path + "/top"); got != "0" {
		t.Errorf("the top layer is %q, want the first one", got)
	}
}

func TestImageWithoutLayers(t *testing.T) {
	b := newStore(t)
	if _, err := b.Setup(t.Context(), "web-1", rootfs.Request{Owner: web, Users: nobody}); err != nil {
		t.Fatal(err)
	}
	b.teardown("web-1")
}

func TestFilesLieAsKubernetesLaysThem(t *testing.T) {
	b := newStore(t)
	files := &runtime.Files{Name: "web", Mode: 0o640, Content: map[string][]byte{"a.conf": []byte("A"), "b.conf": []byte("B")}}
	key := &runtime.Files{Name: "web", Key: "b.conf", Content: files.Content}
	root := b.setup("web-1", runtime.Mount{Path: "/etc/web", Files: files}, runtime.Mount{Path: "/etc/b", Files: key})
	defer b.teardown("web-1")
	file, dir := root.Mounts[0], root.Mounts[1]
	if file.Path != "/etc/b" || dir.Path != "/etc/web" || !file.ReadOnly || !dir.ReadOnly {
		t.Fatalf("mounts %+v", root.Mounts)
	}
	if got := b.content(file.Source); got != "B" {
		t.Errorf("the key's file holds %q", got)
	}
	if got := b.content(dir.Source + "/a.conf"); got != "A" {
		t.Errorf("a.conf holds %q", got)
	}
	if link, err := os.Readlink(dir.Source + "/a.conf"); err != nil || link != "..data/a.conf" {
		t.Errorf("a.conf leads to %q, %v", link, err)
	}
	if fi, err := os.Stat(dir.Source + "/a.conf"); err != nil || fi.Mode() != 0o640 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestSecretsAreCopiedToMemory(t *testing.T) {
	b := newStore(t)
	b.write("secret/web/token", "hush")
	b.write("secret/web/..hidden/token", "of another layout")
	b.write("elsewhere", "not yours")
	if err := os.Symlink("token", b.dir+"/secret/web/alias"); err != nil {
		t.Fatal(err)
	}
	sec := &runtime.Secret{Name: "web", Directory: b.dir + "/secret/web", Mode: 0o400}
	root := b.setup("web-1", runtime.Mount{Path: "/run/secrets/web", Secret: sec})
	defer b.teardown("web-1")
	m := root.Mounts[0]
	if b.content(m.Source+"/token") != "hush" || b.content(m.Source+"/alias") != "hush" || !m.ReadOnly || m.Exec {
		t.Errorf("mount %+v", m)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.Source, &st); err != nil || st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		t.Errorf("the copy is not in memory: %x, %v", st.Type, err)
	}
	_ = filepath.WalkDir(b.state, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if data, _ := os.ReadFile(path); bytes.Contains(data, []byte("hush")) {
				t.Errorf("%s holds the secret", path)
			}
		}
		return nil
	})
}

func TestSecretValue(t *testing.T) {
	b := newStore(t)
	dir := filepath.Dir(b.write("secret/web/token", "hush\n"))
	b.write("secret/web/binary", "hu\x00sh")
	if got, err := b.SecretValue("TOKEN", runtime.SecretKey{Directory: dir, Key: "token"}); err != nil || got != "hush" {
		t.Errorf("got %q, %v", got, err)
	}
	_, err := b.SecretValue("TOKEN", runtime.SecretKey{Directory: dir, Key: "binary"})
	if err == nil || strings.Contains(err.Error(), "sh\x00") || strings.Contains(err.Error(), "hu") {
		t.Errorf("error %v", err)
	}
}

func TestRefusedMounts(t *testing.T) {
	b := newStore(t)
	b.write("host/file", "x")
	b.write("secret/web/token", "x")
	b.write("secret/big/token", strings.Repeat("x", 1<<20+1))
	outside := b.write("outside/token", "x")
	for link, to := range map[string]string{
		"host/out": "/etc", "host/state": b.state, "secret/out": filepath.Dir(outside), "secret/web/out": outside,
	} {
		if err := os.Symlink(to, b.dir+"/"+link); err != nil {
			t.Fatal(err)
		}
	}
	host := func(p string) runtime.Mount { return runtime.Mount{Path: "/h", HostPath: p} }
	secret := func(dir, key string) runtime.Mount {
		return runtime.Mount{Path: "/s", Secret: &runtime.Secret{Name: "web", Directory: dir, Key: key}}
	}
	tmp := &runtime.Tmpfs{Size: 1 << 20}
	files := func(key string, content map[string][]byte) runtime.Mount {
		return runtime.Mount{Path: "/c", Files: &runtime.Files{Name: "c", Key: key, Content: content}}
	}
	cases := []struct {
		name      string
		mount     runtime.Mount
		want      string
		permanent bool
	}{
		{"host path not allowed", host("/etc"), "not below what this server allows", true},
		{"host path relative", host("etc"), "not an absolute path", true},
		{"host path by ..", host(b.dir + "/host/../layer"), "not below", true},
		{"host path by link", host(b.dir + "/host/out"), "/etc is not below", true},
		{"host path missing", host(b.dir + "/host/none"), "no such file", false},
		{"state directory", host(b.state), "agent's own directory", true},
		{"run directory", host(b.run), "agent's own directory", true},
		{"secret not allowed", secret(b.dir+"/outside", ""), "not below", true},
		{"secret directory by link", secret(b.dir+"/secret/out", ""), "not below", true},
		{"secret missing", secret(b.dir+"/secret/none", ""), "no such file", false},
		{"secret key missing", secret(b.dir+"/secret/web", "none"), "no such file", false},
		{"secret key by link", secret(b.dir+"/secret/web", "out"), "escapes", false},
		{"secret key is a path", secret(b.dir+"/secret/web", "../outside/token"), "cannot be a file name", true},
		{"secret too large", secret(b.dir+"/secret/big", ""), "larger than 1048576 bytes", false},
		{"config key missing", files("none", map[string][]byte{"a": nil}), `no key "none"`, true},
		{"config key is a path", files("", map[string][]byte{"../a": nil}), "cannot be a file name", true},
		{"relative target", runtime.Mount{Path: "tmp", Tmpfs: tmp}, "not an absolute path", true},
		{"unclean target", runtime.Mount{Path: "/tmp/../etc", Tmpfs: tmp}, "not a clean path", true},
		{"root", runtime.Mount{Path: "/", Tmpfs: tmp}, "is the image's", true},
		{"proc", runtime.Mount{Path: "/proc/sys", Tmpfs: tmp}, "of the kernel", true},
		{"dev", runtime.Mount{Path: "/dev", Tmpfs: tmp}, "of the container itself", true},
		{"nothing", runtime.Mount{Path: "/x"}, "not one", true},
		{"two things", runtime.Mount{Path: "/x", Tmpfs: tmp, HostPath: "/x"}, "not one", true},
		{"volume's name", runtime.Mount{Path: "/x", Volume: &runtime.Volume{Name: "../../x"}}, "cannot be a directory's name", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			checked := b.Check(web, []runtime.Mount{c.mount}, nobody)
			_, err := b.Setup(t.Context(), "web-1", rootfs.Request{Owner: web, Layers: []string{b.layer}, Mounts: []runtime.Mount{c.mount}, Users: nobody})
			for what, err := range map[string]error{"Check": checked, "Setup": err} {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: error %v, want %q", what, err, c.want)
				}
				if runtime.IsPermanent(err) != c.permanent {
					t.Errorf("%s: permanent is %v: %v", what, !c.permanent, err)
				}
			}
		})
	}
	if err := b.Check(web, []runtime.Mount{{Path: "/x", Tmpfs: tmp}, {Path: "/x", Tmpfs: tmp}}, nobody); err == nil {
		t.Error("two mounts on one path were taken")
	}
}

func TestHostPathIsPinnedPrivateAndLeavesTheHostAlone(t *testing.T) {
	b := newStore(t)
	b.write("host/dir/file", "host")
	if err := os.Mkdir(b.dir+"/host/dir/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("sub", b.dir+"/host/dir/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(b.dir+"/host/dir/sub", 0); err != nil {
			t.Errorf("the server's own mount is gone: %v", err)
		}
	}()
	if err := unix.Mount("", b.dir+"/host/dir/sub", "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	root := b.setup("web-1", runtime.Mount{Path: "/h", HostPath: b.dir + "/host/dir", ReadOnly: true},
		runtime.Mount{Path: "/f", HostPath: b.dir + "/host/dir/file"})
	file, dir := root.Mounts[0].Source, root.Mounts[1].Source
	// Whoever can write to the host path cannot turn it into another one after it was checked.
	if err := errors.Join(os.Rename(b.dir+"/host/dir", b.dir+"/host/was"), os.Symlink("/etc", b.dir+"/host/dir")); err != nil {
		t.Fatal(err)
	}
	if b.content(dir+"/file") != "host" || b.content(file) != "host" {
		t.Error("the host's files are not there")
	}
	for _, path := range []string{dir + "/new", dir + "/sub/new"} {
		if err := os.WriteFile(path, nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("write to %s: %v, want read-only", path, err)
		}
	}
	if err := os.WriteFile(file, []byte("changed"), 0o644); err != nil {
		t.Error(err)
	}
	b.teardown("web-1")
	if err := errors.Join(os.Remove(b.dir+"/host/dir"), os.Rename(b.dir+"/host/was", b.dir+"/host/dir")); err != nil {
		t.Fatal(err)
	}
	if b.content(b.dir+"/host/dir/file") != "changed" {
		t.Error("the host's file is gone")
	}
}
