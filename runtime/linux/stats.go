package linux

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"reconciler/runtime"
)

// Stats implements runtime.Runtime. Of bytes to and from devices it tells what cgroups do: on v1 not what the kernel writes
// later, and what goes through a loop device may count twice. Disk is exact for a limited one, else some seconds old.
func (r *Runtime) Stats(ctx context.Context) ([]runtime.Stats, error) {
	const op = "measure containers"
	if err := ctx.Err(); err != nil {
		return nil, failure(op, "", runtime.Name{}, err)
	}
	list, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	traffic, err := r.net.Traffic()
	if err != nil {
		return nil, failure(op, "", runtime.Name{}, err)
	}
	var all []runtime.Stats
	for _, st := range list {
		if st.State != runtime.StateRunning {
			continue
		}
		m := runtime.Stats{
			ID: st.ID, Name: st.Spec.Name, Time: time.Now().UTC(), MemoryLimit: st.Spec.Limits.Memory, PidsLimit: st.Spec.Limits.Pids,
			DiskLimit:       st.Spec.Limits.Disk,
			NetworkReceived: traffic[st.ID].Received, NetworkSent: traffic[st.ID].Sent,
		}
		if err = measure(cgroupRoot, filepath.Join("reconciler", r.cfg.Instance, string(st.ID)), &m); err == nil {
			m.Disk, err = r.roots.Usage(ctx, st.ID, st.Spec.Limits.Disk > 0)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return nil, failure(op, st.ID, st.Spec.Name, err)
		}
		all = append(all, m)
	}
	return all, nil
}

// measure fills in what the cgroups at path below root tell, of either version. What they do not tell stays zero; that they
// are gone is an error that wraps fs.ErrNotExist.
func measure(root, path string, m *runtime.Stats) error {
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return measureV2(filepath.Join(root, path), m)
	}
	return measureV1(root, path, m)
}

func measureV2(dir string, m *runtime.Stats) error {
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	m.CPU = time.Duration(keyed(dir, "cpu.stat")["usage_usec"]) * time.Microsecond
	m.Memory = max(0, single(dir, "memory.current")-keyed(dir, "memory.stat")["inactive_file"])
	m.Pids = single(dir, "pids.current")
	for _, word := range readWords(dir, "io.stat") { // "8:0 rbytes=1 wbytes=2 …" for each device
		key, value, _ := strings.Cut(word, "=")
		n, _ := strconv.ParseInt(value, 10, 64) // "8:0" has no value
		switch key {
		case "rbytes":
			m.DiskRead += n
		case "wbytes":
			m.DiskWritten += n
		}
	}
	return nil
}

func measureV1(root, path string, m *runtime.Stats) error {
	dir := func(controller string) string { return filepath.Join(root, controller, path) }
	if _, err := os.Stat(dir("memory")); err != nil {
		return err
	}
	m.CPU = time.Duration(single(dir("cpuacct"), "cpuacct.usage"))
	m.Memory = max(0, single(dir("memory"), "memory.usage_in_bytes")-keyed(dir("memory"), "memory.stat")["total_inactive_file"])
	m.Pids = single(dir("pids"), "pids.current")
	words := readWords(dir("blkio"), "blkio.throttle.io_service_bytes_recursive") // "8:0 Read 1", and a "Total 3" at the end
	for i := 2; i < len(words); i++ {
		n, _ := strconv.ParseInt(words[i], 10, 64)
		switch words[i-1] {
		case "Read":
			m.DiskRead += n
		case "Write":
			m.DiskWritten += n
		}
	}
	return nil
}

// single reads a file of one number; 0 where there is none.
func single(dir, file string) int64 {
	words := readWords(dir, file)
	if len(words) != 1 {
		return 0
	}
	n, _ := strconv.ParseInt(words[0], 10, 64)
	return n
}

// keyed reads a file of lines of a key and a number.
func keyed(dir, file string) map[string]int64 {
	words := readWords(dir, file)
	values := make(map[string]int64, len(words)/2)
	for i := 1; i < len(words); i += 2 {
		values[words[i-1]], _ = strconv.ParseInt(words[i], 10, 64)
	}
	return values
}
