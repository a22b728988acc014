package main

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"reconciler/reconcile/plan"
)

// parse returns the settings that a command line gives the agent, without running it.
func parse(t *testing.T, env map[string]string, args ...string) (settings, error) {
	t.Helper()
	a := &app{streams: streams{out: &bytes.Buffer{}, err: &bytes.Buffer{}, getenv: func(name string) string { return env[name] }}}
	root := newRoot(a)
	agent, _, err := root.Find([]string{"agent"})
	if err != nil {
		t.Fatal(err)
	}
	agent.RunE = func(*cobra.Command, []string) error { return nil }
	root.SetArgs(append([]string{"agent"}, args...))
	err = root.ExecuteContext(t.Context())
	return a.set, err
}

func mustParse(t *testing.T, env map[string]string, args ...string) settings {
	t.Helper()
	s, err := parse(t, env, args...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func writeConfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsFromEverywhere(t *testing.T) {
	config := writeConfig(t, `
repo: https://git.example.com/file.git
branch: from-file
interval: 45s
allow-capture: [/bin, /usr]
label: {zone: north, role: edge}
image-gc-high: 90
`)
	env := map[string]string{"RECONCILER_CONFIG": config, "RECONCILER_BRANCH": "from-env", "RECONCILER_NODE": "from-env"}
	s := mustParse(t, env, "--node", "from-flag")
	if s.repo != "https://git.example.com/file.git" || s.interval != 45*time.Second || s.imageGCHigh != 90 {
		t.Errorf("from the file: %+v", s)
	}
	if s.branch != "from-env" {
		t.Errorf("branch %q: the variable comes before the file", s.branch)
	}
	if s.node != "from-flag" {
		t.Errorf("node %q: the command line comes before the variable", s.node)
	}
	if !reflect.DeepEqual(s.allowCapture, []string{"/bin", "/usr"}) {
		t.Errorf("allow-capture %q", s.allowCapture)
	}
	if !maps.Equal(s.labels, map[string]string{"zone": "north", "role": "edge"}) {
		t.Errorf("label %v", s.labels)
	}
}

// Each flag of the agent can be set by its variable and in the file, and both arrive.
func TestEveryFlagHasAVariableAndALine(t *testing.T) {
	var all settings
	flags := pflag.NewFlagSet("all", pflag.ContinueOnError)
	all.addGlobal(flags)
	all.addAll(flags)
	flags.VisitAll(func(flag *pflag.Flag) {
		if flag.Name == "config" {
			return
		}
		value := map[string]string{
			"string": "/x", "duration": "7s", "int": "7", "bool": "true", "stringSlice": "/x,/y", "stringToString": "a=b",
		}[flag.Value.Type()]
		switch flag.Name {
		case "instance":
			value = "other"
		case "output":
			value = "json"
		}
		if value == "" {
			t.Fatalf("no value for the type %s of --%s", flag.Value.Type(), flag.Name)
		}
		byFlag := mustParse(t, nil, "--"+flag.Name+"="+value)
		byEnv := mustParse(t, map[string]string{envName(flag.Name): value})
		line := writeConfig(t, flag.Name+": "+value+"\n")
		byFile := mustParse(t, nil, "--config", line)
		byFile.config = ""
		if !reflect.DeepEqual(byFlag, byEnv) || !reflect.DeepEqual(byFlag, byFile) {
			t.Errorf("--%s: the three ways differ\nflag %+v\nenv  %+v\nfile %+v", flag.Name, byFlag, byEnv, byFile)
		}
		if reflect.DeepEqual(byFlag, mustParse(t, nil)) {
			t.Errorf("--%s=%s changes nothing", flag.Name, value)
		}
	})
}

func TestConfigIsStrict(t *testing.T) {
	for _, tt := range []struct{ name, content, want string }{
		{"unknown", "repo: x\nbrunch: main\n", `:2: brunch: no such flag: did you mean "branch"?`},
		{"twice", "repo: x\nrepo: y\n", `:2: repo: set on line 1 already`},
		{"type", "interval: soon\n", `:1: interval: `},
		{"several", "interval: [1s, 2s]\n", `:1: interval: want one value, not 2`},
		{"nested", "repo: {a: {b: c}}\n", `:1: repo: want a mapping to plain values`},
		{"list", "- repo\n", `want a mapping of flags to values`},
		{"itself", "config: other.yaml\n", `config: no such flag`},
		{"syntax", "repo: [\n", `agent.yaml: `},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse(t, nil, "--config", writeConfig(t, tt.content))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for _, empty := range []string{"", "# only a comment\n", "---\n"} {
		mustParse(t, nil, "--config", writeConfig(t, empty))
	}
	if _, err := parse(t, nil, "--config", "/does/not/exist"); err == nil || hintOf(err) == "" {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := parse(t, map[string]string{"RECONCILER_INTERVAL": "soon"}); err == nil || !strings.Contains(err.Error(), `RECONCILER_INTERVAL="soon"`) {
		t.Errorf("a wrong variable: %v", err)
	}
}

// Another instance lives beside the default one, never inside it.
func TestDirectoriesOfAnInstance(t *testing.T) {
	s := mustParse(t, nil)
	if s.stateDir != "/var/lib/reconciler" || s.runDir != "/run/reconciler" {
		t.Errorf("default: %s %s", s.stateDir, s.runDir)
	}
	s = mustParse(t, nil, "--instance", "blue")
	if s.stateDir != "/var/lib/reconciler-blue" || s.runDir != "/run/reconciler-blue" {
		t.Errorf("blue: %s %s", s.stateDir, s.runDir)
	}
	s = mustParse(t, nil, "--instance", "blue", "--state-dir", "/srv/state")
	if s.stateDir != "/srv/state" || s.runDir != "/run/reconciler-blue" {
		t.Errorf("blue with --state-dir: %s %s", s.stateDir, s.runDir)
	}
}

func TestPercent(t *testing.T) {
	for text, want := range map[string]int{"50%": 50, "0": 0, "100%": 100} {
		if got, err := percent("--max-remove", text); err != nil || got != want {
			t.Errorf("%q: %d %v", text, got, err)
		}
	}
	for _, text := range []string{"", "%", "101%", "-1", "5 %", "half", "50%%"} {
		if _, err := percent("--max-remove", text); err == nil || !strings.Contains(err.Error(), "--max-remove") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestReserve(t *testing.T) {
	got, err := reserved(mustParse(t, nil, "--reserve", "cpu=500m,memory=1Gi", "--reserve", "disk=10G").reserve)
	if want := (plan.Amounts{CPUMillis: 500, Memory: 1 << 30, Disk: 10_000_000_000}); err != nil || got != want {
		t.Errorf("%+v, want %+v: %v", got, want, err)
	}
	for _, value := range []string{"cpus=1", "cpu=much", "memory=64m", "disk=-1"} {
		_, err := reserved(mustParse(t, nil, "--reserve", value).reserve)
		if err == nil || !strings.Contains(err.Error(), "--reserve "+value) || hintOf(err) == "" {
			t.Errorf("%s: %v", value, err)
		}
	}
}
