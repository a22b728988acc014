package rootfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Whatever is mounted on what a container has in memory goes, and nothing that is reached through it: mounts on files, on top
// of each other, below each other, hidden ones, and one that is in use.
func TestTeardownReachesThroughNoMount(t *testing.T) {
	b := newStore(t)
	bind := func(from, at string) {
		t.Helper()
		if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("%s: %v", at, err)
		}
	}
	file, below := b.write("host/file", "x"), b.write("host/tree/below/kept", "x")
	outside := filepath.Dir(b.write("outside/kept", "x"))
	bind(outside, filepath.Dir(below))
	defer func() { _ = unix.Unmount(filepath.Dir(below), unix.MNT_DETACH) }()
	root := b.setup("web-1",
		runtime.Mount{Path: "/data", Volume: &runtime.Volume{Name: "data"}},
		runtime.Mount{Path: "/file", HostPath: file},
		runtime.Mount{Path: "/tree", HostPath: b.dir + "/host/tree"},
	)
	volume := b.write("state/volumes/shop/data/data/kept", "x")
	used, err := os.Open(root.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = used.Close() }()
	bind(file, root.Mounts[1].Source)
	for _, at := range []string{root.Path + "/srv", root.Path, root.Path, root.Bundle, root.Bundle} {
		bind(outside, at)
	}
	b.teardown("web-1")
	if _, err := os.Lstat(root.Bundle); err == nil {
		t.Error("the bundle is there")
	}
	if err := unix.Unmount(filepath.Dir(below), 0); err != nil {
		t.Errorf("the server's own mount is gone: %v", err)
	}
	for _, path := range []string{file, below, outside + "/kept", volume} {
		if got := b.content(path); got != "x" {
			t.Errorf("%s holds %q", path, got)
		}
	}
}
