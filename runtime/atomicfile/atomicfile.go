// Package atomicfile replaces small files whole: a reader sees the old content or the new one, never a part, and a crash
// leaves no third state. It knows nothing of what the files mean. Start reading at Write.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"reconciler/runtime/failpoint"
)

// Write replaces the file at path with data and the mode given, whatever the umask is. The temporary file beside it is
// called ".NAME.RANDOM.tmp" and is removed after an error; Sweep removes what a killed process left. After a power cut the old or the new content is there, or an
// empty file; what must never be that goes through WriteDurable.
func Write(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, false)
}

// WriteDurable is Write, and returns once the content and the name have reached the disk.
func WriteDurable(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, true)
}

func write(path string, data []byte, mode fs.FileMode, durable bool) error {
	dir, name := filepath.Split(path)
	failpoint.Here("atomicfile: nothing written")
	f, err := os.CreateTemp(dir, "."+name+".*.tmp")
	if err != nil {
		return err
	}
	failpoint.Here("atomicfile: an empty temporary file")
	if err := fill(f, data, mode, durable); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	failpoint.Here("atomicfile: a whole temporary file")
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	failpoint.Here("atomicfile: the new content in place")
	// The new content is in place: from here on there is no temporary file to remove.
	var syncErr error
	if durable {
		syncErr = SyncDir(dir)
	}
	return errors.Join(syncErr, f.Close())
}

func fill(f *os.File, data []byte, mode fs.FileMode, durable bool) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if durable {
		return f.Sync()
	}
	return nil
}

// Abandoned is the age from which on a temporary file is of a process that died: Write needs no such time.
const Abandoned = time.Minute

// Sweep removes the temporary files in dir that are at least so old: what processes left that died in Write. A directory
// that is not there has none.
func Sweep(dir string, age time.Duration) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if name := e.Name(); !e.Type().IsRegular() || name[0] != '.' || filepath.Ext(name) != ".tmp" {
			continue
		}
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < age {
			continue // gone meanwhile, or of somebody who lives
		}
		failpoint.Here("atomicfile: a file of a dead process there")
		if err := os.Remove(filepath.Join(dir, e.Name())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		failpoint.Here("atomicfile: a file of a dead process gone")
	}
	return errors.Join(errs...)
}

// SyncDir returns once the names in dir have reached the disk.
func SyncDir(dir string) error {
	if dir == "" {
		dir = "."
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
