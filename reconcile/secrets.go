package reconcile

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"reconciler/manifest"
	"reconciler/runtime/atomicfile"
)

// maxSecretFile bounds what is read of one secret file, as the runtime's copy in memory is bounded.
const maxSecretFile = 1 << 20

func secretKeyPath(stateDir string) string { return filepath.Join(stateDir, "secret.key") }

// readSecretKey reads the key of the digests. Without it a digest in memory or a plan says nothing about a secret that
// could be guessed. It returns nil where there is no key yet, or none that can be used.
func readSecretKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read secret key: %w", err)
	case len(key) != sha256.Size:
		return nil, nil
	}
	return key, nil
}

// secretKey reads the key from path, making a random one the first time.
func secretKey(path string) ([]byte, error) {
	key, err := readSecretKey(path)
	if key != nil || err != nil {
		return key, err
	}
	key = make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	if err = atomicfile.WriteDurable(path, key, 0o600); err != nil {
		return nil, fmt.Errorf("write secret key: %w", err)
	}
	return key, nil
}

// secretReader keeps the digest of each secret directory, and reads one again only when its files look changed.
type secretReader struct {
	key  []byte
	seen map[string]secretDigest
	dirs []string // that are in use, sorted, whether they can be read or not
}

type secretDigest struct {
	looks  string // names, sizes, times and inodes of the files
	digest string
}

func newSecretReader(key []byte) secretReader {
	return secretReader{key: key, seen: map[string]secretDigest{}}
}

// digests returns the digest of every secret directory that set uses, by directory. One that cannot be read has none:
// the runtime says why when it starts a container that needs it.
func (r *secretReader) digests(sets ...*manifest.Set) map[string]string {
	out, used := map[string]string{}, map[string]bool{}
	if r.key == nil {
		return out // no container was ever made from a secret
	}
	for _, set := range sets {
		if set == nil {
			continue
		}
		for _, w := range set.Workloads {
			for _, s := range w.Secrets {
				if used[s.FromDirectory] {
					continue
				}
				used[s.FromDirectory] = true
				if d, err := r.digest(s.FromDirectory); err == nil {
					out[s.FromDirectory] = d
				}
			}
		}
	}
	maps.DeleteFunc(r.seen, func(dir string, _ secretDigest) bool { return out[dir] == "" })
	r.dirs = slices.Sorted(maps.Keys(used))
	return out
}

func (r *secretReader) digest(dir string) (string, error) {
	looks, names, err := lookAt(dir)
	if err != nil {
		return "", err
	}
	if old, ok := r.seen[dir]; ok && old.looks == looks {
		return old.digest, nil
	}
	mac := hmac.New(sha256.New, r.key)
	for _, name := range names {
		content, err := readSecret(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintf(mac, "%d:%s%d:", len(name), name, len(content))
		_, _ = mac.Write(content)
	}
	digest := "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
	r.seen[dir] = secretDigest{looks: looks, digest: digest}
	return digest, nil
}

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	return content, errors.Join(err, f.Close())
}

// lookAt says how the regular files of dir look, following links as Kubernetes' secret directories have them.
func lookAt(dir string) (looks string, names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", nil, err
	}
	var b []byte
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		names = append(names, e.Name())
		b = fmt.Appendf(b, "%q %d %d %d;", e.Name(), info.Size(), info.ModTime().UnixNano(), inode(info))
	}
	return string(b), names, nil
}
