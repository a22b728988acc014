package rootfs

import (
	"errors"
	"os"
	"path/filepath"
)

// Try mounts a small overlay in a temporary directory below dir, writes to it and takes it away again: whether root file
// systems can be made there. It needs root.
func Try(dir string) error { return try(dir, nil) }

// TryMapped is Try with user ids of a container's own, which must be able to pass through runDir.
func TryMapped(dir, runDir string) error {
	if err := passable(filepath.Dir(runDir)); err != nil {
		return err
	}
	ids, err := newMapper(tryID)
	if err != nil {
		return err
	}
	defer ids.close()
	return try(dir, ids)
}

// try is a trial of doctor's. no failpoint: inScratch sees to what is left.
func try(dir string, ids *mapper) error {
	return inScratch(dir, func(tmp string) error {
		layer, target := filepath.Join(tmp, "layer"), filepath.Join(tmp, "target")
		for _, d := range []string{layer, target} {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
		}
		if err := mountMapped([]string{layer}, tmp, Root{Path: target, Bundle: tmp}, ids); err != nil {
			return err
		}
		return writeNew(filepath.Join(target, "file"), nil, 0o600)
	})
}

// inScratch calls fn with a temporary directory below dir, and takes away what fn made and mounted there. no failpoint: a
// trial is cut short only by whoever looks at doctor's answer.
func inScratch(dir string, fn func(tmp string) error) (err error) {
	tmp, err := os.MkdirTemp(dir, ".try-")
	if err != nil {
		return err
	}
	defer func() {
		if cleanErr := unmountBelow(tmp); cleanErr != nil {
			err = errors.Join(err, cleanErr)
			return
		}
		err = errors.Join(err, os.RemoveAll(tmp))
	}()
	return fn(tmp)
}
