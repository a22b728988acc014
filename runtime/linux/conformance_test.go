package linux_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/runtimetest"
)

// withTree gives the suite, which has no commit, the tree that the image is in.
type withTree struct {
	runtime.Runtime
	tree string
}

func (w withTree) Prepare(ctx context.Context, spec runtime.Spec, in runtime.Inputs) (runtime.Prepared, error) {
	in.Tree = os.DirFS(w.tree)
	return w.Runtime.Prepare(ctx, spec, in)
}

func TestConformance(t *testing.T) {
	runtimetest.Run(t, func(t *testing.T) runtimetest.Env {
		e := newEnv(t)
		spec := func(name runtime.Name, script string) runtime.Spec {
			s := e.sh(name.Name, script)
			s.Name, s.StopSignal = name, "SIGTERM"
			return s
		}
		with := func(change func(*runtime.Spec)) runtime.Spec {
			s := e.sh("impossible", "true")
			change(&s)
			return s
		}
		return runtimetest.Env{
			Runtime: withTree{e.Runtime, e.tree},
			// The init takes signals from its first moment on; a shell's trap comes a moment after the start.
			Forever: func(name runtime.Name) runtime.Spec {
				s := spec(name, "exec sleep 1000")
				s.Init = true
				return s
			},
			Exits: func(name runtime.Name, code int) runtime.Spec { return spec(name, fmt.Sprintf("exit %d", code)) },
			Prints: func(name runtime.Name, lines ...string) runtime.Spec {
				return spec(name, "echo '"+strings.Join(lines, "'; echo '")+"'")
			},
			Stubborn: func(name runtime.Name) runtime.Spec {
				return spec(name, "trap '' TERM; while :; do sleep 1; done")
			},
			Kill: func(t *testing.T, s runtime.Status) {
				if err := unix.Kill(s.Pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
			Output: func(_ *testing.T, id runtime.ID) string { return e.output(id) },
			Impossible: map[string]runtime.Spec{
				"no image":            with(func(s *runtime.Spec) { s.Image = nil }),
				"command not there":   with(func(s *runtime.Spec) { s.Command = []string{"/bin/nothing"} }),
				"command not in PATH": with(func(s *runtime.Spec) { s.Command = []string{"nothing"} }),
				"not executable":      with(func(s *runtime.Spec) { s.Command = []string{"/data/notexec"} }),
				"unknown capability":  with(func(s *runtime.Spec) { s.Security.CapAdd = []string{"FLY"} }),
				"another platform":    with(func(s *runtime.Spec) { s.Platform = &runtime.Platform{OS: "linux", Architecture: "s390x"} }),
				"host path not allowed": with(func(s *runtime.Spec) {
					s.Mounts = []runtime.Mount{{Path: "/etc", HostPath: "/etc"}}
				}),
				"mount on proc": with(func(s *runtime.Spec) {
					s.Mounts = []runtime.Mount{{Path: "/proc/x", Tmpfs: &runtime.Tmpfs{Size: 1}}}
				}),
			},
		}
	})
}
