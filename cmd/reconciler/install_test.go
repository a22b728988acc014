package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// What install writes, the agent reads: with the flags as they were given, and every comment is a line that it takes.
func TestInstallWritesWhatTheAgentReads(t *testing.T) {
	root := t.TempDir()
	flags := []string{
		"--repo", "https://git.example.com/fleet.git", "--allow-capture", "/bin", "--allow-capture", "/with space", "--label", "role=edge",
		"--reserve", "cpu=500m,memory=1Gi", "--interval", "45s", "--node", "edge-17", "--max-remove", "10%", "--allow-privileged",
	}
	r := cli(t, nil, append([]string{"install", "--root", root}, flags...)...)
	if r.code != 0 || !strings.Contains(r.out, "systemctl daemon-reload && systemctl enable --now reconciler\n") {
		t.Fatalf("status %d\n%s%s", r.code, r.out, r.err)
	}
	path := filepath.Join(root, "etc/reconciler/agent.yaml")
	got, want := mustParse(t, nil, "--config", path), mustParse(t, nil, flags...)
	got.config = ""
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v\nwant %+v", got, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	lines := 0
	for line := range strings.Lines(string(content)) {
		if set := strings.TrimPrefix(line, "# "); isFlagLine(set) {
			all.WriteString(set)
			lines++
		}
	}
	uncommented := mustParse(t, nil, "--config", writeConfig(t, all.String()))
	uncommented.config, uncommented.node = "", "edge-17"
	if !reflect.DeepEqual(uncommented, want) || lines < 30 {
		t.Errorf("with the comments' %d lines %+v\nwant %+v", lines, uncommented, want)
	}
}

// isFlagLine reports whether a line of the file sets a flag, its comment sign apart.
func isFlagLine(line string) bool {
	name, _, found := strings.Cut(line, ": ")
	for _, flag := range commonFlags() {
		if found && flag == name {
			return true
		}
	}
	return false
}

func TestInstalledUnit(t *testing.T) {
	golden(t, "unit/default.service", unitFile("/usr/local/bin/reconciler", "default", "/etc/reconciler/agent.yaml"))
	golden(t, "unit/other.service", unitFile(`/opt/50% "odd"/reconciler`, "other", "/etc/reconciler/other.yaml"))
}

// Nothing that a person wrote is lost, and the unit is renewed.
func TestInstallAgain(t *testing.T) {
	root := t.TempDir()
	unit, config := filepath.Join(root, "etc/systemd/system/reconciler-x.service"), filepath.Join(root, "etc/reconciler/x.yaml")
	install := func(args ...string) result {
		return cli(t, nil, append([]string{"install", "--instance", "x", "--root", root}, args...)...)
	}
	if r := install(); r.code != 0 || !strings.Contains(r.out, "set repo: in "+config) || !strings.Contains(r.out, "enable --now reconciler-x\n") {
		t.Fatalf("status %d\n%s%s", r.code, r.out, r.err)
	}
	write := func(path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	write(config, "repo: /mine\n")
	write(unit, unitMark+"\nof an older release\n")
	if r := install(); r.code != 0 || !strings.Contains(r.out, "kept "+config) || read(config) != "repo: /mine\n" || !strings.Contains(read(unit), "KillMode=process\n") {
		t.Errorf("status %d\n%s%s\nconfig %q\nunit %q", r.code, r.out, r.err, read(config), read(unit))
	}
	if r := install("--repo", "/other"); r.code != 1 || !strings.Contains(r.err, "is there already") || read(config) != "repo: /mine\n" {
		t.Errorf("status %d\n%s%s\nconfig %q", r.code, r.out, r.err, read(config))
	}
	write(unit, "[Service]\nExecStart=/bin/mine\n")
	if r := install(); r.code != 1 || !strings.Contains(r.err, "was not written by install") || read(unit) != "[Service]\nExecStart=/bin/mine\n" {
		t.Errorf("status %d\n%s%s\nunit %q", r.code, r.out, r.err, read(unit))
	}
}
