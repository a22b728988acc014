package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Without the programs that make file systems a limit is refused, and not left out.
func TestMissingTool(t *testing.T) {
	_, err := tool("mkfs.none")
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !runtime.IsPermanent(err) || runtime.HintOf(err) != "install e2fsprogs" {
		t.Errorf("got %v, hint %q", err, runtime.HintOf(err))
	}
	if path, err := tool("mkfs.ext4"); err != nil || !filepath.IsAbs(path) {
		t.Errorf("found %q, %v", path, err)
	}
}

// What can be used of a file system is what was asked for, at every border of a group and of a file system's shape.
func TestImageHasTheSizeThatWasAskedFor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	const mi, gi = int64(1) << 20, int64(1) << 30
	sizes := []int64{1 * mi, 4 * mi, 5*mi + 1, 8 * mi, 16 * mi, 100 * mi, gi, 5*gi + 4096, 300 * gi}
	for near := 118 * mi; near < 133*mi; near += mi { // one group or two
		sizes = append(sizes, near)
	}
	for _, n := range []int64{2, 3, 4, 8, 10} { // as much as n groups hold, and a little more
		full := (n*groupBlocks - ext4{inodes: groupInodes}.overhead(n)) * blockSize
		sizes = append(sizes, full-blockSize, full, full+blockSize, full+40*blockSize, full+2000*blockSize)
	}
	memory := t.TempDir()
	if err := unix.Mount("none", memory, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(memory, 0); err != nil {
			t.Error(err)
		}
	}()
	for _, size := range sizes {
		for _, journal := range []int64{0, journalFor(size)} {
			if journal > 0 && size < 8*mi {
				continue
			}
			t.Run(fmt.Sprintf("%d journal %d", size, journal), func(t *testing.T) {
				image, target := filepath.Join(memory, "image"), filepath.Join(memory, "mnt")
				shape := newExt4(size, journal)
				f, err := os.Create(image)
				if err != nil {
					t.Fatal(err)
				}
				// Sparse: some are large.
				if err = errors.Join(f.Truncate(shape.blocks(size)*blockSize), shape.format(t.Context(), f, size), f.Close()); err != nil {
					t.Fatal(err)
				}
				if err = mountImage(image, target); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if unmountErr := unix.Unmount(target, 0); unmountErr != nil {
						t.Error(unmountErr)
					}
				}()
				if err = settleExt4(target); err != nil {
					t.Fatal(err)
				}
				var st unix.Statfs_t
				if err = unix.Statfs(target, &st); err != nil {
					t.Fatal(err)
				}
				all, free := int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
				if all > size || all < size-size/100-blockSize || (size >= 4*mi && free < size-size/50) {
					t.Errorf("%d bytes, %d of them free, wanted %d", all, free, size)
				}
				if int64(st.Files) < size/(16<<10) {
					t.Errorf("%d inodes for %d bytes", st.Files, size)
				}
				now, err := readExt4(image)
				if err != nil || now.shape != shape || now.used < 0 || now.used > 64<<10 {
					t.Errorf("the superblock says %+v of %+v, %v", now, shape, err)
				}
			})
		}
	}
}
