package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"reconciler/runtime/atomicfile"
)

const (
	exitVersion   = 1
	recordVersion = 1
	exitFile      = "exit.json"
	recordFile    = "record.json"
)

// containerRecord is what a supervisor writes about a container for the next one, in the run directory.
type containerRecord struct {
	Version   int           `json:"version"`
	Request   StartRequest  `json:"request"`
	Pid       int           `json:"pid"` // 0 while it is being started
	StartTime uint64        `json:"startTime"`
	StartedAt time.Time     `json:"startedAt"`
	StartBoot time.Duration `json:"startBoot"` // CLOCK_BOOTTIME
	Warnings  []string      `json:"warnings,omitempty"`
	Stopped   bool          `json:"stopped,omitempty"`
	KillBoot  time.Duration `json:"killBoot,omitempty"` // when it is to be killed, by CLOCK_BOOTTIME
}

// writeJSON replaces the file at path in one step.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s is %w: %w", path, ErrDamaged, err)
	}
	return nil
}

// ErrDamaged means that a file of ours holds what nobody wrote: a power cut or a bad disk left it so.
var ErrDamaged = errors.New("damaged")

// ReadExit reads how the last run ended from a container's LogDir; false where none has ended yet. While a container
// runs again, it still tells of the run before: compare Exit.StartedAt.
func ReadExit(dir string) (Exit, bool, error) {
	var e Exit
	err := readJSON(filepath.Join(dir, exitFile), &e)
	if errors.Is(err, fs.ErrNotExist) {
		return Exit{}, false, nil
	}
	if err != nil {
		return Exit{}, false, fmt.Errorf("read how the container ended: %w", err)
	}
	if e.Version > exitVersion {
		return Exit{}, false, fmt.Errorf("%s has format %d, this reconciler reads up to %d",
			filepath.Join(dir, exitFile), e.Version, exitVersion)
	}
	return e, true, nil
}
