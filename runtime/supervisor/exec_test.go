package supervisor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
	"reconciler/runtime/runtimetest/leak"
)

func TestExec(t *testing.T) {
	e := newEnv(t)
	req := e.start("box", "sh", "-c", "echo ready; sleep 1000")
	e.awaitLine(req, "ready")
	exec := func(r ExecRequest, stdin string) (code int, stdout, stderr string, err error) {
		var out, errOut bytes.Buffer
		r.ID = req.ID
		var in io.Reader
		if stdin != "" {
			in = strings.NewReader(stdin)
		}
		code, err = e.c.Exec(e.ctx(), r, in, &out, &errOut)
		return code, out.String(), errOut.String(), err
	}
	for _, tc := range []struct {
		name           string
		req            ExecRequest
		stdin          string
		code           int
		stdout, stderr string
	}{
		{"output", ExecRequest{Args: []string{"sh", "-c", "echo out; echo err >&2"}}, "", 0, "out\n", "err\n"},
		{"code", ExecRequest{Args: []string{"sh", "-c", "exit 42"}}, "", 42, "", ""},
		{"signal", ExecRequest{Args: []string{"sh", "-c", "kill -TERM $$"}}, "", 143, "", ""},
		{"stdin", ExecRequest{Args: []string{"cat"}}, "over there", 0, "over there", ""},
		{"env", ExecRequest{Args: []string{"sh", "-c", "echo $A $PATH"}, Env: []string{"A=b"}}, "", 0, "b /bin\n", ""},
		{"cwd", ExecRequest{Args: []string{"sh", "-c", "pwd"}, Cwd: "/tmp"}, "", 0, "/tmp\n", ""},
		{"user", ExecRequest{Args: []string{"id", "-u"}, User: "1000:1001"}, "", 0, "1000\n", ""},
		{"group", ExecRequest{Args: []string{"id", "-g"}, User: "1000:1001"}, "", 0, "1001\n", ""},
		{"inside", ExecRequest{Args: []string{"hostname"}}, "", 0, "box\n", ""},
		{"left behind", ExecRequest{Args: []string{"sh", "-c", "echo said; sleep 1000 & exit 0"}}, "", 0, "said\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, stdout, stderr, err := exec(tc.req, tc.stdin)
			if err != nil || code != tc.code || stdout != tc.stdout || stderr != tc.stderr {
				t.Errorf("%d %q %q %v; want %d %q %q", code, stdout, stderr, err, tc.code, tc.stdout, tc.stderr)
			}
		})
	}
	t.Run("large output", func(t *testing.T) {
		_, out, _, err := exec(ExecRequest{Args: []string{"seq", "1", "200000"}}, "")
		if err != nil || !strings.HasSuffix(out, "\n200000\n") || strings.Count(out, "\n") != 200000 {
			t.Errorf("%d bytes, %v", len(out), err)
		}
	})
	t.Run("missing", func(t *testing.T) {
		_, _, _, err := exec(ExecRequest{Args: []string{"/bin/foo"}}, "")
		if err == nil || !strings.HasSuffix(err.Error(), "exec /bin/foo: no such file or directory") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("bad user", func(t *testing.T) {
		if _, _, _, err := exec(ExecRequest{Args: []string{"id"}, User: "bob"}, ""); err == nil {
			t.Error("no error")
		}
	})
	t.Run("unknown container", func(t *testing.T) {
		_, err := e.c.Exec(e.ctx(), ExecRequest{ID: "nobody", Args: []string{"id"}}, nil, nil, nil)
		if !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("caller gone", func(t *testing.T) {
		ctx, cancel := context.WithCancel(e.ctx())
		r, w := io.Pipe()
		go func() {
			buf := make([]byte, 3)
			_, _ = io.ReadFull(r, buf)
			cancel()
			_, _ = io.Copy(io.Discard, r)
		}()
		_, err := e.c.Exec(ctx, ExecRequest{ID: req.ID, Args: []string{"sh", "-c", "echo up; exec sleep 4242"}}, nil, w, nil)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		// It hangs up at once; ask from inside until it is gone.
		deadline := time.Now().Add(10 * time.Second)
		for {
			_, out, _, err := exec(ExecRequest{Args: []string{"ps"}}, "")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(out, "sleep 4242") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("it still runs:\n%s", out)
			}
		}
	})
	t.Run("no descriptors are left", func(t *testing.T) {
		v, err := e.c.Version(e.ctx())
		if err != nil {
			t.Fatal(err)
		}
		before, err := leak.FDs(v.Pid)
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if _, _, _, xerr := exec(ExecRequest{Args: []string{"true"}}, "x"); xerr != nil {
				t.Fatal(xerr)
			}
		}
		awaitFDs(t, v.Pid, before)
	})
	if _, err := e.c.Stop(e.ctx(), req.ID, "", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := e.c.Exec(e.ctx(), ExecRequest{ID: req.ID, Args: []string{"id"}}, nil, nil, nil); !errors.Is(err, ErrExited) {
		t.Errorf("exec after the end: %v", err)
	}
}

// Who executes as root in a container of an ordinary user gets a root that can do what the container could, no more; who
// executes as an ordinary user gets no capability.
func TestExecCapabilitiesOfAnotherUser(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("alice", "sleep", "1000")
	spec.Process.User.UID = 1000
	full := spec.Process.Capabilities.Bounding
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: full}
	ordinary := e.startSpec("alice", spec)
	root := e.start("root", "sleep", "1000")
	const all, none = "CapEff:\t00000000000004e3\n", "CapEff:\t0000000000000000\n"
	for _, tc := range []struct {
		req  StartRequest
		user string
		want string
	}{{ordinary, "", none}, {ordinary, "0", all}, {ordinary, "1001", none}, {root, "", all}, {root, "1000", none}, {root, "0:0", all}} {
		var out bytes.Buffer
		req := ExecRequest{ID: tc.req.ID, User: tc.user, Args: []string{"grep", "CapEff", "/proc/self/status"}}
		if _, err := e.c.Exec(e.ctx(), req, nil, &out, nil); err != nil || out.String() != tc.want {
			t.Errorf("in %s as %q: %q, want %q (%v)", tc.req.ID, tc.user, &out, tc.want, err)
		}
	}
}

func TestExecTerminal(t *testing.T) {
	e := newEnv(t)
	req := e.start("term", "sleep", "1000")
	var out bytes.Buffer
	code, err := e.c.Exec(e.ctx(), ExecRequest{
		ID: req.ID, Args: []string{"sh", "-c", "stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal; exit 9"},
		TTY: true, Width: 123, Height: 45,
	}, nil, &out, nil)
	if err != nil || code != 9 || out.String() != "45 123\r\nterminal\r\n" {
		t.Errorf("%d %q %v", code, out.String(), err)
	}

	// Typed input, and a new size in between. A shell that is about to read when a signal comes looks at it only later.
	in, typed := io.Pipe()
	said, w := io.Pipe()
	sizes := make(chan Size)
	var got strings.Builder
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 256)
		for step := 0; ; {
			n, rerr := said.Read(buf)
			got.Write(buf[:n])
			if rerr != nil {
				return
			}
			switch {
			case step == 0 && strings.Contains(got.String(), "ready"):
				step++
				sizes <- Size{Width: 81, Height: 25}
			case step == 1 && strings.Contains(got.String(), "changed"):
				step++
				_, _ = typed.Write([]byte("hello\n"))
			}
		}
	}()
	code, err = e.c.Exec(e.ctx(), ExecRequest{
		ID: req.ID, TTY: true, Width: 80, Height: 24, Resize: sizes,
		Args: []string{"sh", "-c", "trap 'echo changed $(stty size)' WINCH; echo ready; until read -t 1 x; do :; done; echo got $x; exit 3"},
	}, in, w, nil)
	_ = w.Close()
	<-read
	_ = in.Close()
	if err != nil || code != 3 {
		t.Errorf("%d %v", code, err)
	}
	for _, want := range []string{"changed 25 81", "got hello"} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("%q is not in %q", want, got.String())
		}
	}
}

func TestExecStdoutFile(t *testing.T) {
	e := newEnv(t)
	req := e.start("file", "sleep", "1000")
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err = e.c.Exec(e.ctx(), ExecRequest{ID: req.ID, Args: []string{"echo", "hi"}, User: "1000"}, nil, f, f); err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil || st.Size() != 3 {
		t.Errorf("%v %v", st, err)
	}
	if owner := fileOwner(st); owner != 0 { // libcontainer gives the command's stdio to its user
		t.Errorf("the caller's file belongs to %d now", owner)
	}
}
