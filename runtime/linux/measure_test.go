package linux

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"reconciler/runtime"
)

// What cgroups of both versions say means the same.
func TestMeasure(t *testing.T) {
	const path = "reconciler/default/web-1"
	want := runtime.Stats{CPU: 1500 * time.Millisecond, Memory: 6 << 20, Pids: 3, DiskRead: 5120, DiskWritten: 12288}
	for version, files := range map[string]map[string]string{
		"v2": {
			"cgroup.controllers":       "cpu io memory pids\n",
			path + "/cpu.stat":         "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n",
			path + "/memory.current":   "8388608\n",
			path + "/memory.stat":      "anon 4194304\nfile 4194304\ninactive_file 2097152\nactive_file 2097152\n",
			path + "/pids.current":     "3\n",
			path + "/io.stat":          "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n259:1 \n8:16 rbytes=1024 wbytes=4096 rios=1 wios=1 dbytes=7 dios=1\n",
			"reconciler/cgroup.procs":  "",
			path + "/cgroup.freeze":    "0\n",
			path + "/memory.max":       "max\n",
			path + "/memory.swap.peak": "1\n",
		},
		"v1": {
			"cpuacct/" + path + "/cpuacct.usage":                           "1500000000\n",
			"memory/" + path + "/memory.usage_in_bytes":                    "8388608\n",
			"memory/" + path + "/memory.stat":                              "cache 4194304\ninactive_file 1\ntotal_cache 4194304\ntotal_inactive_file 2097152\n",
			"pids/" + path + "/pids.current":                               "3\n",
			"blkio/" + path + "/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n8:0 Async 0\n8:0 Discard 7\n8:0 Total 12288\n8:16 Read 1024\n8:16 Write 4096\n8:16 Total 5120\nTotal 17408\n",
		},
		"v1 that lacks a controller": {
			"cpuacct/" + path + "/cpuacct.usage":        "1500000000\n",
			"memory/" + path + "/memory.usage_in_bytes": "6291456\n",
		},
	} {
		root := t.TempDir()
		for name, content := range files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		expected := want
		if version == "v1 that lacks a controller" {
			expected.Pids, expected.DiskRead, expected.DiskWritten = 0, 0, 0
		}
		var got runtime.Stats
		if err := measure(root, path, &got); err != nil || got != expected {
			t.Errorf("%s: %+v, %v; want %+v", version, got, err, expected)
		}
		if err := measure(root, path+"-gone", &got); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a cgroup that is gone: %v", version, err)
		}
	}
}
