package journal

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"reconciler/runtime/failpoint"
)

// sweepTemporary takes away what a process that was killed in the middle of a write has left. The caller holds the lock.
func sweepTemporary(dir string) error {
	var errs []error
	for _, pattern := range []string{".state.json.*.tmp", "sets/.*.tmp", "journal/.*.tmp"} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		errs = append(errs, err)
		for _, path := range left {
			failpoint.Here("state: a torn file there")
			errs = append(errs, os.Remove(path))
			failpoint.Here("state: a torn file gone")
		}
	}
	return errors.Join(errs...)
}

// keepPrevious makes path+".bak" the present file at path, without a moment in which either is missing.
func keepPrevious(path string) error {
	tmp := path + ".bak.tmp"
	failpoint.Here("state: the old copy there")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("state: no half copy")
	if err := os.Link(path, tmp); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	failpoint.Here("state: a copy beside")
	err := os.Rename(tmp, path+".bak")
	failpoint.Here("state: the copy in place")
	return err
}
