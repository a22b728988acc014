package image

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/sys/user"
)

// User is who a process runs as, with numbers only.
type User struct {
	UID, GID int
	Groups   []int  // supplementary groups that the image's /etc/group names, GID not included
	Home     string // "/" where the image does not say
}

// Errors of LookPath and LookUser.
var (
	ErrNotExecutable = errors.New("not an executable file")
	ErrNoUser        = errors.New("no such user or group in the image")
)

// DefaultPath is searched where neither the manifest nor the image sets PATH.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxPasswd bounds /etc/passwd and /etc/group of an image, in bytes.
const maxPasswd = 16 << 20

// LookPath returns the absolute path inside of the program that word, the first of a command, means. Without a slash it
// is searched along pathVar, the value of PATH (DefaultPath where that is empty); otherwise it is relative to
// workingDir. Nothing is mounted: the layers are looked through from the top, with whiteouts and symbolic links
// honoured. What volumes and other mounts put over the image is not known here.
// The error wraps fs.ErrNotExist or ErrNotExecutable.
func (i Image) LookPath(word, pathVar, workingDir string) (string, error) {
	v := view{i.Layers}
	if workingDir == "" {
		workingDir = "/"
	}
	abs := func(p string) string {
		if path.IsAbs(p) {
			return path.Clean(p)
		}
		return path.Join("/", workingDir, p)
	}
	if word == "" {
		return "", fmt.Errorf("command is empty: %w", fs.ErrNotExist)
	}
	if strings.Contains(word, "/") {
		if err := v.executable(abs(word)); err != nil {
			return "", fmt.Errorf("command %q in the image: %w", word, err)
		}
		return abs(word), nil
	}
	if pathVar == "" {
		pathVar = DefaultPath
	}
	var found error
	for dir := range strings.SplitSeq(pathVar, ":") {
		p := path.Join(abs(dir), word) // an empty element is the working directory, as for execvp(3)
		err := v.executable(p)
		if err == nil {
			return p, nil
		}
		if found == nil && !errors.Is(err, fs.ErrNotExist) {
			found = fmt.Errorf("command %q in the image: %s: %w", word, p, err)
		}
	}
	if found != nil {
		return "", found
	}
	return "", fmt.Errorf("command %q in the image: not found along PATH=%s: %w", word, pathVar, fs.ErrNotExist)
}

// executable returns an error unless somebody may execute the file.
func (v view) executable(p string) error {
	n, err := v.resolve(p)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w (%w)", fs.ErrNotExist, pathErr.Err)
		}
		return fs.ErrNotExist
	}
	if !n.info.Mode().IsRegular() || n.info.Mode().Perm()&0o111 == 0 {
		return ErrNotExecutable
	}
	return nil
}

// LookUser says who spec is: "", "name", "uid", "name:group" or "uid:gid", as in a manifest or in Config.User. Names
// are looked up in the image's /etc/passwd and /etc/group; a number needs no entry there. Empty is root.
// The error wraps ErrNoUser.
func (i Image) LookUser(spec string) (User, error) {
	v := view{i.Layers}
	// A missing file is an empty one: images "from scratch" have none.
	passwd, err := v.readFile("/etc/passwd", maxPasswd)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}
	group, err := v.readFile("/etc/group", maxPasswd)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return User{}, fmt.Errorf("user %q: %w", spec, err)
	}
	u, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w: %w", spec, ErrNoUser, err)
	}
	if u.Home == "" {
		u.Home = "/"
	}
	return User{UID: u.Uid, GID: u.Gid, Groups: u.Sgids, Home: u.Home}, nil
}

// ReadFile returns the content of a regular file inside, with links followed inside the image. A file larger than
// limit bytes is an error.
func (i Image) ReadFile(name string, limit int64) ([]byte, error) {
	return view{i.Layers}.readFile(name, limit)
}
