package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the goldens in testdata anew")

// result is how a command line ended.
type result struct {
	code     int
	out, err string
}

// cli runs a command line in this process, with these variables and nothing else of the environment.
func cli(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, streams{
		in: strings.NewReader(""), out: &out, err: &errs, getenv: func(name string) string { return env[name] },
	})
	return result{code, out.String(), errs.String()}
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update writes it anew)\n--- got\n%s\n--- want\n%s", path, got, want)
	}
}

// commands returns every command but those that cobra brings.
func commands(t *testing.T) []*cobra.Command {
	t.Helper()
	a := &app{streams: streams{out: &bytes.Buffer{}, err: &bytes.Buffer{}, getenv: func(string) string { return "" }}}
	var all []*cobra.Command
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		all = append(all, c)
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(newRoot(a))
	return all
}

func TestHelp(t *testing.T) {
	for _, c := range commands(t) {
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		r := cli(t, nil, args...)
		if r.code != 0 || r.err != "" {
			t.Errorf("%v: status %d, stderr %q", args, r.code, r.err)
		}
		golden(t, "help/"+strings.ReplaceAll(c.CommandPath(), " ", "-")+".txt", r.out)
		if c.Hidden {
			continue
		}
		for _, section := range []string{"USAGE\n", "EXAMPLE\n", "EXIT STATUS\n"} {
			if !strings.Contains(r.out, section) {
				t.Errorf("%s --help has no %s", c.CommandPath(), section)
			}
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q: want a phrase without a full stop", c.CommandPath(), c.Short)
		}
	}
}

// Every verb of the contract but those that a later release brings.
func TestEveryVerbIsThere(t *testing.T) {
	have := map[string]bool{}
	for _, c := range commands(t) {
		have[strings.TrimPrefix(c.CommandPath(), "reconciler ")] = true
	}
	for _, verb := range []string{
		"agent", "sync", "plan", "diff", "validate", "ps", "describe", "status", "logs", "exec", "history", "events",
		"approve", "retry", "restart", "suspend", "resume", "doctor", "down", "schema", "version", "supervisor",
		"image ls", "image pull", "image inspect", "image prune", "image capture", "image load", "image save",
		"volume ls", "volume rm", "install", "stats",
	} {
		if !have[verb] {
			t.Errorf("no verb %q", verb)
		}
	}
	if have["init"] {
		t.Error("init is libcontainer's: it can never be a verb")
	}
}

