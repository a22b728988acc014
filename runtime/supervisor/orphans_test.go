package supervisor

import (
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Only what this thread began is collected, and all of it.
func TestCollectChildren(t *testing.T) {
	goruntime.LockOSThread() // so that onOwnThread finds this thread with a child
	other := exec.Command("true")
	err := other.Start()
	goruntime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	onOwnThread(func() {
		defer close(done)
		ours := exec.Command("true")
		if err := ours.Start(); err != nil {
			t.Error(err)
			return
		}
		collectChildren()
		if err := ours.Wait(); err == nil || !strings.Contains(err.Error(), "no child") {
			t.Errorf("our child was not collected: %v", err)
		}
	})
	<-done
	if err := other.Wait(); err != nil {
		t.Errorf("somebody else's child: %v", err)
	}
}

// A container that ends while commands are being started in it ends all the same, and leaves no child of ours behind.
func TestEndDuringExec(t *testing.T) {
	e := newEnv(t)
	v, err := e.c.Version(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		req := e.start(fmt.Sprint("ends-", i), "sleep", "1000")
		var execs sync.WaitGroup
		for range 6 {
			execs.Go(func() {
				_, _ = e.c.Exec(e.ctx(), ExecRequest{ID: req.ID, Args: []string{"true"}}, nil, nil, nil)
			})
		}
		time.Sleep(time.Duration(i) * time.Millisecond) // another moment of the start each time
		if _, err := e.c.Stop(e.ctx(), req.ID, "", 0); err != nil {
			t.Fatal(err)
		}
		execs.Wait()
		if err := e.c.Delete(e.ctx(), req.ID); err != nil {
			t.Fatal(err)
		}
	}
	if left := children(t, v.Pid); left != "" {
		t.Errorf("children are left: %s", left)
	}
}

func children(t *testing.T, pid int) string {
	t.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, thread := range threads {
		if list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, thread.Name())); err == nil {
			all = append(all, strings.Fields(string(list))...)
		}
	}
	return strings.Join(all, " ")
}

// The main goroutine of a supervisor has the main thread for itself, wherever it waits.
func TestMainThreadIsKept(t *testing.T) {
	if out, err := exec.Command("/proc/self/exe", "supervisor", "thread").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// staysOnMainThread is a supervisor's main goroutine that waits for others again and again.
func staysOnMainThread() {
	for i := range 1000 {
		done := make(chan struct{})
		go func() {
			time.Sleep(time.Microsecond) // so that others are looked for that can run
			close(done)
		}()
		<-done
		if unix.Gettid() != unix.Getpid() {
			fmt.Printf("on another thread after waiting %d times\n", i+1)
			os.Exit(1)
		}
	}
	os.Exit(0)
}
