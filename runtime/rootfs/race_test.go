package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Whoever owns a directory on the way to what is mounted swaps it for a link all the time.
func TestNoLinkIsFollowedAfterItWasChecked(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{
		StateDir: dir + "/state", RunDir: dir + "/run", AllowHostPath: []string{dir + "/host"}, AllowSecretPath: []string{dir + "/secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{"elsewhere": "not yours", "host/own": "yours", "secret/own": "yours"} {
		path = filepath.Join(dir, path, "web/token")
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var swaps sync.WaitGroup
	for _, kind := range []string{"host", "secret"} {
		own, link := filepath.Join(dir, kind, "own"), filepath.Join(dir, kind, "link")
		if err := os.Symlink(dir+"/elsewhere", link); err != nil {
			t.Fatal(err)
		}
		swaps.Go(func() {
			for ctx.Err() == nil {
				if err := unix.Renameat2(unix.AT_FDCWD, own, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3000 {
		value, err := s.SecretValue("TOKEN", runtime.SecretKey{Directory: dir + "/secret/own/web", Key: "token"})
		if err == nil && value != "yours" {
			t.Error("a secret of another directory was read")
			break
		}
		fd, _, err := s.openHostPath(runtime.Mount{Path: "/h", HostPath: dir + "/host/own/web/token"})
		if err != nil {
			continue
		}
		content, readErr := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err := errors.Join(readErr, unix.Close(fd)); err != nil {
			t.Error(err)
			break
		}
		if string(content) != "yours" {
			t.Error("a host path of another directory was opened")
			break
		}
	}
	stop()
	swaps.Wait()
}
