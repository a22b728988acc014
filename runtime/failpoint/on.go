//go:build failpoints

package failpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// passes counts, by point, how often this process passed it since it was armed.
var passes = struct { //nolint:gochecknoglobals // only in the build of the tests
	sync.Mutex
	of map[string]int
}{of: map[string]int{}}

// Here marks a place where a process may die. The name says, in words that are used once, what is done by then.
func Here(name string) {
	dir := os.Getenv(Variable)
	if dir == "" {
		return
	}
	if err := pass(dir, name); err != nil {
		// A test that cannot say where to die must not look like one that passed.
		panic(fmt.Sprintf("failpoint %s: %v", name, err))
	}
}

func pass(dir, name string) error {
	trace, err := os.OpenFile(filepath.Join(dir, Trace), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the test is over
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(trace, "%d %s\n", os.Getpid(), name)
	if err = errors.Join(err, trace.Close()); err != nil {
		return err
	}
	armed := filepath.Join(dir, name)
	text, err := os.ReadFile(armed)
	if errors.Is(err, fs.ErrNotExist) {
		passes.Lock()
		defer passes.Unlock()
		delete(passes.of, name)
		return nil
	}
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	passes.Lock()
	defer passes.Unlock()
	if passes.of[name]++; passes.of[name] != want {
		return nil
	}
	// Once, whoever else passes it: the file is how the test knows.
	if err := os.Remove(armed); err != nil {
		return nil // another process was first
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {} // this goroutine does not get any further, however long the kernel takes
}
