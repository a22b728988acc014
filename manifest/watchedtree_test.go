package manifest

import (
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"
)

var errDamaged = errors.New("damaged")

// brokenTree has one name that cannot be opened, or only not read.
type brokenTree struct {
	fstest.MapFS

	open, read string
}

func (b brokenTree) Open(name string) (fs.File, error) {
	if name == b.open {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errDamaged}
	}
	f, err := b.MapFS.Open(name)
	if name == b.read && err == nil {
		return brokenFile{f}, nil
	}
	return f, err
}

type brokenFile struct{ fs.File }

func (brokenFile) Read([]byte) (int, error) { return 0, errDamaged }

// What cannot be read because the disk is damaged must not look like a mistake in the commit.
func TestUnreadable(t *testing.T) {
	tree := fstest.MapFS{
		"a.yaml":   {Data: []byte("apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: web}\nfiles: {logo: ./logo.png}\n")},
		"w.yaml":   {Data: []byte("apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: web}\nspec: {image: web:1, mounts: [{path: /c, config: web}]}\n")},
		"logo.png": {Data: []byte("png")},
	}
	if _, err := Load(tree, Revision{}, Node{Name: "edge"}); err != nil {
		t.Fatal(err)
	}
	loader := Loader{Unreadable: func(err error) bool { return errors.Is(err, errDamaged) }}
	for _, broken := range []brokenTree{{open: "a.yaml"}, {read: "w.yaml"}, {open: "logo.png"}, {read: "logo.png"}} {
		broken.MapFS = tree
		_, err := loader.Load(broken, Revision{}, Node{Name: "edge"})
		if !errors.Is(err, errDamaged) || Problems(err) != nil {
			t.Errorf("open %q, read %q: %v, want the damage and no problem", broken.open, broken.read, err)
		}
		if _, err := Load(broken, Revision{}, Node{Name: "edge"}); Problems(err) == nil {
			t.Errorf("open %q, read %q: %v, want problems", broken.open, broken.read, err)
		}
	}
}
