package calm_test

import (
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"testing"

	"reconciler/runtime/calm"
)

// slacks returns that of every thread of this process, in the order in which they were made.
func slacks(t *testing.T) []string {
	t.Helper()
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	threads, err := dir.Readdirnames(0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, thread := range threads {
		slack, err := os.ReadFile("/proc/" + thread + "/timerslack_ns")
		if err != nil {
			continue // it has ended
		}
		all = append(all, strings.TrimSpace(string(slack)))
	}
	return all
}

func TestMonitor(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the kernel asks for CAP_SYS_NICE")
	}
	const fresh = "RECONCILER_TEST_FRESH"
	if os.Getenv(fresh) == "" { // what a thread is told stays with it
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestMonitor$", "-test.v")
		cmd.Env = append(os.Environ(), fresh+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	before := slacks(t)
	if err := calm.Monitor(); err != nil {
		t.Fatal(err)
	}
	after := slacks(t)
	if after[0] != before[0] {
		t.Errorf("the main thread, which may start processes: %s ns, then %s", before[0], after[0])
	}
	if after[1] != "1000000" {
		t.Errorf("the second thread: %s ns, then %s", before[1], after[1])
	}
}

// What a thread starts can only be woken as late as that thread.
func TestThread(t *testing.T) {
	out := make(chan string, 1)
	go func() {
		goruntime.LockOSThread() // for good: the thread ends with this
		if err := calm.Thread(calm.Slack); err != nil {
			t.Error(err)
		}
		slack, err := exec.CommandContext(t.Context(), "cat", "/proc/self/timerslack_ns").Output()
		if err != nil {
			t.Error(err)
		}
		out <- string(slack)
	}()
	if got := <-out; got != "1000000\n" {
		t.Errorf("a process started by it: %q ns", got)
	}
}
