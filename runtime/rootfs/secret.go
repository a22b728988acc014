package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// maxSecret bounds a secret, all its keys together, in bytes: as in Kubernetes.
const maxSecret = 1 << 20

// checkSecret says whether a secret could be mounted.
func (s *Store) checkSecret(target string, sec runtime.Secret) error {
	content, err := s.readSecret("mount secret "+sec.Name+" on "+target, sec.Directory, sec.Key)
	clear(content)
	return err
}

// layOutSecret copies a secret's files below dir, which is in memory.
func (s *Store) layOutSecret(dir, target string, sec runtime.Secret) (source string, err error) {
	content, err := s.readSecret("mount secret "+sec.Name+" on "+target, sec.Directory, sec.Key)
	if err != nil {
		return "", err
	}
	return layOut(dir, sec.Key, sec.Mode, content)
}

// SecretValue reads one key of a secret for a variable of the environment: without the newline that editors leave at
// the end. The error never holds the content.
func (s *Store) SecretValue(variable string, k runtime.SecretKey) (string, error) {
	op := "read secret for " + variable
	content, err := s.readSecret(op, k.Directory, k.Key)
	if err != nil {
		return "", err
	}
	return variableOf(op, k.Key, content[k.Key])
}

// SecretValues reads every key of a secret as SecretValue does.
func (s *Store) SecretValues(directory string) (map[string]string, error) {
	const op = "read secret for the environment"
	content, err := s.readSecret(op, directory, "")
	if err != nil {
		return nil, err
	}
	values := make(map[string]string, len(content))
	for key, data := range content {
		if values[key], err = variableOf(op, key, data); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func variableOf(op, key string, data []byte) (string, error) {
	value := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if strings.ContainsRune(value, 0) {
		return "", permanent(op, "", fmt.Errorf("key %q holds a NUL byte, which no variable can", key), "mount the secret as a file")
	}
	return value, nil
}

// readSecret reads the files of a secret's directory, or the one named key. Links are followed as long as they stay in
// the directory (as Kubernetes lays secrets out); subdirectories are left alone.
func (s *Store) readSecret(op, directory, key string) (map[string][]byte, error) {
	resolved, err := allowed(op, directory, s.opts.AllowSecretPath, "--allow-secret-path")
	if err != nil {
		return nil, err
	}
	missing := func(err error) error {
		return &runtime.Error{Op: op, Err: err, Hint: "put the secret's files into " + directory + " on this server, one for each key"}
	}
	// As for a host path: it must be the directory that was allowed, not what is called so now.
	fd, err := pin(resolved)
	if err != nil {
		return nil, missing(err)
	}
	defer func() { _ = unix.Close(fd) }()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, missing(fmt.Errorf("%s: not a directory that can be opened: %w", resolved, errors.Unwrap(err)))
	}
	defer func() { _ = root.Close() }()
	content := map[string][]byte{}
	if key != "" {
		if err = checkKey(key); err != nil {
			return nil, permanent(op, "", err, "")
		}
		content[key], err = readKey(root, key, maxSecret)
		if err != nil {
			return nil, missing(err)
		}
		return content, nil
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, missing(err)
	}
	left := int64(maxSecret)
	for _, e := range entries {
		if checkKey(e.Name()) != nil {
			continue
		}
		data, err := readKey(root, e.Name(), left)
		if errors.Is(err, errNoFile) {
			continue
		}
		if err != nil {
			return nil, missing(err)
		}
		left -= int64(len(data))
		content[e.Name()] = data
	}
	return content, nil
}

var errNoFile = errors.New("not a regular file")

// readKey reads a file of at most limit bytes. It does not wait for a FIFO's writer.
func readKey(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, errNoFile)
	}
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%s: the secret is larger than %d bytes", name, maxSecret)
	}
	return buf.Bytes(), nil
}
