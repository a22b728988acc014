package supervisor

import (
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
)

func TestInitAlone(t *testing.T) {
	path, err := InitBinary(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Progs) != 2 || f.Progs[0].Type != elf.PT_LOAD {
		t.Errorf("program headers: %+v", f.Progs)
	}
	_ = f.Close()
	if again, err := InitBinary(filepath.Dir(path)); err != nil || again != path {
		t.Errorf("again: %s, %v", again, err)
	}
	data := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(data, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		args []string
		code int
		out  string
	}{
		{"code", []string{"--", "/bin/sh", "-c", "exit 5"}, 5, ""},
		{"without dashes", []string{"/bin/sh", "-c", "exit 6"}, 6, ""},
		{"in PATH", []string{"--", "sh", "-c", "echo $0 $1", "a", "b c"}, 0, "a b c\n"},
		{"signal", []string{"--", "sh", "-c", "kill -9 $$"}, 137, ""},
		{"not found", []string{"--", "nonsense-command"}, 127, "init: exec nonsense-command: executable file not found in $PATH\n"},
		{"no file", []string{"--", "/nonsense"}, 127, "init: exec /nonsense: no such file or directory\n"},
		{"denied", []string{"--", "/etc"}, 126, "init: exec /etc: permission denied\n"},
		{"format", []string{"--", data}, 126, "init: exec " + data + ": exec format error\n"},
		{"nothing", []string{"--"}, 127, "init: no command is given\n"},
		{"orphans", []string{"--", "sh", "-c", "(sleep 0.01 &) ; (sh -c 'exit 3' &); sleep 0.1; exit 4"}, 4, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), path, tc.args...).CombinedOutput()
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != tc.code || string(out) != tc.out {
				t.Errorf("exit %d, output %q; want %d, %q", code, out, tc.code, tc.out)
			}
		})
	}
}

func (e *env) initSpec(id string, args ...string) *specs.Spec {
	path, err := InitBinary(e.cfg.RunDir)
	if err != nil {
		e.Fatal(err)
	}
	spec := e.spec(id, append([]string{"/dev/init", "--"}, args...)...)
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/dev/init", Type: "bind", Source: path, Options: []string{"bind", "ro", "nosuid", "nodev"},
	})
	return spec
}

func TestInitInContainer(t *testing.T) {
	e := newEnv(t)
	t.Run("default action", func(t *testing.T) { // without an init, process 1 would ignore SIGTERM
		req := e.startSpec("plain", e.initSpec("plain", "sleep", "1000"))
		exit, err := e.c.Stop(e.ctx(), req.ID, "", 20*time.Second)
		if err != nil || codeOf(exit) != "143" || exit.Ran > 10*time.Second {
			t.Errorf("exit %s after %v, %v", codeOf(exit), exit.Ran, err)
		}
	})
	t.Run("reaps", func(t *testing.T) {
		req := e.startSpec("reaps", e.initSpec("reaps", "sh", "-c", "for i in 1 2 3; do (sleep 0.01 &); done; sleep 0.2; ps -o pid,stat | grep -c Z; exit 2"))
		if exit := e.wait(req); codeOf(exit) != "2" {
			t.Errorf("exit %s", codeOf(exit))
		}
		if got := e.lines(req, LogOptions{Stream: Stdout}); !slices.Equal(got, []string{"o:0"}) {
			t.Errorf("zombies: %q", got)
		}
	})
	t.Run("oom", func(t *testing.T) {
		spec := e.initSpec("init-hog", "tail", "/dev/zero")
		spec.Linux.Resources.Memory = memory(64 << 20)
		if exit := e.wait(e.startSpec("init-hog", spec)); codeOf(exit) != "137" || !exit.OOMKilled {
			t.Errorf("exit %s, OOM %v", codeOf(exit), exit.OOMKilled)
		}
	})
	t.Run("missing command", func(t *testing.T) {
		_, err := e.c.Start(e.ctx(), e.bundle("missing", e.initSpec("missing", "/bin/foo")), nil)
		var re *runtime.Error
		if !errors.As(err, &re) || !strings.HasSuffix(re.Error(), "exec /bin/foo: no such file or directory") {
			t.Errorf("error is %v", err)
		}
	})
}
