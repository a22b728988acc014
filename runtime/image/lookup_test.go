package image

import (
	"archive/tar"
	"errors"
	"io/fs"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/runtime/image/imagetest"
)

func TestLookups(t *testing.T) {
	reg := newRegistry(t)
	imagetest.Push(t, reg.host+"/x:1", imagetest.Busybox(t, v1.Config{},
		file{Name: "bin/.wh.vi"},
		file{Name: "opt/tool", Mode: 0o755, Body: "x"},
		file{Name: "opt/data", Body: "x"},
		file{Name: "opt/dir", Type: tar.TypeDir},
		file{Name: "opt/abs", Type: tar.TypeSymlink, Link: "/bin/sh"},
		file{Name: "opt/up", Type: tar.TypeSymlink, Link: "../../../../opt/tool"},
		file{Name: "opt/loop", Type: tar.TypeSymlink, Link: "loop"},
		file{Name: "opt/dangling", Type: tar.TypeSymlink, Link: "/nowhere"},
		file{Name: "opt/hostfile", Type: tar.TypeSymlink, Link: "../../../../../../../../etc/hostname"},
	))
	img := ensure(t, newStore(t), reg.host+"/x:1")
	for _, c := range []struct {
		word, path, dir, want string
		err                   error
	}{
		{"sh", "", "", "/bin/sh", nil},
		{"sh", "/opt:/bin", "", "/bin/sh", nil},
		{"tool", "/bin:/opt", "", "/opt/tool", nil},
		{"tool", "", "", "", fs.ErrNotExist},
		{"vi", "", "", "", fs.ErrNotExist}, // whited out
		{"/opt/abs", "", "", "/opt/abs", nil},
		{"/opt/up", "", "", "/opt/up", nil},
		{"./tool", "", "/opt", "/opt/tool", nil},
		{"tool", ":/bin", "/opt", "/opt/tool", nil},
		{"../bin/sh", "", "/opt", "/bin/sh", nil},
		{"data", "/opt", "", "", ErrNotExecutable},
		{"dir", "/opt", "", "", ErrNotExecutable},
		{"/opt/loop", "", "", "", fs.ErrNotExist},
		{"/opt/dangling", "", "", "", fs.ErrNotExist},
		{"/opt/data/x", "", "", "", fs.ErrNotExist},
		{"", "", "", "", fs.ErrNotExist},
	} {
		got, err := img.LookPath(c.word, c.path, c.dir)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("LookPath(%q, %q, %q) = %q, %v; want %q, %v", c.word, c.path, c.dir, got, err, c.want, c.err)
		}
	}
	for spec, want := range map[string]User{
		"":           {Home: "/root"},
		"app":        {UID: 1000, GID: 50, Home: "/home/app", Groups: []int{29}},
		"1000":       {UID: 1000, GID: 50, Home: "/home/app", Groups: []int{29}},
		"app:audio":  {UID: 1000, GID: 29, Home: "/home/app"},
		"4711:4712":  {UID: 4711, GID: 4712, Home: "/"},
		"nobody:50":  {UID: 65534, GID: 50, Home: "/"},
		"0:staff":    {GID: 50, Home: "/root"},
		"4711":       {UID: 4711, Home: "/"},
		"root:65534": {GID: 65534, Home: "/root"},
	} {
		got, err := img.LookUser(spec)
		if err != nil || got.UID != want.UID || got.GID != want.GID || got.Home != want.Home || !slices.Equal(got.Groups, want.Groups) && len(got.Groups)+len(want.Groups) > 0 {
			t.Errorf("LookUser(%q) = %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"ghost", "app:ghosts", "-1", "4294967296"} {
		if u, err := img.LookUser(spec); !errors.Is(err, ErrNoUser) {
			t.Errorf("LookUser(%q) = %+v, %v", spec, u, err)
		}
	}
	if b, err := img.ReadFile("/opt/hostfile", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link led out of the image: %q %v", b, err)
	}
	if _, err := img.ReadFile("/etc/passwd", 10); err == nil {
		t.Error("a file larger than the limit was read")
	}
}
