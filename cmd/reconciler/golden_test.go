package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A state directory that version 1 of every format left behind (but for programs and keys) is read whole by this release:
// containers, how they ended and what they wrote, images and layers, volumes, leases, what was accepted and what was done.
// A format that changes gets a directory beside it, and this one stays.
func TestStateDirectoryOfVersion1(t *testing.T) {
	s := newServer(t)
	if err := os.CopyFS(s.state(), os.DirFS("testdata/state-v1")); err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(s.state(), "instance.json")
	if err := os.WriteFile(marker, []byte(`{"version":1,"instance":"`+s.instance+`"}`), 0o600); err != nil { // whose leaks are looked for
		t.Fatal(err)
	}
	if err := os.Chmod(s.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	a := s.rows()["a"]
	if a.State != "Exited" || a.ExitCode == nil || *a.ExitCode != 3 || a.Kind != "Container" || a.StartedAt == nil || a.Message == "" || !strings.HasPrefix(a.ImageDigest, "sha256:346b") {
		t.Errorf("container: %+v", a)
	}
	if out := s.must("logs", "a"); out != "hello\n" {
		t.Errorf("output: %q", out)
	}
	st := s.status()
	if st.Applied == nil || st.Applied.Subject != "second" || st.Accepted == nil || st.Node != "edge-1" || len(st.Warnings) > 0 {
		t.Errorf("status: %+v", st)
	}
	if out := s.must("history", "a"); !strings.Contains(out, "second") || !strings.Contains(out, "Applied") {
		t.Errorf("history: %s", out)
	}
	if out := s.must("describe", "a"); !strings.Contains(out, "a.yaml") || !strings.Contains(out, "GREETING") {
		t.Errorf("described as: %s", out)
	}
	if out := s.must("image", "ls", "-o", "json"); !strings.Contains(out, "sha256:346b") || strings.Contains(out, "incomplete") {
		t.Errorf("images: %s", out)
	}
	var volumes []struct{ Name, Owner string }
	if err := json.Unmarshal([]byte(s.must("volume", "ls", "-o", "json")), &volumes); err != nil || len(volumes) != 1 || volumes[0].Owner != "default/a" {
		t.Errorf("volumes: %+v, %v", volumes, err)
	}
}
