package rootfs_test

import (
	"os"
	"path/filepath"
	"testing"

	"reconciler/runtime"
	"reconciler/runtime/rootfs"
)

// BenchmarkSetup is a fresh root file system and its end, as at every restart.
func BenchmarkSetup(b *testing.B) {
	b.Run("server's ids", func(b *testing.B) { benchmarkSetup(b, rootfs.Request{}) })
	b.Run("own ids", func(b *testing.B) { benchmarkSetup(b, rootfs.Request{FirstID: mapped}) })
	b.Run("disk of 64 MiB", func(b *testing.B) { benchmarkSetup(b, rootfs.Request{Disk: 64 << 20}) })
	b.Run("disk of 1 GiB", func(b *testing.B) { benchmarkSetup(b, rootfs.Request{Disk: 1 << 30}) })
	b.Run("volume of 64 MiB", func(b *testing.B) {
		benchmarkSetup(b, rootfs.Request{Mounts: []runtime.Mount{sized("/data", 64<<20)}})
	})
}

func benchmarkSetup(b *testing.B, req rootfs.Request) {
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
	req.Owner, req.Layers, req.Users = web, []string{layer}, nobody
	for b.Loop() {
		if _, err := s.Setup(b.Context(), "web-1", req); err != nil {
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
