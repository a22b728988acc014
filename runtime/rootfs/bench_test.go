package rootfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"reconciler/runtime/rootfs"
)

// BenchmarkSetup is a fresh root file system and its end, as at every restart.
func BenchmarkSetup(b *testing.B) {
	b.Run("server's ids", func(b *testing.B) { benchmarkSetup(b, 0) })
	b.Run("own ids", func(b *testing.B) { benchmarkSetup(b, mapped) })
}

func benchmarkSetup(b *testing.B, first uint32) {
	if os.Geteuid() != 0 {
		b.Skip("mounting needs root")
	}
	dir, err := filepath.EvalSymlinks(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	if err = os.Chmod(filepath.Dir(dir), 0o711); err != nil { //nolint:gosec // only the benchmark's own files are in there
		b.Fatal(err)
	}
	layer := filepath.Join(dir, "layer")
	for _, d := range []string{layer, dir + "/state", dir + "/run"} {
		if err = os.Mkdir(d, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	s, err := rootfs.Open(rootfs.Options{StateDir: dir + "/state", RunDir: dir + "/run"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Setup(b.Context(), "web-1", rootfs.Request{Owner: web, Layers: []string{layer}, Users: nobody, FirstID: first}); err != nil {
			b.Fatal(err)
		}
		if err := s.Teardown("web-1"); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		b.Error(err)
	}
}
