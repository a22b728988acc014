package linux_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// swap exchanges a directory with a link for as long as it lives.
func swap(dir, link string) int {
	fmt.Println("swapping")
	for {
		if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
			fmt.Println(err)
			return 1
		}
	}
}

// CVE-2021-30465: one container exchanges a directory with a link in a shared volume, again and again, while another is
// started with a mount below that directory. The mount must not be made where the link leads outside.
func TestMountTargetsAreNotRaced(t *testing.T) {
	e := newEnv(t)
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Dir(e.write("outside/there", "x"))
	shared := runtime.Mount{Path: "/vol", Volume: &runtime.Volume{Name: "shared", Shared: true}}
	swapper := e.spec("swapper", "/attempt", "swap", "/vol/dir", "/vol/link")
	swapper.Image, swapper.Capture = nil, []runtime.Path{{From: binary, To: "/attempt"}}
	swapper.Mounts = []runtime.Mount{shared}
	maker := e.sh("maker", "mkdir /vol/dir; ln -s ../../../../../../../../../.."+outside+" /vol/link")
	maker.Mounts = swapper.Mounts
	e.run(maker)
	e.said(e.start(swapper), "swapping")
	won, lost := 0, 0
	for i := range 30 {
		victim := e.sh(fmt.Sprintf("victim-%d", i), "ls -d /vol/*/there "+outside+"/there; sleep 1000")
		victim.Mounts = []runtime.Mount{shared, {
			Path: "/vol/dir/made/file", Files: &runtime.Files{Name: "c", Key: "k", Content: map[string][]byte{"k": []byte("y")}},
		}}
		id := e.create(victim)
		if err := e.Start(t.Context(), id); err == nil {
			won++
			if out, code := e.exec(id, "ls", "/vol/dir/there", "/vol/link/there"); code == 0 {
				t.Errorf("the victim has a directory of the server: %s", out)
			}
		} else {
			lost++
		}
		if err := e.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d starts went through, %d did not", won, lost)
	if left, err := filepath.Glob(outside + "/*"); err != nil || len(left) != 1 {
		t.Errorf("on the server there is %v, %v", left, err)
	}
}
