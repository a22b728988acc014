package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

func captured(t *testing.T, s *Store, paths ...string) Image {
	t.Helper()
	img, err := s.Capture(t.Context(), same(paths...), t.Name())
	if err != nil {
		t.Fatalf("%v (hint %q)", err, runtime.HintOf(err))
	}
	return img
}

func same(paths ...string) []runtime.Path {
	var ps []runtime.Path
	for _, p := range paths {
		ps = append(ps, runtime.Path{From: p, To: p})
	}
	return ps
}

func allowing(prefixes ...string) func(*Options) {
	return func(o *Options) { o.AllowCapture = prefixes }
}

// inside runs a command in an image with nothing but chroot.
func inside(t *testing.T, img Image, argv ...string) (string, error) {
	t.Helper()
	needRoot(t)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Path, cmd.Err = argv[0], nil
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: img.Layers[0]}
	cmd.Dir = "/"
	// Without /proc a loader asks the variable what $ORIGIN is.
	cmd.Env = []string{"PATH=" + DefaultPath, "LD_ORIGIN_PATH=" + filepath.Dir(argv[0])}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func needFile(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := os.Stat(n); err != nil {
			t.Skipf("needs %s on this machine", n)
		}
	}
}

func TestCapturedProgramsRun(t *testing.T) {
	needRoot(t)
	needFile(t, "/usr/bin/python3", "/bin/ls", "/usr/bin/env", "/usr/bin/awk", "/usr/bin/perl")
	s := newStore(t, allowing("/usr", "/bin"))
	lib, err := filepath.Glob("/usr/lib/python3.*")
	if err != nil || len(lib) == 0 {
		t.Skip("needs the standard library of python3")
	}
	img := captured(t, s, append([]string{"/bin/ls", "/usr/bin/env", "/usr/bin/python3", "/usr/bin/awk", "/bin/sh", "/bin/cat"}, lib...)...)
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"/bin/ls", "-d", "/tmp"}, "/tmp"},
		{[]string{"/usr/bin/ls", "-d", "/tmp"}, "/tmp"},
		{[]string{"/usr/bin/env", "python3", "-c", "import json, hashlib, zlib; print(json.dumps([1]))"}, "[1]"},
		{[]string{"/usr/bin/awk", "BEGIN {print 6 * 7}"}, "42"},
		{[]string{"/bin/sh", "-c", "cat /etc/passwd"}, "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin"},
	} {
		if out, runErr := inside(t, img, c.argv...); runErr != nil || out != c.want {
			t.Errorf("%v: %q, %v; want %q", c.argv, out, runErr, c.want)
		}
	}
	if p, lookErr := img.LookPath("python3", "", ""); lookErr != nil || p != "/usr/bin/python3" {
		t.Errorf("LookPath: %q %v", p, lookErr)
	}
	if u, lookErr := img.LookUser("nobody"); lookErr != nil || u.UID != 65534 {
		t.Errorf("LookUser: %+v %v", u, lookErr)
	}
	info, err := os.Stat(filepath.Join(img.Layers[0], "tmp"))
	if err != nil || info.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("/tmp: %v %v", info.Mode(), err)
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "etc"} {
		if info, err := os.Stat(filepath.Join(img.Layers[0], d)); err != nil || !info.IsDir() {
			t.Errorf("/%s: %v", d, err)
		}
	}
}

