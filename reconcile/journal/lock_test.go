package journal

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// An agent that was killed while it made a child is followed by the next one, as soon as the child has let go.
func TestLockOfAKilledAgent(t *testing.T) {
	dir := t.TempDir()
	held, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err = gone.Run(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "agent.lock")
	if err = os.WriteFile(name, []byte(strconv.Itoa(gone.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = held.Close() })
	next, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = next.Close()
}
