package rootfs_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
	"reconciler/runtime/runtimetest/leak"
)

// noLoops fails for a loop device, or anything else, that is left of an image. Where the last mount goes with a process that
// was killed, the kernel takes it away a moment later.
func (b *bench) noLoops() {
	b.t.Helper()
	if left := leak.Wait(b.state, "", "none"); len(left) > 0 {
		b.t.Fatalf("left: %v", left)
	}
}

// fill writes to a file until nothing more fits, and returns how much did.
func fill(t testing.TB, path string) int64 {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	written, err := io.Copy(f, io.LimitReader(endless{}, 1<<30))
	if syncErr := f.Sync(); !errors.Is(err, unix.ENOSPC) || syncErr != nil {
		t.Errorf("after %d bytes: %v, %v", written, err, syncErr)
	}
	return written
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("x"), len(p))), nil }

func (b *bench) limited(id runtime.ID, size int64, first uint32, mounts ...runtime.Mount) (rootfs.Root, error) {
	return b.Setup(b.t.Context(), id, rootfs.Request{
		Owner: web, Layers: []string{b.layer}, Mounts: mounts, Users: nobody, FirstID: first, Disk: size,
	})
}

// No more can be written than the limit and at most 2 % less; all of it is set aside; a new start has an empty disk; and
// nothing is left of it.
func TestDiskIsLimited(t *testing.T) {
	for name, first := range map[string]uint32{"server's ids": 0, "own ids": mapped} {
		t.Run(name, func(t *testing.T) {
			b := newStore(t)
			b.open()
			const size = 20 << 20
			for range 2 {
				root, err := b.limited("web-1", size, first)
				if err != nil {
					t.Fatal(err)
				}
				if got := uidOf(t, root.Path+"/etc"); got != int(first) {
					t.Errorf("/etc is %d's", got)
				}
				var st unix.Statfs_t
				if err = unix.Statfs(root.Path, &st); err != nil || int64(st.Blocks)*st.Bsize > size {
					t.Errorf("df shows %d bytes, %v", int64(st.Blocks)*st.Bsize, err)
				}
				if got := fill(t, root.Path+"/etc/big"); got > size || got < size-size/50 {
					t.Errorf("%d bytes fit in, of %d", got, size)
				}
				var image unix.Stat_t
				if err = unix.Stat(b.state+"/snapshots/web-1/disk.img", &image); err != nil || image.Blocks*512 < image.Size {
					t.Errorf("of the image's %d bytes %d are set aside, %v", image.Size, image.Blocks*512, err)
				}
				if got := b.mounts(); len(got) != 2 { // the memory and the root
					t.Errorf("mounts %v", got)
				}
			}
			b.teardown("web-1")
			b.noLoops()
		})
	}
}

// A disk that this server has no room for is refused before anything starts, and takes nothing from others meanwhile.
func TestDiskThatDoesNotFit(t *testing.T) {
	b := newStore(t)
	err := b.CheckDisk(1 << 50)
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !runtime.IsPermanent(err) || runtime.HintOf(err) == "" {
		t.Errorf("more than the whole disk: %v, hint %q", err, runtime.HintOf(err))
	}
	_, err = b.limited("web-1", 1<<50, 0)
	if !errors.Is(err, unix.ENOSPC) || runtime.HintOf(err) == "" || runtime.IsPermanent(err) || !strings.Contains(err.Error(), "MiB are free") {
		t.Errorf("got %v, hint %q", err, runtime.HintOf(err))
	}
	// Where nothing can be set aside, it never fits.
	small := filepath.Join(b.dir, "small")
	run(t, "truncate", "-s", "64M", small)
	run(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal,^extent,^64bit", small)
	run(t, "mount", "-o", "loop", small, b.state)
	defer run(t, "umount", b.state)
	_, err = b.limited("web-1", 8<<20, 0)
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !runtime.IsPermanent(err) || runtime.HintOf(err) == "" {
		t.Errorf("got %v, hint %q", err, runtime.HintOf(err))
	}
}

// A full disk of the server does not reach a container whose room is set aside.
func TestReservedRoomOutlastsAFullServer(t *testing.T) {
	b := newStore(t)
	small := filepath.Join(b.dir, "small")
	run(t, "truncate", "-s", "64M", small)
	run(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", small)
	run(t, "mount", "-o", "loop", small, b.state)
	defer run(t, "umount", b.state)
	root, err := b.limited("web-1", 16<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	fill(t, b.state+"/others")
	if got := fill(t, root.Path+"/big"); got < 16<<20-16<<20/50 {
		t.Errorf("%d bytes fit in", got)
	}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func TestTryDiskLeavesNothing(t *testing.T) {
	b := newStore(t)
	if err := errors.Join(b.CheckDisk(8<<20), rootfs.TryDisk(t.Context(), b.dir)); err != nil {
		t.Errorf("a disk cannot be made here: %v", err)
	}
	if left, err := filepath.Glob(b.dir + "/.try-*"); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if left := leak.Wait(b.dir, "", "none"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Wherever it is killed while it makes a disk and a volume, what it leaves can be taken away and made anew.
func TestKilledWhileADiskIsMade(t *testing.T) {
	if dir := os.Getenv("RECONCILER_TEST_STORE"); dir != "" {
		s, err := rootfs.Open(rootfs.Options{StateDir: dir + "/state", RunDir: dir + "/run"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Setup(t.Context(), "web-1", killedRequest(dir+"/layer"))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	b := newStore(t)
	b.open()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestKilledWhileADiskIsMade$")
		cmd.Env = append(os.Environ(), "RECONCILER_TEST_STORE="+b.dir)
		if err = cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(i)*2*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		timer.Stop()
		if i%2 == 0 { // else the next one finds what is left
			b.teardown("web-1")
			b.noLoops()
		}
	}
	root, err := b.Setup(t.Context(), "web-1", killedRequest(b.layer))
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	if got := b.content(root.Mounts[0].Source + "/seed"); got != "seed" {
		t.Errorf("the volume holds %q", got)
	}
}

func killedRequest(layer string) rootfs.Request {
	return rootfs.Request{
		Owner: web, Layers: []string{layer}, Users: nobody, FirstID: mapped, Disk: 8 << 20,
		Mounts: []runtime.Mount{sized("/srv", 16<<20)},
	}
}

// Many at once find a loop device each.
func TestManyDisksAtOnce(t *testing.T) {
	b := newStore(t)
	ids := []runtime.ID{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"}
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			root, err := b.limited(id, 4<<20, 0)
			if err != nil {
				t.Error(err)
				return
			}
			if err := os.WriteFile(root.Path+"/own", []byte(id), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if got := b.content(b.Path(id) + "/own"); got != string(id) {
			t.Errorf("%s has the disk of %s", id, got)
		}
		wg.Go(func() {
			if err := b.Teardown(id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.noLoops()
}
