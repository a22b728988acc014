package rootfs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The limit holds for what is written to a directory of the image whose project root inside has changed: a project quota
// would not (docs/adr/0018).
func TestNoProjectLeavesTheLimit(t *testing.T) {
	if dir := os.Getenv("RECONCILER_TEST_LEAVE"); dir != "" {
		if err := leaveProject(dir); err != nil {
			t.Fatal(err)
		}
		return
	}
	b := newStore(t)
	b.open()
	small := filepath.Join(b.dir, "small")
	run(t, "truncate", "-s", "128M", small)
	run(t, "mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota", small)
	if out, err := exec.Command("mount", "-o", "loop,prjquota", small, b.state).CombinedOutput(); err != nil {
		t.Skipf("this kernel mounts no ext4 with project quota: %v: %s", err, out)
	}
	defer run(t, "umount", b.state)
	if err := os.Chmod(b.state, 0o755); err != nil { //nolint:gosec // as newStore makes it
		t.Fatal(err)
	}
	const size = 16 << 20
	for name, first := range map[string]uint32{"server's ids": 0, "own ids": mapped} {
		t.Run(name, func(t *testing.T) {
			root, err := b.limited("web-1", size, first)
			if err != nil {
				t.Fatal(err)
			}
			defer b.teardown("web-1")
			self := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestNoProjectLeavesTheLimit$")
			self.Env = append(os.Environ(), "RECONCILER_TEST_LEAVE="+root.Path+"/srv")
			if first > 0 {
				ids := []syscall.SysProcIDMap{{HostID: int(first), Size: 1 << 16}}
				self.SysProcAttr = &syscall.SysProcAttr{
					Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{},
				}
			}
			if out, err := self.CombinedOutput(); err != nil {
				t.Fatalf("from inside: %v: %s", err, out)
			}
			if got := fill(t, root.Path+"/srv/big"); got > size {
				t.Errorf("%d bytes fit in, of %d", got, size)
			}
		})
	}
}

// leaveProject gives a directory project 0, and what is made in it too.
func leaveProject(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	var none [28]byte // struct fsxattr: no flags, project 0
	const set = 0x401c5820
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), set, uintptr(unsafe.Pointer(&none))) //nolint:gosec // FS_IOC_FSSETXATTR
	if errno != 0 {
		err = fmt.Errorf("FS_IOC_FSSETXATTR: %w", errno)
	}
	return errors.Join(err, f.Close())
}
