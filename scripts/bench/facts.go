package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// findFacts looks where this is.
func (b *bench) findFacts(commit string) facts {
	at := facts{date: b.began.UTC().Format(time.DateOnly), commit: commit, machine: machine(), kernel: kernel(), disk: disk(b.dir)}
	for _, p := range []struct{ program, arg string }{
		{b.reconciler, "version"},
		{"/usr/sbin/runc", "--version"},
		{"/usr/bin/crun", "--version"},
		{"/usr/bin/podman", "--version"},
		{"/usr/sbin/dockerd", "--version"},
		{"/usr/bin/containerd", "--version"},
		{"/usr/bin/docker-compose", "--version"},
		{b.compose5, "version"},
		{"/usr/bin/git", "--version"},
		{"/usr/bin/docker-registry", "--version"},
	} {
		if p.program == "" {
			continue
		}
		out, _, err := b.do(nil, p.program, p.arg)
		if err != nil {
			out = p.program + " is not here"
		}
		line, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
		at.versions = append(at.versions, line)
	}
	return at
}

// machine says what the measures were taken on: processors and memory.
func machine() string {
	model := "unknown processor"
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
			}
		}
	}
	kib, err := field("/proc/meminfo", "MemTotal:")
	if err != nil {
		kib = 0
	}
	return fmt.Sprintf("%d x %s, %d GiB", strings.Count(string(text), "processor\t"), model, (kib+(1<<19))>>20)
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// disk says what all keep their data on. Which ext4 and ocfs2 have a journal is told by the kernel's jbd2.
func disk(dir string) string {
	found, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(found) == 0 {
		return "the file system of " + filepath.Dir(dir)
	}
	text, device := found[0].FSType, filepath.Base(found[0].Source)
	if journals, err := filepath.Glob("/proc/fs/jbd2/" + device + "-*"); err == nil && len(journals) > 0 {
		text += " with a journal"
	}
	return text + " on " + device
}
