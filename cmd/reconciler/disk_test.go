package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// newServerOnSmallDisk makes a server whose state directory is a small ext4 of its own.
func newServerOnSmallDisk(t *testing.T, mkfs ...string) *server {
	t.Helper()
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("needs root, and makes real containers")
	}
	dir, err := os.MkdirTemp("", "disk-") //nolint:usetesting // it is unmounted after the server's own cleanup
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	for _, cmd := range [][]string{
		{"truncate", "-s", "64M", image},
		append(append([]string{"mkfs.ext4", "-q", "-m", "0"}, mkfs...), image),
		{"mkdir", mnt},
		{"mount", "-o", "loop", image, mnt},
		{"mkdir", "-m", "700", mnt + "/state"},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("a small disk cannot be made: %v: %v\n%s", cmd, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	})
	return newServerOn(t, mnt+"/state")
}

// fill takes all room there is, to the last block, in a file that empties it again when it is removed.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; _, err = f.Write(make([]byte, size)) {
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// takeInodes makes files until there can be no more.
func takeInodes(t *testing.T, dir string) (free func()) {
	t.Helper()
	trash := filepath.Join(dir, "fill")
	if err := os.Mkdir(trash, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		err := os.WriteFile(filepath.Join(trash, fmt.Sprint(i)), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			return func() {
				if rmErr := os.RemoveAll(trash); rmErr != nil {
					t.Error(rmErr)
				}
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that takes nothing stops nothing: what runs goes on, every verb that looks answers, what cannot be done says why,
// agents come and go, and when there is room again the node converges by itself.
func TestDiskThatTakesNothing(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		mkfs       []string
		hurt       func(*testing.T, string) func()
	}{
		{"full", "no space left on device", nil, fill},
		{"out of inodes", "no space left on device", []string{"-N", "400"}, takeInodes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServerOnSmallDisk(t, tt.mkfs...)
			repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever), "b.yaml": busybox("b", forever)})
			agent := s.start("--repo", repo.Bare)
			s.must("sync", "--timeout", patience)
			before := s.rows()
			free := tt.hurt(t, filepath.Dir(s.state()))
			repo.CommitPush("second", sourcetest.Files{"a.yaml": busybox("a", "echo second; "+forever)})
			if r := s.do("sync", "--timeout", patience); r.code != 1 || !strings.Contains(r.err, tt.want) {
				t.Errorf("sync: status %d, want 1 and %q\n%s%s", r.code, tt.want, r.out, r.err)
			}
			look := func(when string) {
				t.Helper()
				for _, verb := range []string{"ps -A", "describe a", "history", "events", "logs a", "image ls", "plan --repo " + repo.Bare} {
					if r := s.do(strings.Fields(verb)...); r.code != 0 {
						t.Errorf("%s, %s: status %d\n%s", when, verb, r.code, r.err)
					}
				}
				for name, row := range s.rows() {
					if row.Pid != before[name].Pid || row.State != "Running" {
						t.Errorf("%s: what ran was touched: %+v", when, row)
					}
				}
			}
			look("while an agent runs")
			agent.stop(syscall.SIGKILL)
			look("without an agent")
			s.start("--repo", repo.Bare)
			look("with another agent")
			free()
			for range 5 { // on a slow machine
				if s.do("sync", "--timeout", patience).code == 0 {
					break
				}
			}
			if st := s.status(); st.Sync != report.Synced || st.Health != report.Healthy || st.Applied.Commit != repo.Head() || len(st.Warnings) > 0 {
				t.Errorf("when there is room again: %+v", st)
			}
			if row := s.rows()["b"]; row.Pid != before["b"].Pid {
				t.Errorf("what nothing was wrong with was touched: %+v", row)
			}
		})
	}
}

// On a state directory that is read-only, as a disk with errors becomes, what runs goes on, every verb that looks answers,
// and an agent that starts says why it does not.
func TestReadOnlyState(t *testing.T) {
	s := newServer(t)
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip("needs unshare, from util-linux")
	}
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	agent := s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	pid := s.rows()["a"].Pid
	agent.stop(syscall.SIGTERM)
	// Read-only for those in a mount namespace of their own: what containers write to holds the disk itself writable.
	readOnly := func(args ...string) result {
		t.Helper()
		script := `mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"`
		cmd := exec.Command("unshare", append([]string{"-m", "--propagation", "private", "sh", "-c", script, s.state(), s.bin}, args...)...)
		cmd.Env = s.env
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run() // its status says how it went
		return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	}
	for _, args := range []string{"agent --repo " + repo.Bare, "sync --repo " + repo.Bare} {
		if r := readOnly(strings.Fields(args)...); r.code != 1 || !strings.Contains(r.err, "read-only file system") || !strings.Contains(r.err, "hint: ") {
			t.Errorf("%s: status %d\n%s", args, r.code, r.err)
		}
	}
	for _, args := range []string{"ps", "describe a", "logs a", "history", "events", "image ls", "volume ls", "plan --repo " + repo.Bare} {
		if r := readOnly(strings.Fields(args)...); r.code != 0 {
			t.Errorf("%s: status %d\n%s", args, r.code, r.err)
		}
	}
	if a := s.rows()["a"]; a.Pid != pid || a.State != "Running" {
		t.Errorf("what ran was touched: %+v", a)
	}
}