func TestMistakes(t *testing.T) {
	for _, tt := range []struct {
		name string
		args string
		code int
		want []string // in stderr
	}{
		{"verb", "stauts", 1, []string{"error: reconciler stauts: no such command\n", "hint: did you mean `reconciler status`?\n"}},
		{"verb without a close one", "frobnicate", 1, []string{"no such command", "`reconciler --help` lists them"}},
		{"help of no verb", "help stauts", 1, []string{"reconciler stauts: no such command", "did you mean `reconciler status`?"}},
		{"help of no verb below a verb", "help image lss", 1, []string{"reconciler image lss: no such command", "did you mean `reconciler image ls`?"}},
		{"verb below a verb", "image lss", 1, []string{"reconciler image lss: no such command", "did you mean `reconciler image ls`?"}},
		{"flag", "validate --lable a=b .", 1, []string{"reconciler validate: no such flag --lable", "hint: did you mean --label?"}},
		{"flag without a close one", "validate --zzzzz .", 1, []string{"no such flag --zzzzz", "`reconciler validate --help` lists them"}},
		{"short flag", "validate -z .", 1, []string{"no such flag -z"}},
		{"value", "ps --output xml", 1, []string{`--output "xml": want one of table, wide, json, yaml`}},
		{"value of diff", "diff -o xml a..b", 2, []string{"json, yaml, markdown"}},
		{"duration", "agent --interval soon", 1, []string{`reconciler agent: --interval "soon": not a duration, such as 30s`}},
		{"number", "logs web --tail x", 1, []string{`reconciler logs: --tail "x": not a whole number`}},
		{"too many arguments", "ps web", 1, []string{"reconciler ps: wants no argument, but was given web", "hint: usage: reconciler ps"}},
		{"shell", "completion fosh", 1, []string{"reconciler completion fosh: no such command", "did you mean `reconciler completion fish`?"}},
		{"no argument", "describe", 1, []string{"reconciler describe: wants NAME, but was given nothing", "hint: usage: reconciler describe NAME"}},
		{"instance", "ps --instance ../x", 1, []string{`--instance "../x": not a name`}},
		{"relative directory", "ps --state-dir x", 1, []string{"--state-dir x: not an absolute path"}},
		{"relative prefix", "agent --repo /x --allow-capture bin", 1, []string{"--allow-capture bin: not an absolute path"}},
		{"no network", "agent --repo /x --bridge-cidr web", 1, []string{`--bridge-cidr "web": not a network`, "such as 10.77.0.0/16"}},
		{"exec fails with 125", "exec web", 125, []string{"hint: usage: reconciler exec [flags] NAME -- COMMAND"}},
		{"exec with a wrong flag too", "exec --frob web -- ls", 125, []string{"no such flag --frob"}},
		{"diff fails with 2", "diff a..b --node x --all-nodes", 2, []string{"exclude each other"}},
		{"no time", "agent --interval 0s --repo /x", 1, []string{"--interval 0s: ", "want more than nothing"}},
		{"not YAML", "validate ../../README.md", 1, []string{"validate ../../README.md: not a manifest", "*.yaml"}},
		{"three dots", "diff a...b", 2, []string{"three dots", "git merge-base a b"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := cli(t, nil, strings.Fields(tt.args)...)
			if r.code != tt.code || r.out != "" {
				t.Errorf("status %d, want %d; stdout %q", r.code, tt.code, r.out)
			}
			for _, want := range tt.want {
				if !strings.Contains(r.err, want) {
					t.Errorf("stderr has no %q:\n%s", want, r.err)
				}
			}
		})
	}
}

func TestErrorsAsJSON(t *testing.T) {
	for _, args := range []string{"stauts -o json", "-ojson stauts", "ps --output=json --frob", "validate -o json /does/not/exist"} {
		r := cli(t, nil, strings.Fields(args)...)
		var report errorReport
		if err := json.Unmarshal([]byte(r.err), &report); err != nil {
			t.Fatalf("%s: stderr is no JSON: %v\n%s", args, err, r.err)
		}
		if r.code != 1 || r.out != "" || report.Error.Message == "" || report.Error.Hint == "" {
			t.Errorf("%s: status %d, stdout %q, error %+v", args, r.code, r.out, report.Error)
		}
	}
	r := cli(t, map[string]string{"RECONCILER_OUTPUT": "json"}, "validate", "testdata/broken")
	var report errorReport
	if err := json.Unmarshal([]byte(r.err), &report); err != nil {
		t.Fatalf("stderr is no JSON: %v\n%s", err, r.err)
	}
	if len(report.Error.Problems) == 0 || report.Error.Problems[0].Position.Line == 0 {
		t.Errorf("no problem with a position: %+v", report.Error)
	}
}

func TestSchemaAndVersion(t *testing.T) {
	kept, err := os.ReadFile("../../docs/reconciler.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if r := cli(t, nil, "schema"); r.code != 0 || r.out != string(kept) {
		t.Errorf("status %d; docs/reconciler.schema.json is not what the decoder accepts: run make schema", r.code)
	}
	r := cli(t, nil, "version", "-o", "json", "--run-dir", t.TempDir())
	var v versionReport
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || v.Go == "" || v.Version == "" || v.Supervisors == nil {
		t.Errorf("version: %v %+v", err, v)
	}
	if r := cli(t, nil, "completion", "bash"); r.code != 0 || !strings.Contains(r.out, "reconciler") {
		t.Errorf("completion: status %d, %s", r.code, r.err)
	}
}
