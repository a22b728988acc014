package failpoints

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// Control is the directory through which a test tells processes of the build with the tag failpoints where to die, and sees
// what they passed. Its path is what the environment variable failpoint.Variable has to hold.
type Control string

// Arm has the process die that passes the point for the n-th time, counted by each process from now on.
func (c Control) Arm(point string, n int) error {
	return atomicfile.Write(filepath.Join(string(c), point), []byte(strconv.Itoa(n)), 0o600)
}

// Disarm takes that back, and reports whether a process died there.
func (c Control) Disarm(point string) (died bool, err error) {
	err = os.Remove(filepath.Join(string(c), point))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// Passed returns how often each point was passed since the last call.
func (c Control) Passed() (map[string]int, error) {
	path := filepath.Join(string(c), failpoint.Trace)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	passed := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if _, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			passed[name]++
		}
	}
	return passed, os.Truncate(path, 0)
}
