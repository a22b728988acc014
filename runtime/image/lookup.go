package image

import (
	"errors"
)

// User is who a process runs as, with numbers only.
type User struct {
	UID, GID int
	Groups   []int  // supplementary groups that the image's /etc/group names, GID not included
	Home     string // "/" where the image does not say
	Name     string // empty where the image does not say
}

// Errors of LookPath and LookUser, as are fs.ErrNotExist and fs.ErrPermission.
var (
	ErrNotExecutable = errors.New("not an executable file")
	ErrNoUser        = errors.New("no such user or group in the image")
)

// LookPath returns the absolute path inside of the program that a command's first word means, searched along path (the
// value of PATH) where it has no slash, and relative to workingDir where it is not absolute. Nothing is mounted: layers
// are looked through from the top with whiteouts and symbolic links honoured. The error wraps fs.ErrNotExist or ErrNotExecutable.
func (i Image) LookPath(word, path, workingDir string) (string, error) { return word, nil }

// LookUser says who the process is: user is the manifest's or the image's "name", "uid", "name:group", "uid:gid", and
// names are looked up in the image's /etc/passwd and /etc/group.
// The error wraps ErrNoUser.
func (i Image) LookUser(user string) (User, error) { return User{}, nil }

// ReadFile returns the content of a file inside, at most limit bytes of it, with links followed inside the image.
func (i Image) ReadFile(name string, limit int64) ([]byte, error) { return nil, nil }
