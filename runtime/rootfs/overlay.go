package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"reconciler/runtime/failpoint"
)

// maxOptions is what mount(2) takes of options: a page, with its NUL.
const maxOptions = 4095

// mountMapped mounts layers on root.Path as mountOverlay does, with their ids mapped. The layers are shared: nothing of
// them is copied or changed.
func mountMapped(layers []string, snapshot string, root Root, ids *mapper) error {
	if len(layers) == 0 {
		// An image of no layers: overlay wants one all the same.
		empty := filepath.Join(snapshot, "empty")
		failpoint.Here("overlay: no layer") // apart: of an image without layers
		if err := os.Mkdir(empty, 0o755); err != nil {
			return err
		}
		failpoint.Here("overlay: an empty layer") // apart: of an image without layers
		layers = []string{empty}
	}
	mapped, detach, err := ids.layers(layers, filepath.Join(root.Bundle, "lower"))
	if err != nil {
		return err
	}
	defer detach()
	err = mountOverlay(mapped, snapshot, root.Path)
	if ids != nil && errors.Is(err, unix.EINVAL) { // before Linux 5.19
		return &NotMappableError{What: "overlay of " + strings.Join(layers, ":"), Err: err}
	}
	return err
}

// mountOverlay mounts layers (top first) with a fresh upper directory below snapshot on target. The device nodes that a
// layer may hold are of no use there (nodev).
func mountOverlay(layers []string, snapshot, target string) error {
	upper, work := filepath.Join(snapshot, "upper"), filepath.Join(snapshot, "work")
	failpoint.Here("overlay: no upper directory")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	// The root directory inside gets the mode and owner of the upper one: take the image's.
	if err := copyAttributes(layers[0], upper); err != nil {
		return err
	}
	failpoint.Here("overlay: not mounted")
	options, closeAll, err := overlayOptions(layers, upper, work)
	if err != nil {
		return err
	}
	defer closeAll()
	// volatile (Linux 5.10): no sync of the upper directory, at the unmount above all, which takes 100 ms and more.
	// After a power cut such an upper may be damaged and the kernel refuses it; every start has a fresh one.
	err = unix.Mount("overlay", target, "overlay", unix.MS_NODEV, options+",volatile")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("overlay", target, "overlay", unix.MS_NODEV, options)
	}
	if err != nil {
		return fmt.Errorf("mount overlay on %s: %w", target, err)
	}
	failpoint.Here("overlay: mounted")
	return nil
}

// overlayOptions are the directories as options of mount(2): by path where that fits, so that mountinfo can be read by
// people, and else by descriptors, which are short and need no quoting.
func overlayOptions(layers []string, upper, work string) (options string, closeAll func(), err error) {
	options = "lowerdir=" + strings.Join(layers, ":") + ",upperdir=" + upper + ",workdir=" + work
	special := strings.ContainsAny(upper+strings.Join(layers, ""), `:,\`)
	if !special && len(options)+len(",volatile") <= maxOptions {
		return options, func() {}, nil
	}
	var fds []int
	closeAll = func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}
	byFD := func(dir string) string {
		if err != nil {
			return ""
		}
		var fd int
		if fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			err = &os.PathError{Op: "open", Path: dir, Err: err}
			return ""
		}
		fds = append(fds, fd)
		return fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	lower := make([]string, len(layers))
	for i, dir := range layers {
		lower[i] = byFD(dir)
	}
	options = "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + byFD(upper) + ",workdir=" + byFD(work)
	if err != nil {
		closeAll()
		return "", nil, err
	}
	if len(options)+len(",volatile") > maxOptions {
		closeAll()
		return "", nil, fmt.Errorf("an image of %d layers: more than this server can mount", len(layers))
	}
	return options, closeAll, nil
}

// copyAttributes gives the directory to the owner and mode of from.
func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Stat(from, &st); err != nil {
		return &os.PathError{Op: "stat", Path: from, Err: err}
	}
	if err := unix.Chown(to, int(st.Uid), int(st.Gid)); err != nil {
		return &os.PathError{Op: "chown", Path: to, Err: err}
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	return nil
}
