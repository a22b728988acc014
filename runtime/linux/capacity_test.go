package linux

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCapacityOfACgroup(t *testing.T) {
	all := capacity(t.TempDir(), "/")
	if all.CPUMillis != 1000*int64(goruntime.NumCPU()) || all.Memory < 64<<20 || all.Memory%(1<<20) != 0 || all.Disk <= 0 {
		t.Fatalf("without a cgroup the capacity is %+v", all)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		want  Capacity
	}{
		{"v2", map[string]string{"cpu.max": "50000 100000\n", "memory.max": "33554432\n"}, Capacity{500, 32 << 20, all.Disk}},
		{"v2 without limits", map[string]string{"cpu.max": "max 100000\n", "memory.max": "max\n"}, all},
		{"v2 with more than there is", map[string]string{"cpu.max": "99900000 100000\n", "memory.max": "4611686018427387904\n"}, all},
		{
			"v1",
			map[string]string{"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n", "memory/memory.limit_in_bytes": "33554432\n"},
			Capacity{500, 32 << 20, all.Disk},
		},
		{
			"v1 without limits", map[string]string{"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, all,
		},
		{"not what a kernel says", map[string]string{"cpu.max": "1 0\n", "memory.max": "\n"}, all},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range c.files {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := capacity(root, "/"); got != c.want {
				t.Errorf("capacity is %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestCapacityBeforeTheFirstStart asks for the disk of a directory that is not there yet.
func TestCapacityBeforeTheFirstStart(t *testing.T) {
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	want := int64(st.Blocks) * st.Bsize &^ (1<<20 - 1)
	if got := capacity(t.TempDir(), filepath.Join(dir, "lib", "reconciler")); got.Disk != want {
		t.Errorf("disk is %d bytes, want %d", got.Disk, want)
	}
}
