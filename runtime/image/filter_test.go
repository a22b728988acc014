package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime/image/imagetest"
)

func TestHostileLayers(t *testing.T) {
	link := func(name, target string) file { return file{Name: name, Type: tar.TypeSymlink, Link: target} }
	hard := func(name, target string) file { return file{Name: name, Type: tar.TypeLink, Link: target} }
	dir := func(name string) file { return file{Name: name, Type: tar.TypeDir} }
	long := strings.Repeat("../", 20)
	for name, c := range map[string]struct {
		files []file
		error string              // part of it; empty: none
		check func(string) string // what is wrong with the directory
	}{
		"absolute name":              {files: []file{{Name: "/etc/passwd", Body: "x"}}, check: has("etc/passwd")},
		"many slashes":               {files: []file{{Name: "////etc//passwd", Body: "x"}}, check: has("etc/passwd")},
		"dot dot":                    {files: []file{{Name: "../etc/passwd", Body: "x"}}, error: "leads out"},
		"dot dot inside":             {files: []file{{Name: "a/../../etc/passwd", Body: "x"}}, error: "leads out"},
		"dot dot that stays":         {files: []file{{Name: "a/../b", Body: "x"}}, check: has("b")},
		"dot dot as a directory":     {files: []file{dir("..")}, error: "leads out"},
		"through a link":             {files: []file{link("l", "../etc"), {Name: "l/passwd", Body: "x"}}},
		"through an absolute link":   {files: []file{link("l", "/etc"), {Name: "l/passwd", Body: "x"}}, check: has("etc/passwd")},
		"through two links":          {files: []file{link("a", long), link("b", "a/etc"), {Name: "b/passwd", Body: "x"}}},
		"through a loop":             {files: []file{link("a", "b"), link("b", "a"), {Name: "a/x", Body: "x"}}, error: "cannot be unpacked"},
		"over a link":                {files: []file{link("etc", "../etc"), dir("etc"), {Name: "etc/passwd", Body: "x"}}, check: has("etc/passwd")},
		"file over a link":           {files: []file{link("p", "../etc/passwd"), {Name: "p", Body: "x"}}, check: has("p")},
		"hard link out":              {files: []file{hard("p", "../etc/passwd")}, error: "leads out"},
		"hard link absolute":         {files: []file{hard("p", "/etc/passwd")}, error: "cannot be unpacked"},
		"hard link through a link":   {files: []file{link("l", "../etc"), hard("p", "l/passwd"), {Name: "p", Body: "x"}}, error: "cannot be unpacked"},
		"hard link to a link":        {files: []file{link("l", "../etc/passwd"), hard("p", "l")}},
		"hard link to itself":        {files: []file{hard("p", "p")}, error: "cannot be unpacked"},
		"mode through a link":        {files: []file{link("l", "../etc/passwd"), {Name: "l", Type: tar.TypeLink, Link: "l", Mode: 0o777}}, error: "cannot be unpacked"},
		"device":                     {files: []file{{Name: "sda", Type: tar.TypeBlock}, {Name: "mem", Type: tar.TypeChar}, hard("m2", "mem")}, check: hasNot("sda", "mem", "m2")},
		"whiteout as a device":       {files: []file{{Name: "gone", Type: tar.TypeChar}}, check: hasNot("gone")},
		"whiteout of dot dot":        {files: []file{{Name: ".wh..."}}, error: "not a whiteout"},
		"whiteout of dot":            {files: []file{{Name: "a/.wh.."}}, error: "not a whiteout"},
		"whiteout of nothing":        {files: []file{{Name: "a/.wh."}}, error: "not a whiteout"},
		"whiteout outside":           {files: []file{{Name: "../etc/.wh.passwd"}}, error: "leads out"},
		"whiteout through a link":    {files: []file{link("l", "../etc"), {Name: "l/.wh.passwd"}}},
		"opaque through a link":      {files: []file{link("l", "../etc"), {Name: "l/.wh..wh..opq"}}},
		"below a whiteout":           {files: []file{{Name: "a/.wh.b/c", Body: "x"}}, error: "below a whiteout"},
		"AUFS bookkeeping":           {files: []file{{Name: ".wh..wh.plnk/1.2", Body: "x"}, {Name: ".wh..wh.aufs", Body: "x"}}, check: hasNot(".wh..wh.plnk", ".wh..wh.aufs")},
		"overlay's attributes":       {files: []file{{Name: "d", Type: tar.TypeDir, PAX: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}}}, check: noXattrs("d")},
		"labels":                     {files: []file{{Name: "f", PAX: map[string]string{"SCHILY.xattr.security.selinux": "x", "SCHILY.xattr.trusted.x": "y"}}}, check: noXattrs("f")},
		"owner out of range":         {files: []file{{Name: "f", UID: 1 << 32}}, error: "out of range"},
		"owner that changes nothing": {files: []file{{Name: "f", UID: 1<<32 - 1}}, error: "out of range"},
		"too many files":             {files: manyFiles(60), error: "more than the 50 files"},
		"too many implied":           {files: []file{{Name: strings.Repeat("d/", 60) + "f"}}, error: "more than the 50 files"},
		"longer than a path":         {files: []file{{Name: strings.Repeat("d/", 2048) + "f"}}, error: "longer than the 4096 bytes"},
		"names that fill memory":     {files: manyLong(40), error: "longer names"},
		"control characters":         {files: []file{hard("p", "\x1b[2J\u009b\nl")}, error: "linkat  [2J  l p: no such"},
		"too large":                  {files: []file{{Name: "f", Body: strings.Repeat("x", 100_001)}}, error: "more than the 100000 bytes"},
		"too large together":         {files: []file{{Name: "a", Body: strings.Repeat("x", 60_000)}, {Name: "b", Body: strings.Repeat("x", 60_000)}}, error: "more than the 100000 bytes"},
		"name of NULs":               {files: []file{{Name: "a", PAX: map[string]string{}}}, check: has("a")},
		"long name":                  {files: []file{{Name: strings.Repeat("x", 300)}}, error: "cannot be unpacked"},
		"pipe":                       {files: []file{{Name: "p", Type: tar.TypeFifo}}, check: has("p")},
		"file as a directory":        {files: []file{{Name: "f", Body: "x"}, {Name: "f/g", Body: "x"}}, check: has("f/g")},
		"root as a link":             {files: []file{link(".", "/etc"), link("/", "/etc"), {Name: "passwd", Body: "x"}}, check: has("passwd")},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, func(o *Options) { o.MaxLayerSize, o.MaxLayerEntries = 100_000, 50 })
			root, _, err := unpackTo(t, s, imagetest.Tar(c.files...))
			var bad *badImageError
			if c.error == "" && err != nil && !errors.As(err, &bad) || c.error != "" && (!errors.As(err, &bad) || !strings.Contains(err.Error(), c.error)) {
				t.Fatalf("error %v, want %q", err, c.error)
			}
			if err != nil && strings.Contains(err.Error(), root) {
				t.Errorf("the message tells this server's paths: %v", err)
			}
			if c.check != nil {
				if err != nil {
					t.Fatal(err)
				}
				if wrong := c.check(root); wrong != "" {
					t.Error(wrong)
				}
			}
		})
	}
}

func manyFiles(n int) []file {
	var files []file
	for i := range n {
		files = append(files, file{Name: fmt.Sprint(i)})
	}
	return files
}

func manyLong(n int) []file {
	var files []file
	for i := range n {
		files = append(files, file{Name: fmt.Sprintf("%0240d", i), Type: tar.TypeDir})
	}
	return files
}

func has(names ...string) func(string) string {
	return func(root string) string {
		for _, n := range names {
			if _, err := os.Lstat(filepath.Join(root, n)); err != nil {
				return err.Error()
			}
		}
		return ""
	}
}

func hasNot(names ...string) func(string) string {
	return func(root string) string {
		for _, n := range names {
			if _, err := os.Lstat(filepath.Join(root, n)); !errors.Is(err, fs.ErrNotExist) {
				return n + " is there"
			}
		}
		return ""
	}
}

func noXattrs(name string) func(string) string {
	return func(root string) string {
		buf := make([]byte, 1024)
		n, err := unix.Llistxattr(filepath.Join(root, name), buf)
		if err != nil {
			return err.Error()
		}
		if got := strings.ReplaceAll(string(buf[:n]), "security.selinux\x00", ""); got != "" {
			return "attributes " + got
		}
		return ""
	}
}
