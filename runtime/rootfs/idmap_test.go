package rootfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
)

// mapped is the first id of a range that the tests use.
const mapped = 1_900_000_000

func uidOf(t *testing.T, path string) int {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return int(st.Uid)
}

// open lets everybody pass to the store's directories, which the directories of tests do not.
func (b *bench) open() {
	b.t.Helper()
	if err := os.Chmod(filepath.Dir(b.dir), 0o711); err != nil { //nolint:gosec // only the tests' own files are in there
		b.t.Fatal(err)
	}
}

// Layers that lie apart are shown with the container's ids, what is written anew has them, and the layers stay as they are.
func TestMappedLayers(t *testing.T) {
	b := newStore(t)
	b.open()
	b.write("other/deep/layer/etc/below", "x")
	if err := os.Chown(b.layer+"/srv", 33, 33); err != nil {
		t.Fatal(err)
	}
	root, err := b.Setup(t.Context(), "web-1", rootfs.Request{
		Owner: web, Layers: []string{b.layer, b.dir + "/other/deep/layer"}, Users: nobody, FirstID: mapped,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	for path, want := range map[string]int{
		root.Path: mapped, root.Path + "/etc/from-image": mapped, root.Path + "/srv": mapped + 33,
		root.Path + "/etc/below": mapped, root.Bundle: mapped, b.layer + "/srv": 33, b.layer + "/etc": 0,
	} {
		if got := uidOf(t, path); got != want {
			t.Errorf("%s is %d's, want %d's", path, got, want)
		}
	}
	if got := b.mounts(); len(got) != 2 { // the memory and the root
		t.Errorf("mounts %v", got)
	}
}

// An image without layers has a root directory that is the container's too.
func TestMappedRootOfNoLayers(t *testing.T) {
	b := newStore(t)
	b.open()
	root, err := b.Setup(t.Context(), "web-1", rootfs.Request{Owner: web, Users: nobody, FirstID: mapped})
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	if got := uidOf(t, root.Path); got != mapped {
		t.Errorf("the root is %d's", got)
	}
}

// A new volume gets the image's files with the ids that they have there, and is shown with the container's.
func TestMappedVolumeIsKeptWithTheIDsOfInside(t *testing.T) {
	b := newStore(t)
	b.open()
	b.write("second/srv/other", "x")
	if err := os.Chown(b.layer+"/srv/seed", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	for _, first := range []uint32{mapped, mapped + 1<<16} {
		root, err := b.Setup(t.Context(), "web-1", rootfs.Request{
			Owner: web, Layers: []string{b.layer, b.dir + "/second"}, Users: nobody, FirstID: first,
			Mounts: []runtime.Mount{{Path: "/srv", Volume: &runtime.Volume{Name: "data"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{
			root.Mounts[0].Source + "/seed": int(first) + 1000, root.Mounts[0].Source + "/other": int(first),
			b.state + "/volumes/shop/data/data/seed": 1000, b.state + "/volumes/shop/data/data/other": 0,
		} {
			if got := uidOf(t, path); got != want {
				t.Errorf("%s is %d's, want %d's", path, got, want)
			}
		}
		b.teardown("web-1")
	}
}

// What cannot be mapped says so before anything is made, and leaves nothing.
func TestNotMappable(t *testing.T) {
	b := newStore(t)
	if err := os.Chmod(filepath.Dir(b.dir), 0o700); err != nil { //nolint:gosec // as it was
		t.Fatal(err)
	}
	request := rootfs.Request{Owner: web, Layers: []string{b.layer}, Users: nobody, FirstID: mapped}
	_, err := b.Setup(t.Context(), "web-1", request)
	if _, ok := errors.AsType[*rootfs.NotMappableError](err); !ok {
		t.Errorf("a closed way: %v", err)
	}
	if _, ok := errors.AsType[*rootfs.NotMappableError](b.Mappable(nil)); !ok {
		t.Error("a closed way is mappable")
	}
	b.open()
	if err = b.Mappable(nil); err != nil {
		t.Errorf("an open way: %v", err)
	}
	// An overlay cannot be shown with other ids.
	host := b.dir + "/host/overlay"
	for _, dir := range []string{host, b.dir + "/up", b.dir + "/work"} {
		if err = os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err = unix.Mount("overlay", host, "overlay", 0, "lowerdir="+b.layer+",upperdir="+b.dir+"/up,workdir="+b.dir+"/work"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(host, unix.MNT_DETACH) }()
	request.Mounts = []runtime.Mount{{Path: "/h", HostPath: host}}
	for what, err := range map[string]error{"asked": b.Mappable(request.Mounts), "done": func() error {
		_, err := b.Setup(t.Context(), "web-1", request)
		return err
	}()} {
		why, ok := errors.AsType[*rootfs.NotMappableError](err)
		if !ok || why.What != host {
			t.Errorf("%s: %v", what, err)
		}
	}
}
