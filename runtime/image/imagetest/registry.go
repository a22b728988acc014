package imagetest

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// RegistryOptions say how a registry is run.
type RegistryOptions struct {
	// User and Password are asked for (basic authentication), if not empty.
	User, Password string
	// CertFile and KeyFile make it speak TLS, if not empty.
	CertFile, KeyFile string
}

// Registry runs Debian's docker-registry on a free port of loopback for as long as the test does and returns its host
// and port. Where the program is not installed the test is skipped.
func Registry(t testing.TB, o RegistryOptions) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("needs docker-registry, from the package of that name")
	}
	dir := t.TempDir()
	// The registry cannot be given a listening socket, so a port is found first; a clash is tried again.
	for range 5 {
		addr := freeAddr(t)
		if start(t, program, dir, addr, o) {
			return addr
		}
	}
	t.Fatal("docker-registry does not start")
	return ""
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func start(t testing.TB, program, dir, addr string, o RegistryOptions) bool {
	t.Helper()
	var cfg strings.Builder
	fmt.Fprintf(&cfg, "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}}\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), addr)
	if o.CertFile != "" {
		fmt.Fprintf(&cfg, "  tls: {certificate: %q, key: %q}\n", o.CertFile, o.KeyFile)
	}
	if o.User != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		htpasswd := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(htpasswd, []byte(o.User+":"+string(hash)+"\n"), 0o600); err != nil { //nolint:forbidigo // a test's own file
			t.Fatal(err)
		}
		fmt.Fprintf(&cfg, "auth: {htpasswd: {realm: test, path: %q}}\n", htpasswd)
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(cfg.String()), 0o600); err != nil { //nolint:forbidigo // a test's own file
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", file)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	out := &syncBuffer{}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = out
	ended := make(chan struct{})
	if err := startFromOwnThread(cmd, ended); err != nil {
		t.Fatal(err)
	}
	listening := make(chan bool, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			out.WriteString(lines.Text() + "\n")
			if strings.Contains(lines.Text(), "listening on") {
				select {
				case listening <- true:
				default:
				}
			}
		}
		select {
		case listening <- false: // it ended
		default:
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		close(ended)
		<-read
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("docker-registry on %s:\n%s", addr, out)
		}
	})
	select {
	case up := <-listening:
		return up && ping(addr, o)
	case <-time.After(20 * time.Second):
		return false
	}
}

// startFromOwnThread starts a command that dies with the test's process. The kernel means the thread that started it,
// and a thread may end early where some other test locks it: so one is kept for it.
func startFromOwnThread(cmd *exec.Cmd, ended <-chan struct{}) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		started <- cmd.Start()
		<-ended
	}()
	return <-started
}

// ping waits until the socket, which is opened just after the line that says so, answers.
func ping(addr string, o RegistryOptions) bool {
	if o.CertFile != "" {
		conn, err := dial(addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	conn, err := dial(addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	resp, err := http.Get("http://" + addr + "/v2/") //nolint:noctx // a test's own registry
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
}

func dial(addr string) (net.Conn, error) {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		var conn net.Conn
		if conn, err = net.Dial("tcp", addr); err == nil {
			return conn, nil
		}
		<-time.After(5 * time.Millisecond)
	}
	return nil, err
}

// syncBuffer is a buffer that several goroutines write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// WriteString appends a string.
func (s *syncBuffer) WriteString(p string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.WriteString(p)
}

// String returns all that was written.
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
