package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// The name that Kubernetes gives to the same: the keys are links through dataLink, which leads to the directory that holds
// them (a generation), so that replacing that one link replaces all files at once.
const dataLink = "..data"

// defaultMode is that of files whose spec names none.
const defaultMode fs.FileMode = 0o644

// checkFiles says whether layOutFiles could do it.
func checkFiles(target string, f runtime.Files) error {
	if f.Key != "" {
		if _, ok := f.Content[f.Key]; !ok {
			return permanent("mount config "+f.Name+" on "+target, "", fmt.Errorf("it has no key %q", f.Key),
				"its keys are "+strings.Join(slices.Sorted(maps.Keys(f.Content)), ", "))
		}
	}
	for key := range f.Content {
		if err := checkKey(key); err != nil {
			return permanent("mount config "+f.Name+" on "+target, "", err, "")
		}
	}
	return nil
}

// checkKey keeps a key inside its directory. Names that begin with two dots are those of the layout.
func checkKey(key string) error {
	if key == "" || key == "." || strings.HasPrefix(key, "..") || strings.ContainsAny(key, "/\x00") {
		return fmt.Errorf("key %q cannot be a file name", key)
	}
	return nil
}

// layOutFiles writes the files of a Config below dir and returns what to mount: a directory or, with a key, one file.
func layOutFiles(dir, target string, f runtime.Files) (source string, err error) {
	if err := checkFiles(target, f); err != nil {
		return "", err
	}
	return layOut(dir, f.Key, f.Mode, f.Content)
}

// layOut writes content as Kubernetes lays out a ConfigMap. With a key only that one is written.
func layOut(dir, key string, mode fs.FileMode, content map[string][]byte) (source string, err error) {
	if key != "" {
		content = map[string][]byte{key: content[key]}
	}
	failpoint.Here("files: none")
	if err := makeDir(dir); err != nil {
		return "", err
	}
	first := generation(1)
	if err := writeGeneration(filepath.Join(dir, first), mode, content); err != nil {
		return "", err
	}
	for name := range content {
		failpoint.Here("files: a file without its link")
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	failpoint.Here("files: without the link to all")
	if err := os.Symlink(first, filepath.Join(dir, dataLink)); err != nil {
		return "", err
	}
	failpoint.Here("files: laid out")
	if key != "" {
		return filepath.Join(dir, first, key), nil
	}
	return dir, nil
}

// generation names the directory that the n-th content is in.
func generation(n int) string { return ".." + strconv.Itoa(n) }

// writeGeneration makes the directory dir and the files in it.
func writeGeneration(dir string, mode fs.FileMode, content map[string][]byte) error {
	if mode == 0 {
		mode = defaultMode
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	for name, data := range content {
		if err := writeNew(filepath.Join(dir, name), data, mode); err != nil {
			return err
		}
	}
	return nil
}

// makeDir obeys no umask: the container's user must be able to look into it.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// writeNew makes a file that must not exist, with the mode given whatever the umask is.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Close())
}