func TestCaptureIsTakenOnceForEachKey(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "app/config")
	write := func(text string) {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	s := newStore(t, allowing(dir))
	paths := []runtime.Path{{From: file, To: "/etc/app.conf"}}
	take := func(s *Store, key string) Image {
		img, err := s.Capture(t.Context(), paths, key)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	first := take(s, "a")
	if read(t, first, "/etc/app.conf") != "one" || first.Ref != "capture:a" {
		t.Fatalf("%+v", first)
	}
	if st, err := os.Stat(filepath.Join(first.Layers[0], "etc/app.conf")); err != nil || st.Mode() != 0o640 || st.ModTime().Unix() != 1e9 {
		t.Fatalf("mode or time were not kept: %v %v", st, err)
	}
	if other := take(newStore(t, allowing(dir)), "b"); other.Digest != first.Digest {
		t.Error("equal content has another digest")
	}
	write("two")
	if again := take(s, "a"); again.Digest != first.Digest || read(t, again, "/etc/app.conf") != "one" {
		t.Error("the same key was taken again")
	}
	if second := take(s, "b"); second.Digest == first.Digest || read(t, second, "/etc/app.conf") != "two" {
		t.Error("another key was not taken")
	}
	if err := os.RemoveAll(filepath.Dir(first.Layers[0])); err != nil {
		t.Fatal(err)
	}
	if again := take(s, "a"); again.Digest != first.Digest || read(t, again, "/etc/app.conf") != "one" {
		t.Error("a captured image whose layer is gone was not unpacked from what was kept")
	}
	var out bytes.Buffer
	if err := s.Save(t.Context(), "capture:a", &out); err != nil {
		t.Fatal(err)
	}
	if loaded, err := newStore(t).Load(t.Context(), &out); err != nil || loaded[0].Ref != "capture:a" || loaded[0].Digest != first.Digest {
		t.Fatalf("a captured image cannot be moved to another server: %+v %v", loaded, err)
	}
	leftovers(t, s)
}

func TestCaptureOfATree(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"app/sub", "elsewhere", "secret"} {
		if err := os.MkdirAll(in(d), 0o751); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"app/a": "a", "app/sub/b": "b", "elsewhere/c": "c", "secret/key": "key"} {
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Link(in("app/a"), in("app/hard")))
	must(os.Symlink("a", in("app/rel")))
	must(os.Symlink(in("elsewhere/c"), in("app/out")))
	must(os.Symlink(in("secret/key"), in("app/leak")))
	must(os.Symlink(in("app"), in("entry")))
	must(os.Chown(in("app/a"), 12, 34))
	must(os.Chmod(in("app/a"), 0o600|fs.ModeSetuid))
	must(unix.Setxattr(in("app/sub/b"), "user.note", []byte("n"), 0))
	must(unix.Mkfifo(in("app/pipe"), 0o600))
	s := newStore(t, allowing(in("app"), in("elsewhere"), in("entry")))
	img := captured(t, s, in("entry"))

	at := func(name string) string { return filepath.Join(img.Layers[0], in(name)) }
	if read(t, img, in("entry/sub/b")) != "b" || read(t, img, in("app/rel")) != "a" || read(t, img, in("app/out")) != "c" {
		t.Error("not every path works inside")
	}
	if _, err := os.Lstat(at("secret")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a link reached what is not allowed")
	}
	if target, err := os.Readlink(at("app/leak")); err != nil || target != in("secret/key") {
		t.Errorf("a link that leads nowhere inside was not kept: %v", err)
	}
	info, err := os.Stat(at("app/a"))
	must(err)
	if st := statOf(info); st.Uid != 12 || st.Gid != 34 || st.Nlink != 2 || st.Mode&0o7777 != 0o4600 {
		t.Errorf("owner, links or mode: %d:%d %d %o", st.Uid, st.Gid, st.Nlink, st.Mode)
	}
	buf := make([]byte, 8)
	if n, err := unix.Getxattr(at("app/sub/b"), "user.note", buf); err != nil || string(buf[:n]) != "n" {
		t.Errorf("extended attribute: %v", err)
	}
	if len(img.Warnings) != 1 || !strings.Contains(img.Warnings[0], "app/pipe was left out: it is a pipe") {
		t.Errorf("warnings %q", img.Warnings)
	}
}

