package rootfs_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
	"reconciler/runtime/runtimetest/leak"
)

func sized(path string, size int64) runtime.Mount {
	return runtime.Mount{Path: path, Volume: &runtime.Volume{Name: "data", Size: size, Shared: true}}
}

func (b *bench) sized(id runtime.ID, size int64, first uint32) (rootfs.Root, error) {
	return b.Setup(b.t.Context(), id, rootfs.Request{
		Owner: web, Layers: []string{b.layer}, Mounts: []runtime.Mount{sized("/srv", size)}, Users: nobody, FirstID: first,
	})
}

// bytesOf are those of a file system, and those that are free in it.
func bytesOf(t *testing.T, path string) (all, free int64) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize
}

// A volume with a size holds no more than that, begins as the image has it, and is the same for each range of ids.
func TestVolumeWithASize(t *testing.T) {
	b := newStore(t)
	b.open()
	const size = 20 << 20
	if err := os.Chown(b.layer+"/srv/seed", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	for i, first := range []uint32{0, mapped, mapped + 1<<16} {
		root, err := b.sized("web-1", size, first)
		if err != nil {
			t.Fatal(err)
		}
		source := root.Mounts[0].Source
		if got := uidOf(t, source+"/seed"); got != int(first)+1000 {
			t.Errorf("seed is %d's", got)
		}
		if i == 0 {
			if got := fill(t, source+"/big"); got > size || got < size-size/50 {
				t.Errorf("%d bytes fit in, of %d", got, size)
			}
		}
		entries, err := os.ReadDir(source)
		if err != nil || len(entries) != 2 {
			t.Errorf("it holds %v, %v", entries, err)
		}
		b.teardown("web-1")
		b.noLoops()
	}
	list, err := b.Volumes(nobody)
	if err != nil || len(list) != 1 || list[0].Size != size {
		t.Fatalf("volumes %+v, %v", list, err)
	}
	var image unix.Stat_t
	if err := unix.Stat(list[0].Path, &image); err != nil || image.Blocks*512 < image.Size {
		t.Errorf("of the image's %d bytes %d are set aside, %v", image.Size, image.Blocks*512, err)
	}
	if err := b.RemoveVolume("shop", "data", nobody); err != nil {
		t.Error(err)
	}
}

// Those who share a volume have one file system, which stays as long as one of them has it.
func TestSharedVolumeWithASize(t *testing.T) {
	b := newStore(t)
	b.open()
	one, err := b.sized("web-1", 16<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	two, err := b.sized("web-2", 16<<20, mapped)
	if err != nil {
		t.Fatal(err)
	}
	loops := 0
	for _, found := range leak.Find(b.state, "", "none") {
		if strings.HasPrefix(found, "loop device ") {
			loops++
		}
	}
	if loops != 1 {
		t.Errorf("%d loop devices", loops)
	}
	if err = os.WriteFile(one.Mounts[0].Source+"/written", []byte("by one"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.teardown("web-1")
	if got := b.content(two.Mounts[0].Source + "/written"); got != "by one" {
		t.Errorf("the other one reads %q", got)
	}
	// Another size has to wait for the one that mounts it.
	_, err = b.sized("web-1", 32<<20, 0)
	if runtime.ReasonOf(err) != runtime.ReasonVolumeConflict || runtime.IsPermanent(err) || runtime.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	b.teardown("web-2")
	one, err = b.sized("web-1", 32<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	if got := b.content(one.Mounts[0].Source + "/written"); got != "by one" {
		t.Errorf("after growing it reads %q", got)
	}
}

func TestVolumeChangesItsSize(t *testing.T) {
	b := newStore(t)
	content := strings.Repeat("kept", 2<<20)
	for i, size := range []int64{20 << 20, 400 << 20, 3 << 30, 60 << 20, 12 << 20} {
		root, err := b.sized("web-1", size, 0)
		if err != nil {
			t.Fatal(err)
		}
		source := root.Mounts[0].Source
		if i == 0 {
			if err := os.WriteFile(source+"/content", []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if b.content(source+"/content") != content {
			t.Errorf("with %d bytes its content is another", size)
		}
		// The free ones are fewer than with a new file system of the size: it has more inodes, of a larger one before.
		if all, free := bytesOf(t, source); all > size || all < size-size/50 || free < size-size/50-9<<20 {
			t.Errorf("with %d bytes it has %d, %d of them free", size, all, free)
		}
		b.teardown("web-1")
	}
	// What it holds is not cut off, and said before anything is stopped.
	check := func(size int64) error { return b.Check(web, []runtime.Mount{sized("/srv", size)}, nobody) }
	for what, err := range map[string]error{"asked": check(4 << 20), "done": func() error {
		_, err := b.sized("web-1", 4<<20, 0)
		return err
	}()} {
		if runtime.ReasonOf(err) != runtime.ReasonVolumeConflict || !runtime.IsPermanent(err) || !strings.Contains(err.Error(), "more than the new size of 4 MiB") {
			t.Errorf("%s: %v", what, err)
		}
	}
	root, err := b.sized("web-1", 12<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	if err := check(4 << 20); runtime.ReasonOf(err) != runtime.ReasonVolumeConflict {
		t.Errorf("of what is mounted: %v", err)
	}
	if err := errors.Join(os.Remove(root.Mounts[0].Source+"/content"), check(4<<20)); err != nil {
		t.Errorf("without its content: %v", err)
	}
}

// What was made without a size cannot get one, and the other way round: its content would be left behind unseen.
func TestVolumeKeepsHavingASizeOrNone(t *testing.T) {
	for _, sizes := range [][2]int64{{0, 16 << 20}, {16 << 20, 0}} {
		b := newStore(t)
		if _, err := b.sized("web-1", sizes[0], 0); err != nil {
			t.Fatal(err)
		}
		b.teardown("web-1")
		err := b.Check(web, []runtime.Mount{sized("/srv", sizes[1])}, nobody)
		_, setupErr := b.sized("web-1", sizes[1], 0)
		for _, err := range []error{err, setupErr} {
			if runtime.ReasonOf(err) != runtime.ReasonVolumeConflict || !runtime.IsPermanent(err) || runtime.HintOf(err) == "" {
				t.Errorf("from %d to %d bytes: %v", sizes[0], sizes[1], err)
			}
		}
		if err := b.RemoveVolume("shop", "data", nobody); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(b.state + "/volumes/shop"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("something is left: %v", err)
		}
	}
}
