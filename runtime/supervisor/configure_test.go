package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

func TestConfigureNetwork(t *testing.T) {
	e := newEnv(t)
	req := e.bundle("net", e.spec("net", "sh", "-c", "cat /proc/sys/net/ipv4/ip_default_ttl; sleep 1000"))
	asked := 0
	started, err := e.c.Start(e.ctx(), req, func(netns *os.File) error {
		asked++
		if all, err := e.c.List(e.ctx()); err != nil || len(all) != 0 {
			t.Errorf("listed while it waits: %+v, %v", all, err)
		}
		if here := inode(t, "/proc/self/ns/net"); inodeOf(t, netns) == here {
			t.Error("it is this server's network namespace")
		}
		return writeIn(netns, "/proc/sys/net/ipv4/ip_default_ttl", "77")
	})
	if err != nil || asked != 1 {
		t.Fatalf("asked %d times, %v", asked, err)
	}
	e.awaitLine(req, "77") // what was done is there when the command begins
	again, err := e.c.Start(e.ctx(), req, func(*os.File) error {
		t.Error("the network of a running container is configured again")
		return nil
	})
	if err != nil || again.Pid != started.Pid {
		t.Errorf("start of a running one: %+v, %v", again, err)
	}
}

// within calls f as a process of that network namespace.
func within(netns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		goruntime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func writeIn(netns *os.File, path, value string) error {
	return within(netns, func() error { return os.WriteFile(path, []byte(value), 0) })
}

func readIn(netns *os.File, path string) (string, error) {
	var data []byte
	err := within(netns, func() (err error) {
		data, err = os.ReadFile(path)
		return err
	})
	return string(data), err
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	return inodeOf(t, f)
}

func inodeOf(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestConfigureFails(t *testing.T) {
	e := newEnv(t)
	req := e.bundle("fails", e.spec("fails", "sh", "-c", "echo it ran"))
	why := &runtime.Error{Op: "configure network", Err: errors.New("no address is free"), Hint: "widen the range", Permanent: true}
	_, err := e.c.Start(e.ctx(), req, func(*os.File) error { return why })
	if !errors.Is(err, why) || !runtime.IsPermanent(err) {
		t.Errorf("error is %v", err)
	}
	e.nothingLeft(req)
	if _, err := e.c.Start(e.ctx(), req, func(*os.File) error { return nil }); err != nil {
		t.Errorf("another try: %v", err)
	}
	if exit := e.wait(req); codeOf(exit) != "0" {
		t.Errorf("exit %s", codeOf(exit))
	}
	if got := e.lines(req, LogOptions{}); !slices.Equal(got, []string{"o:it ran"}) {
		t.Errorf("output %q", got)
	}
}

// What process 1 sets of interfaces is set before there are any: what it says of the default would not be theirs otherwise.
func TestConfigureAfterInterfaceSysctls(t *testing.T) {
	e := newEnv(t)
	const name = "/proc/sys/net/ipv4/conf/default/rp_filter"
	for i := range 5 {
		id := fmt.Sprint("sysctl", i)
		spec := e.spec(id, "true")
		spec.Linux.Sysctl = map[string]string{"net.ipv4.conf.default.rp_filter": "2"}
		_, err := e.c.Start(e.ctx(), e.bundle(id, spec), func(netns *os.File) error {
			if set, err := readIn(netns, name); err != nil || set != "2\n" {
				t.Errorf("configured where %s is %q, %v", name, set, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, waits := range map[string]bool{
		"net.ipv4.ip_unprivileged_port_start": false, "net.core.somaxconn": false, "kernel.msgmax": false,
		"net.ipv6.conf.all.disable_ipv6": true, "net.ipv6.neigh.default.gc_thresh3": true, "net/ipv4/conf/eth0/forwarding": true,
	} {
		if hasInterfaceSysctl(map[string]string{name: "1"}) != waits {
			t.Errorf("%s: want %v", name, waits)
		}
	}
}

// The network of a start that fails is given up, and why the start failed is said.
func TestConfigureWhereTheCommandIsMissing(t *testing.T) {
	e := newEnv(t)
	req := e.bundle("missing", e.spec("missing", "/no/such"))
	_, err := e.c.Start(e.ctx(), req, func(*os.File) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "exec /no/such") || !runtime.IsPermanent(err) {
		t.Errorf("error is %v", err)
	}
	e.nothingLeft(req)
}

// nothingLeft checks that an undone start left nothing and that nothing of it ran.
func (e *env) nothingLeft(req StartRequest) {
	e.Helper()
	if all, err := e.c.List(e.ctx()); err != nil || len(all) != 0 {
		e.Errorf("listed: %+v, %v", all, err)
	}
	if left := e.left(req.ID); len(left) > 0 {
		e.Errorf("left: %v", left)
	}
	if got := e.lines(req, LogOptions{}); len(got) > 0 {
		e.Errorf("it ran: %q", got)
	}
}

// configureForever is a caller that hangs while it configures, after it has said so.
func configureForever(req StartRequest, cfg Config) {
	c, err := Dial(context.Background(), cfg)
	if err == nil {
		_, err = c.Start(context.Background(), req, func(*os.File) error {
			fmt.Println("configuring")
			select {}
		})
	}
	fmt.Println(err)
	os.Exit(1)
}

// hang starts a caller of its own process that hangs while it configures.
func (e *env) hang(req StartRequest) *exec.Cmd {
	e.Helper()
	cmd := exec.Command("/proc/self/exe", "configure", e.cfg.RunDir, string(req.ID), req.Bundle, req.LogDir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "configuring\n" {
		e.Fatalf("the caller says %q, %v", said, err)
	}
	return cmd
}

func TestConfiguringCallerIsKilled(t *testing.T) {
	e := newEnv(t)
	req := e.bundle("orphan", e.spec("orphan", "sh", "-c", "echo it ran; sleep 1000"))
	cmd := e.hang(req)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// It waits for the start to be over, which failed.
	if _, err := e.c.Stop(e.ctx(), req.ID, "", 0); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("stop: %v", err)
	}
	e.nothingLeft(req)
}

// Callers that hang in configure hold up neither other starts nor the supervisor's end.
func TestConfiguringHoldsUpNobody(t *testing.T) {
	e := newEnv(t)
	reqs := make([]StartRequest, parallelStarts)
	for i := range reqs {
		id := fmt.Sprint("waits-", i)
		reqs[i] = e.bundle(id, e.spec(id, "sh", "-c", "echo it ran; sleep 1000"))
		e.hang(reqs[i])
	}
	other := e.start("other", "true")
	if exit := e.wait(other); codeOf(exit) != "0" {
		t.Errorf("exit %s", codeOf(exit))
	}
	if err := e.c.Delete(e.ctx(), other.ID); err != nil {
		t.Error(err)
	}
	if err := e.c.Shutdown(e.ctx(), false); err != nil {
		t.Fatal(err)
	}
	e.ensure()
	for _, req := range reqs {
		e.nothingLeft(req)
	}
}

// A supervisor that dies meanwhile: the next one undoes what waits.
func TestConfiguringSupervisorIsKilled(t *testing.T) {
	e := newEnv(t)
	req := e.bundle("half", e.spec("half", "sh", "-c", "echo it ran; sleep 1000"))
	_, err := e.c.Start(e.ctx(), req, func(*os.File) error {
		e.kill()
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "connection broke") {
		t.Errorf("error is %v", err)
	}
	e.ensure()
	e.nothingLeft(req)
}

func TestConfigureNeedsOwnNetwork(t *testing.T) {
	e := newEnv(t)
	spec := e.spec("host", "true")
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.NetworkNamespace
	})
	req := e.bundle("host", spec)
	_, err := e.c.Start(e.ctx(), req, func(*os.File) error {
		t.Error("this server's network namespace was handed out")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "no network namespace of its own") {
		t.Errorf("error is %v", err)
	}
	e.nothingLeft(req)
}

func TestAwaitConfigured(t *testing.T) {
	for _, tc := range []struct {
		name     string
		ends     bool
		patience time.Duration
		say      func(*net.UnixConn) error
		want     string
	}{
		{"go", false, time.Hour, func(c *net.UnixConn) error { return writeFrame(c, configured{}) }, ""},
		{"stop", false, time.Hour, func(c *net.UnixConn) error { return writeFrame(c, configured{Error: "no"}) }, "no"},
		{"gone", false, time.Hour, (*net.UnixConn).Close, "is gone"},
		{"silent", false, time.Millisecond, nil, "not configured within 1ms"},
		{"end", true, time.Hour, nil, "the supervisor ends"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tc.ends {
				cancel()
			}
			ours, theirs := connPair(t)
			if tc.say != nil {
				if err := tc.say(theirs); err != nil {
					t.Fatal(err)
				}
			}
			err := awaitConfigured(ctx, ours, tc.patience)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want %q", err, tc.want)
			}
		})
	}
}

// connPair returns the two ends of a connection.
func connPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if a, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: l.Addr().String(), Net: "unix"}); err != nil {
		t.Fatal(err)
	}
	if b, err = l.AcceptUnix(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}