// badELF makes a program whose headers name a loader and a library path of an attacker's choice.
func badELF(t *testing.T, file, interp string) {
	t.Helper()
	var b bytes.Buffer
	hdr := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1}, Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64),
		Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	prog := elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 120, Filesz: uint64(len(interp) + 1)}
	for _, v := range []any{hdr, prog, []byte(interp + "\x00")} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestCaptureRefuses(t *testing.T) {
	dir := t.TempDir()
	allowed := filepath.Join(dir, "allowed")
	secret := filepath.Join(dir, "secret")
	in := func(name string) string { return filepath.Join(allowed, name) }
	if err := os.MkdirAll(allowed, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte("key"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"script": "#!" + secret + "\n", "env": "#!/usr/bin/env no-such-program-anywhere\n", "up": "#!" + allowed + "/../secret\n",
	} {
		if err := os.WriteFile(in(name), []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	badELF(t, in("elf"), secret)
	badELF(t, in("elf-relative"), "../secret")
	// A shared object like any other, but not where this server keeps its own.
	self, err := os.ReadFile("/lib64/ld-linux-x86-64.so.2")
	if err == nil {
		if err = os.WriteFile(filepath.Join(dir, "ld.so"), self, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	badELF(t, in("elf-elsewhere"), filepath.Join(dir, "ld.so"))
	if err := os.Symlink(secret, in("link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", in("updir")); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, allowing(allowed, "/proc"))
	state := s.opts.Dir
	all := newStore(t, func(o *Options) { o.AllowCapture, o.Dir = []string{"/"}, state })
	for name, c := range map[string]struct {
		store        *Store
		from, to     string
		reason, text string
		permanent    bool
	}{
		"not allowed":            {s, secret, "", runtime.ReasonNotAllowed, "not below --allow-capture", true},
		"by dot dot":             {s, allowed + "/../secret", "", runtime.ReasonNotAllowed, "not below", true},
		"a longer name":          {s, allowed + "-not", "", runtime.ReasonNotAllowed, "not below", true},
		"through a link":         {s, in("link"), "", runtime.ReasonNotAllowed, "leads to", true},
		"through a link's path":  {s, in("updir/secret"), "", runtime.ReasonNotAllowed, "leads to", true},
		"renamed through a link": {s, in("link"), "/x", runtime.ReasonNotAllowed, "leads to", true},
		"the kernel's files":     {s, "/proc/self/status", "", runtime.ReasonNotAllowed, "the kernel", true},
		"the agent's own":        {all, filepath.Join(state, "images/oci-layout"), "", runtime.ReasonNotAllowed, "the agent", true},
		"missing":                {s, in("nothing"), "", runtime.ReasonInvalidImage, "no such file", false},
		"relative":               {all, "etc/passwd", "", runtime.ReasonInvalidImage, "absolute", true},
		"relative inside":        {s, in("script"), "x", runtime.ReasonInvalidImage, "absolute", true},
		"as the root":            {s, allowed, "/", runtime.ReasonInvalidImage, "root", true},
		"interpreter":            {s, in("script"), "", runtime.ReasonInvalidImage, "not a program", false},
		"interpreter by dots":    {s, in("up"), "", runtime.ReasonInvalidImage, "not a program", false},
		"env":                    {s, in("env"), "", runtime.ReasonInvalidImage, "no-such-program", false},
		"loader":                 {s, in("elf"), "", runtime.ReasonInvalidImage, "its loader", false},
		"loader elsewhere":       {s, in("elf-elsewhere"), "", runtime.ReasonInvalidImage, "its loader", false},
		"relative loader":        {s, in("elf-relative"), "", runtime.ReasonInvalidImage, "its loader", false},
	} {
		t.Run(name, func(t *testing.T) {
			to := c.to
			if to == "" {
				to = c.from
			}
			_, err := c.store.Capture(t.Context(), []runtime.Path{{From: c.from, To: to}}, "k")
			var e *runtime.Error
			if !errors.As(err, &e) || runtime.ReasonOf(err) != c.reason || e.Permanent != c.permanent || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v (%+v)", err, e)
			}
		})
	}
	if _, ok, err := s.Find("capture:k", ""); ok || err != nil {
		t.Error("something was captured")
	}
	leftovers(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Capture(ctx, same(in("script")), "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// FuzzELF reads arbitrary files as a program.
func FuzzELF(f *testing.F) {
	if b, err := os.ReadFile("/bin/true"); err == nil && len(b) < 1<<20 {
		f.Add(b)
	}
	f.Add([]byte(elf.ELFMAG))
	f.Fuzz(func(_ *testing.T, b []byte) {
		o, err := readELF("/x", bytes.NewReader(b))
		if err == nil && len(o.interp) > 4096 {
			panic("a loader's name without a bound")
		}
	})
}
