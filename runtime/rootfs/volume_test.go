package rootfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
)

func volume(path, name string, shared bool) runtime.Mount {
	return runtime.Mount{Path: path, Volume: &runtime.Volume{Name: name, Shared: shared}}
}

func TestVolumeIsKeptAndBeginsAsTheImageHasIt(t *testing.T) {
	b := newStore(t)
	if err := errors.Join(os.Chown(b.layer+"/srv", 101, 102), os.Chmod(b.layer+"/srv", 0o750),
		os.Chown(b.layer+"/srv/seed", 101, 102), os.Symlink("/etc", b.layer+"/srv/link")); err != nil {
		t.Fatal(err)
	}
	root := b.setup("web-1", volume("/srv", "data", false), volume("/not/in/image", "fresh", false))
	fresh, data := root.Mounts[0].Source, root.Mounts[1].Source
	if fi, err := os.Stat(fresh); err != nil || fi.Mode().Perm() != 0o755 || fi.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("fresh: %v, %v", fi, err)
	}
	fi, err := os.Stat(data)
	if err != nil || fi.Mode().Perm() != 0o750 || fi.Sys().(*syscall.Stat_t).Uid != 101 || fi.Sys().(*syscall.Stat_t).Gid != 102 {
		t.Errorf("data: %v, %v", fi, err)
	}
	fi, err = os.Stat(data + "/seed")
	if err != nil || fi.Sys().(*syscall.Stat_t).Uid != 101 || b.content(data+"/seed") != "seed" {
		t.Errorf("seed: %v, %v", fi, err)
	}
	if to, err := os.Readlink(data + "/link"); err != nil || to != "/etc" {
		t.Errorf("link: %q, %v", to, err)
	}
	if err := errors.Join(os.Remove(data+"/seed"), os.WriteFile(data+"/mine", []byte("kept"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b.teardown("web-1")
	root = b.setup("web-2", volume("/srv", "data", false))
	defer b.teardown("web-2")
	if b.content(root.Mounts[0].Source+"/mine") != "kept" {
		t.Error("the volume's content is gone")
	}
	if _, err := os.Stat(root.Mounts[0].Source + "/seed"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the image's content came back")
	}
}

func TestVolumeDoesNotFollowLinksOutOfTheImage(t *testing.T) {
	b := newStore(t)
	b.write("outside/file", "the server's")
	if err := os.Symlink(b.dir+"/outside", b.layer+"/trap"); err != nil {
		t.Fatal(err)
	}
	root := b.setup("web-1", volume("/trap", "data", false))
	defer b.teardown("web-1")
	entries, err := os.ReadDir(root.Mounts[0].Source)
	if err != nil || len(entries) > 0 {
		t.Errorf("copied %v, %v", entries, err)
	}
}

func TestHalfMadeVolumeIsMadeAgain(t *testing.T) {
	b := newStore(t)
	b.write("state/volumes/shop/data/data.new/half", "x") // died while copying
	b.write("state/volumes/shop/gone/data/old", "x")      // died while removing
	root := b.setup("web-1", volume("/a", "data", false), volume("/b", "gone", false))
	defer b.teardown("web-1")
	for _, m := range root.Mounts {
		if entries, err := os.ReadDir(m.Source); err != nil || len(entries) > 0 {
			t.Errorf("%s: %v, %v", m.Path, entries, err)
		}
	}
}

func TestVolumeOwnership(t *testing.T) {
	api := runtime.Name{Namespace: "shop", Name: "api"}
	type use struct {
		who    runtime.Name
		shared bool
	}
	cases := []struct {
		name   string
		first  use
		users  []runtime.Name // that mount it when the second one comes
		second use
		want   string // in the error; empty: allowed
	}{
		{"its own again", use{web, false}, nil, use{web, false}, ""},
		{"its own beside an update of itself", use{web, false}, []runtime.Name{web}, use{web, false}, ""},
		{"another's", use{web, false}, []runtime.Name{web}, use{api, false}, "belongs to container shop/web"},
		{"another's that is gone", use{web, false}, nil, use{api, false}, "belongs to container shop/web"},
		{"another's, shared by one side only", use{web, false}, []runtime.Name{web}, use{api, true}, "belongs to container shop/web"},
		{"taken over", use{web, false}, nil, use{api, true}, ""},
		{"shared by both", use{web, true}, []runtime.Name{web}, use{api, true}, ""},
		{"shared, wanted alone", use{web, true}, []runtime.Name{web}, use{api, false}, "shared with container shop/web"},
		{"shared once, now alone", use{web, true}, []runtime.Name{web}, use{web, false}, ""},
		{"alone once, now shared", use{web, false}, []runtime.Name{web}, use{web, true}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newStore(t)
			set := func(u use, users []runtime.Name) error {
				req := rootfs.Request{
					Owner: u.who, Layers: []string{b.layer}, Mounts: []runtime.Mount{volume("/data", "data", u.shared)},
					Users: func(ns, name string) []runtime.Name {
						if ns != "shop" || name != "data" {
							t.Errorf("asked for %s/%s", ns, name)
						}
						return users
					},
				}
				checked := b.Check(u.who, req.Mounts, req.Users)
				_, err := b.Setup(t.Context(), "x", req)
				if (checked == nil) != (err == nil) {
					t.Errorf("Check says %v, Setup %v", checked, err)
				}
				return errors.Join(err, b.Teardown("x"))
			}
			if err := set(c.first, nil); err != nil {
				t.Fatal(err)
			}
			err := set(c.second, c.users)
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if err != nil && (runtime.ReasonOf(err) != runtime.ReasonVolumeConflict || runtime.HintOf(err) == "") {
				t.Errorf("reason %s, hint %q", runtime.ReasonOf(err), runtime.HintOf(err))
			}
		})
	}
}

// A removal that was cut short keeps no space: it is gone on with.
func TestRemovalCutShortIsSwept(t *testing.T) {
	b := newStore(t)
	b.setup("web-1", volume("/a", "data", false), volume("/b", "kept", false))
	b.teardown("web-1")
	// Nothing of a volume in which a file cannot be removed is lost to the sight of a sweep.
	stuck := b.state + "/volumes/shop/data/data/stuck"
	if err := os.Mkdir(stuck, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", stuck, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a mount needs root: %v", err)
	}
	if err := b.RemoveVolume("shop", "data", nobody); err == nil {
		t.Error("removed what is mounted")
	}
	list, err := b.Volumes(nobody)
	if err != nil || len(list) != 1 || list[0].Name != "kept" {
		t.Errorf("listed: %+v, %v", list, err)
	}
	left, err := filepath.Glob(b.state + "/volumes/.removing/*/volume/data/stuck")
	if err != nil || len(left) != 1 {
		t.Fatalf("left: %v, %v", left, err)
	}
	if err := unix.Unmount(left[0], 0); err != nil {
		t.Fatal(err)
	}
	if err := b.SweepVolumes(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(b.state + "/volumes/.removing*"); len(left) > 0 {
		t.Errorf("left after the sweep: %v", left)
	}
	if list, err := b.Volumes(nobody); err != nil || len(list) != 1 {
		t.Errorf("listed: %+v, %v", list, err)
	}
}

func TestVolumesAreListedAndRemoved(t *testing.T) {
	b := newStore(t)
	b.setup("web-1", volume("/a", "data", false), volume("/b", "cache", true))
	b.teardown("web-1")
	users := func(_, name string) []runtime.Name {
		if name == "data" {
			return []runtime.Name{web, web}
		}
		return nil
	}
	list, err := b.Volumes(users)
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	cache, data := list[0], list[1]
	if cache.Name != "cache" || !cache.Orphan || !cache.Shared || cache.Owner != "" || len(cache.UsedBy) != 0 {
		t.Errorf("cache: %+v", cache)
	}
	if data.Orphan || data.Owner != "shop/web" || len(data.UsedBy) != 1 || data.CreatedAt.IsZero() {
		t.Errorf("data: %+v", data)
	}
	if err := b.RemoveVolume("shop", "data", users); !errors.Is(err, rootfs.ErrVolumeUse) || !strings.Contains(err.Error(), "shop/web") {
		t.Errorf("removed what is in use: %v", err)
	}
	if err := errors.Join(b.RemoveVolume("shop", "cache", users), b.RemoveVolume("shop", "data", nobody)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cache", "../../state"} {
		if err := b.RemoveVolume("shop", name, nobody); !errors.Is(err, rootfs.ErrNoVolume) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(b.state + "/volumes/shop"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty namespace is left: %v", err)
	}
}

func TestVolumeOfALaterReleaseIsNotTouched(t *testing.T) {
	b := newStore(t)
	b.write("state/volumes/shop/data/volume.json", `{"version": 99}`)
	b.write("state/volumes/shop/data/data/file", "kept")
	err := b.Check(web, []runtime.Mount{volume("/data", "data", false)}, nobody)
	if err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("error %v", err)
	}
}
