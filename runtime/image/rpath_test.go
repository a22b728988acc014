package image

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reconciler/runtime"
)

// compile makes a program or, where its name ends in .so, a library.
func compile(t *testing.T, source, out string, args ...string) {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("needs gcc")
	}
	file := filepath.Join(t.TempDir(), "main.c")
	if err = os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if err = os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(out, ".so") {
		args = append(args, "-shared", "-fPIC", "-Wl,-soname,"+filepath.Base(out))
	}
	cmd := exec.CommandContext(t.Context(), gcc, append([]string{"-o", out, file}, args...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

// programWithLibraries makes bin/prog, which needs lib/liba.so, which needs lib/libb.so, and returns its path. The flag says whether
// the program's path for libraries is a DT_RPATH or a DT_RUNPATH; liba's is libaPath, if not empty.
func programWithLibraries(t *testing.T, dir, flag, libaPath string) string {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	compile(t, `int b(void) { return 42; }`, in("lib/libb.so"))
	var args []string
	if libaPath != "" {
		args = append(args, "-Wl,-rpath,"+libaPath)
	}
	compile(t, `int b(void); int a(void) { return b(); }`, in("lib/liba.so"), append(args, "-L"+in("lib"), "-l:libb.so")...)
	compile(t, `#include <stdio.h>
int a(void); int main(void) { printf("%d\n", a()); return 0; }`, in("bin/prog"),
		"-L"+in("lib"), "-l:liba.so", "-Wl,"+flag, "-Wl,-rpath,$ORIGIN/../lib", "-Wl,-rpath-link,"+in("lib"))
	return in("bin/prog")
}

func TestCaptureFindsLibrariesAsTheLoaderDoes(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct{ flag, libaPath string }{
		// A DT_RPATH counts for the libraries of libraries too, a DT_RUNPATH does not.
		"the program's RPATH":  {"--disable-new-dtags", ""},
		"each its own RUNPATH": {"--enable-new-dtags", "$ORIGIN"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			prog := programWithLibraries(t, dir, c.flag, c.libaPath)
			s := newStore(t, allowing(dir))
			for what, p := range map[string]runtime.Path{
				"as it is":          {From: prog, To: prog},
				"somewhere else":    {From: prog, To: "/app/bin/prog"},
				"with all about it": {From: dir, To: dir},
				"all elsewhere":     {From: dir, To: "/srv"},
			} {
				img, err := s.Capture(t.Context(), []runtime.Path{p}, strings.ReplaceAll(name+what, " ", ""))
				if err != nil {
					t.Errorf("%s: %v", what, err)
					continue
				}
				run := p.To
				if p.From == dir {
					run = p.To + "/bin/prog"
				}
				if out, err := inside(t, img, run); err != nil || out != "42" {
					t.Errorf("%s: %q %v", what, out, err)
				}
				if len(img.Warnings) > 0 {
					t.Errorf("%s: warnings %q", what, img.Warnings)
				}
			}
		})
	}
}

// Libraries in a directory that only ld.so.conf names are found by means of the loader's cache.
func TestCaptureOfLibrariesThatTheCacheKnows(t *testing.T) {
	needRoot(t)
	needFile(t, "/sbin/ldconfig")
	dir := t.TempDir()
	lib, etc := filepath.Join(dir, "lib"), filepath.Join(dir, "etc")
	prog := programWithLibraries(t, dir, "--enable-new-dtags", "/nowhere")
	compile(t, `#include <stdio.h>
int a(void); int main(void) { printf("%d\n", a()); return 0; }`, prog, "-L"+lib, "-l:liba.so", "-Wl,-rpath-link,"+lib)
	for name, text := range map[string]string{"ld.so.conf": "# none here\ninclude conf.d/*.conf\n", "conf.d/app.conf": lib + " # ours\n"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(etc, "conf.d"), 0o755), os.WriteFile(filepath.Join(etc, name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	ldconfig := exec.CommandContext(t.Context(), "/sbin/ldconfig", "-X", "-f", filepath.Join(etc, "ld.so.conf"), "-C", filepath.Join(etc, "ld.so.cache"))
	if out, err := ldconfig.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := newStore(t, allowing(filepath.Join(dir, "bin")))
	c := newCollector(s.opts, s.opts.Dir)
	c.libs.etc = etc
	if err := c.collect(t.Context(), same(prog)); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := c.write(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	root, _, err := unpackDir(s, archive.Bytes(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if out, err := inside(t, Image{Layers: []string{root}}, prog); err != nil || out != "42" {
		t.Errorf("%q %v", out, err)
	}
}

func TestCaptureNamesLibrariesThatAreNotFound(t *testing.T) {
	dir := t.TempDir()
	programWithLibraries(t, dir, "--enable-new-dtags", "")
	img := captured(t, newStore(t, allowing(dir)), filepath.Join(dir, "bin/prog"))
	if len(img.Warnings) != 1 || !strings.Contains(img.Warnings[0], `liba.so: the library "libb.so" that it names was not found`) {
		t.Errorf("warnings %q", img.Warnings)
	}
}

// Libraries that load each other in a circle, each with a path of its own, come to an end.
func TestCaptureOfLibrariesInACircle(t *testing.T) {
	dir := t.TempDir()
	prog := programWithLibraries(t, dir, "--disable-new-dtags", "")
	lib := filepath.Join(dir, "lib")
	compile(t, `int b(void) { return 42; }`, filepath.Join(lib, "libb.so"), "-L"+lib, "-l:liba.so", "-Wl,--no-as-needed", "-Wl,--disable-new-dtags",
		"-Wl,-rpath,$ORIGIN/../lib/.", "-l:liba.so")
	img := captured(t, newStore(t, allowing(dir)), prog)
	if len(img.Warnings) > 0 {
		t.Errorf("warnings %q", img.Warnings)
	}
}
