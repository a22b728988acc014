package rootfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
)

func config(path string, content map[string]string) runtime.Mount {
	files := &runtime.Files{Name: "web", Mode: 0o640, Content: map[string][]byte{}}
	for key, text := range content {
		files.Content[key] = []byte(text)
	}
	return runtime.Mount{Path: path, Files: files}
}

// names lists what is in a directory.
func (b *bench) names(dir string) []string {
	b.t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (b *bench) swap(id runtime.ID, first uint32, mounts, swapped []runtime.Mount) {
	b.t.Helper()
	if err := b.Swap(id, mounts, swapped, first); err != nil {
		b.t.Fatal(err)
	}
}

func TestSwapReplacesAWholeDirectory(t *testing.T) {
	b := newStore(t)
	b.open()
	const first = 1 << 20
	b.write("secret/web/token", "old")
	mounts := []runtime.Mount{
		{Path: "/run/secrets", Secret: &runtime.Secret{Name: "web", Directory: b.dir + "/secret/web", Mode: 0o400}},
		config("/etc/web", map[string]string{"kept": "1", "gone": "1"}),
		config("/etc/other", map[string]string{"other": "1"}),
	}
	root, err := b.Setup(t.Context(), "web-1", rootfs.Request{Owner: web, Layers: []string{b.layer}, Mounts: mounts, Users: nobody, FirstID: first})
	if err != nil {
		t.Fatal(err)
	}
	defer b.teardown("web-1")
	sources := map[string]string{}
	for _, m := range root.Mounts {
		sources[m.Path] = m.Source
	}
	etc, secrets := sources["/etc/web"], sources["/run/secrets"]
	b.write("secret/web/token", "new")
	b.write("secret/web/more", "more")
	now := []runtime.Mount{mounts[0], config("/etc/web", map[string]string{"kept": "2", "come": "2"}), mounts[2]}
	b.swap("web-1", first, now, now[:2])
	for path, want := range map[string]string{
		etc + "/kept": "2", etc + "/come": "2", secrets + "/token": "new", secrets + "/more": "more", sources["/etc/other"] + "/other": "1",
	} {
		if got := b.content(path); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
		for _, look := range []func(string, *unix.Stat_t) error{unix.Stat, unix.Lstat} {
			var st unix.Stat_t
			if err := look(path, &st); err != nil || st.Uid != first || st.Gid != first {
				t.Errorf("%s belongs to %d:%d, %v, want %d", path, st.Uid, st.Gid, err, first)
			}
		}
	}
	if st, err := os.Stat(etc + "/come"); err != nil || st.Mode() != 0o640 {
		t.Errorf("the mode is %v, %v", st, err)
	}
	if _, err := os.Lstat(etc + "/gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key that went is still there: %v", err)
	}
	if !strings.HasPrefix(secrets, b.run+"/containers/") {
		t.Errorf("the secret is in %s, not in memory", secrets)
	}
	// Of what was there before no more than one is kept.
	for range 3 {
		b.swap("web-1", first, now, now[:2])
	}
	for _, dir := range []string{etc, secrets} {
		if n := len(b.names(dir)); n != 5 { // two keys, ..data, the present and the one before
			t.Errorf("%s holds %v", dir, b.names(dir))
		}
	}
}

// Who opens the directory sees one content, whole, and a name is never missing, whenever it is swapped.
func TestReadersNeverSeeHalfOfASwap(t *testing.T) {
	b := newStore(t)
	content := func(n int) []runtime.Mount {
		return []runtime.Mount{config("/etc/web", map[string]string{"one": fmt.Sprint(n), "two": fmt.Sprint(n), fmt.Sprintf("only-%d", n): ""})}
	}
	root := b.setup("web-1", content(0)...)
	defer b.teardown("web-1")
	dir := root.Mounts[0].Source
	stop, read := make(chan struct{}), make(chan error)
	go func() {
		defer close(read)
		for {
			err := readWhole(dir)
			select {
			case read <- err:
			case <-stop:
				return
			}
		}
	}()
	for n := 1; n <= 200; n++ {
		b.swap("web-1", 0, content(n), content(n))
		// One that began before this swap may take as long as it wants, the next one begins after it.
		if err := errors.Join(<-read, <-read); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	for range read { // until it has ended
	}
	if names := b.names(dir); !slices.Contains(names, "only-200") || slices.Contains(names, "only-199") {
		t.Errorf("after the last swap there are %v", names)
	}
}

// readWhole reads all of one generation, through a directory that stays open, and one file by its name.
func readWhole(dir string) error {
	whole, err := os.OpenRoot(dir + "/..data")
	if err != nil {
		return err
	}
	defer func() { _ = whole.Close() }()
	one, err := whole.ReadFile("one")
	if err != nil {
		return err
	}
	two, err := whole.ReadFile("two")
	if err != nil {
		return err
	}
	entries, err := fs.ReadDir(whole.FS(), ".")
	if err != nil || string(one) != string(two) || len(entries) != 3 {
		return fmt.Errorf("one is %q, two is %q, %v, %w", one, two, entries, err)
	}
	_, err = os.ReadFile(dir + "/one")
	return err
}

// What a Swap that was cut short at any place has left is mended by the next one.
func TestSwapGoesOnAfterACrash(t *testing.T) {
	old, now := map[string]string{"kept": "1", "gone": "1"}, map[string]string{"kept": "2", "come": "2"}
	for what, leave := range map[string]func(dir string) error{
		"half of the files": func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/..2", 0o755), os.WriteFile(dir+"/..2/kept", []byte("2"), 0o400))
		},
		"a link that was not moved": func(dir string) error { return os.Symlink("..2", dir+"/..data_tmp") },
		"no link of a new key": func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/..2", 0o755), os.WriteFile(dir+"/..2/come", nil, 0o400),
				os.Symlink("..2", dir+"/..data_tmp"), os.Rename(dir+"/..data_tmp", dir+"/..data"))
		},
	} {
		t.Run(what, func(t *testing.T) {
			b := newStore(t)
			root := b.setup("web-1", config("/etc/web", old))
			defer b.teardown("web-1")
			dir := root.Mounts[0].Source
			if err := leave(dir); err != nil {
				t.Fatal(err)
			}
			mounts := []runtime.Mount{config("/etc/web", now)}
			b.swap("web-1", 0, mounts, mounts)
			if got := b.content(dir+"/kept") + b.content(dir+"/come"); got != "22" {
				t.Errorf("the files hold %q", got)
			}
			names := b.names(dir)
			if slices.Contains(names, "gone") || slices.Contains(names, "..data_tmp") || len(names) != 5 {
				t.Errorf("there are %v", names)
			}
		})
	}
}

// A Secret that cannot be read leaves what is there.
func TestSwapOfWhatCannotBeReadChangesNothing(t *testing.T) {
	b := newStore(t)
	token := b.write("secret/web/token", "old")
	mounts := []runtime.Mount{{Path: "/run/secrets", Secret: &runtime.Secret{Name: "web", Directory: b.dir + "/secret/web"}}}
	root := b.setup("web-1", mounts...)
	defer b.teardown("web-1")
	if err := errors.Join(os.Remove(token), os.Remove(filepath.Dir(token))); err != nil {
		t.Fatal(err)
	}
	if err := b.Swap("web-1", mounts, mounts, 0); err == nil || !strings.Contains(err.Error(), "mount secret web") {
		t.Errorf("swapped: %v", err)
	}
	if got := b.content(root.Mounts[0].Source + "/token"); got != "old" {
		t.Errorf("the token is %q", got)
	}
}
