package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"reconciler/runtime"
)

// left returns what there is of a container in the run directory and in the kernel.
func (e *env) left(id runtime.ID) (paths []string) {
	e.Helper()
	roots, err := cgroupRoots()
	if err != nil {
		e.Fatal(err)
	}
	for _, root := range roots {
		paths = append(paths, containerCgroup(root, e.cfg.Instance, string(id)))
	}
	for _, dir := range []string{"supervisor", "libcontainer"} {
		paths = append(paths, filepath.Join(e.cfg.RunDir, dir, string(id)))
	}
	var found []string
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			found = append(found, path)
		}
	}
	return found
}

// A supervisor that is killed at any moment of a start leaves containers that run and are known, or nothing after a
// deletion.
func TestKilledDuringStarts(t *testing.T) {
	e := newEnv(t)
	const starts = 4
	var reqs [starts]StartRequest
	for i := range reqs {
		id := fmt.Sprint("torn-", i)
		reqs[i] = e.bundle(id, e.spec(id, "sleep", "1000"))
	}
	for round := range 15 {
		var wg sync.WaitGroup
		told := make([]bool, starts)
		for i, req := range reqs {
			wg.Go(func() {
				_, err := e.c.Start(e.ctx(), req, nil)
				told[i] = err == nil
			})
		}
		time.Sleep(time.Duration(5*round) * time.Millisecond) // another moment each time
		e.kill()
		wg.Wait()
		e.ensure()
		all, err := e.c.List(e.ctx())
		if err != nil {
			t.Fatal(err)
		}
		running := map[runtime.ID]bool{}
		for _, st := range all {
			running[st.ID] = st.Running
		}
		for i, req := range reqs {
			if told[i] && !running[req.ID] {
				t.Errorf("round %d: %s was started and does not run", round, req.ID)
			}
			if err := e.c.Delete(e.ctx(), req.ID); err != nil {
				t.Errorf("round %d: delete: %v", round, err)
			}
			if left := e.left(req.ID); len(left) > 0 {
				t.Errorf("round %d: left: %v", round, left)
			}
		}
	}
}

// What libcontainer could not remove at the end of a run does not keep the container from running again, nor does it
// survive the deletion of a container that nobody knows.
func TestRemainsAreCleared(t *testing.T) {
	e := newEnv(t)
	remains := filepath.Join(e.cfg.RunDir, "libcontainer", "again")
	req := e.bundle("again", e.spec("again", "true"))
	if err := os.Mkdir(remains, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := e.c.Start(e.ctx(), req, nil); err != nil {
		t.Fatal(err)
	}
	e.wait(req)
	if err := e.c.Delete(e.ctx(), req.ID); err != nil {
		t.Fatal(err)
	}
	roots, err := cgroupRoots()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{remains, filepath.Join(e.cfg.RunDir, "supervisor", "again"), containerCgroup(roots[0], e.cfg.Instance, "again")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.c.Delete(e.ctx(), req.ID); err != nil {
		t.Fatal(err)
	}
	if left := e.left(req.ID); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Instances share a parent, which the last one removes: the first of another must not fail for that.
func TestMakeCgroupBesideRemoval(t *testing.T) {
	root := t.TempDir()
	var makers sync.WaitGroup
	for i := range 4 {
		makers.Go(func() {
			dir := ownCgroup(root, fmt.Sprint("instance-", i))
			for range 500 {
				if err := makeCgroup(dir); err != nil {
					t.Error(err)
					return
				}
				for at := dir; at != root && os.Remove(at) == nil; at = filepath.Dir(at) {
				}
			}
		})
	}
	makers.Wait()
}

// Whoever locked the run directory while the one before removed it has not locked what others will find there.
func TestLockOfRemovedDirectory(t *testing.T) {
	cfg := Config{StateDir: t.TempDir(), RunDir: t.TempDir(), Instance: "x"}
	first := newServer(cfg)
	lock, err := first.lock()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				s := newServer(cfg)
				theirs, err := s.lock()
				if err != nil {
					continue // another has it
				}
				if _, err := os.Stat(s.dir); err != nil {
					t.Errorf("locked what is not there: %v", err)
				}
				_ = os.Remove(s.dir) // as a supervisor does at its end
				_ = theirs.Close()
			}
		})
	}
	_ = os.Remove(first.dir)
	_ = lock.Close()
	wg.Wait()
}
