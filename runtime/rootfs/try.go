package rootfs

import (
	"errors"
	"os"
	"path/filepath"
)

// Try mounts a small overlay in a temporary directory below dir, writes to it and takes it away again: whether root file
// systems can be made there. It needs root.
func Try(dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, ".overlay-")
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
	layer, target := filepath.Join(tmp, "layer"), filepath.Join(tmp, "target")
	for _, d := range []string{layer, target} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := mountOverlay([]string{layer}, tmp, target); err != nil {
		return err
	}
	return writeNew(filepath.Join(target, "file"), nil, 0o600)
}
