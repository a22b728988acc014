package sourcetest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// SSHServer is an sshd on loopback that lets one key in.
type SSHServer struct {
	// Addr is 127.0.0.1:PORT, Port its port.
	Addr, Port string
	// User is who to log in as.
	User string
	// Key is the file of the private key that is let in; KnownHosts has the server's key.
	Key, KnownHosts string
	// Fingerprint is the SHA256 fingerprint of the server's key.
	Fingerprint string

	log lockedBuffer
}

// SSHOptions say how SSHD serves.
type SSHOptions struct {
	// Authority is a private key file that signs the server's key, as that of the host Principal.
	Authority, Principal string
	// Command is a shell command that runs in place of the one that a client asks for, which is $SSH_ORIGINAL_COMMAND.
	Command string
}

// SSHD starts OpenSSH's sshd, as the user that runs the test.
func SSHD(tb testing.TB, opts SSHOptions) *SSHServer {
	tb.Helper()
	sshd, err := findSSHD()
	if err != nil {
		tb.Skip("needs sshd: apt-get install openssh-server")
	}
	me, err := user.Current()
	if err != nil {
		tb.Skipf("needs to know who runs the test: %v", err)
	}
	dir := tb.TempDir()
	s := &SSHServer{User: me.Username, Key: filepath.Join(dir, "client"), KnownHosts: filepath.Join(dir, "known_hosts"), Port: freePort(tb)}
	NewKey(tb, s.Key)
	hostKey := filepath.Join(dir, "host")
	NewKey(tb, hostKey)
	s.Addr = net.JoinHostPort("127.0.0.1", s.Port)
	hostPub := readFile(tb, hostKey+".pub")
	s.Fingerprint = fingerprint(tb, hostKey+".pub")
	put(tb, s.KnownHosts, fmt.Sprintf("[127.0.0.1]:%s %s", s.Port, hostPub), 0o644)
	put(tb, filepath.Join(dir, "authorized_keys"), readFile(tb, s.Key+".pub"), 0o600)
	config := filepath.Join(dir, "sshd_config")
	lines := []string{
		"ListenAddress " + s.Addr, "HostKey " + hostKey, "PidFile none", "UsePAM no", "StrictModes no",
		"AuthorizedKeysFile " + filepath.Join(dir, "authorized_keys"), "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "PermitRootLogin prohibit-password", "LogLevel VERBOSE",
		"SetEnv GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null",
	}
	if opts.Authority != "" {
		keygen(tb, "-q", "-s", opts.Authority, "-I", "test", "-h", "-n", opts.Principal, hostKey+".pub")
		lines = append(lines, "HostCertificate "+hostKey+"-cert.pub")
	}
	if opts.Command != "" {
		lines = append(lines, "ForceCommand "+opts.Command)
	}
	put(tb, config, strings.Join(append(lines, ""), "\n"), 0o644)
	s.start(tb, sshd, config)
	return s
}

func (s *SSHServer) start(tb testing.TB, sshd, config string) {
	tb.Helper()
	if os.Geteuid() == 0 {
		// sshd's unprivileged child is locked into this directory; the init script makes it.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			tb.Skipf("needs /run/sshd: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, sshd, "-D", "-e", "-f", config)
	cmd.Stderr = &s.log
	if err := cmd.Start(); err != nil {
		cancel()
		tb.Fatal(err)
	}
	done := make(chan struct{})
	var ended error
	go func() {
		defer close(done)
		ended = cmd.Wait()
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
		if tb.Failed() {
			tb.Logf("sshd:\n%s", s.log.String())
		}
	})
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		// The first bytes of a connection say that it is sshd that answers.
		if conn, err := net.Dial("tcp", s.Addr); err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second)) // a connection takes a deadline
			hello := make([]byte, 4)
			n, _ := conn.Read(hello)
			_ = conn.Close() // a probe
			if string(hello[:n]) == "SSH-" {
				return
			}
		}
		select {
		case <-done:
			tb.Fatalf("sshd ended: %v\n%s", ended, s.log.String())
		case <-deadline.C:
			tb.Fatalf("sshd does not answer\n%s", s.log.String())
		case <-again.C:
		}
	}
}

// URL returns the ssh URL of a path on this machine.
func (s *SSHServer) URL(path string) string {
	return fmt.Sprintf("ssh://%s@%s%s", s.User, s.Addr, path)
}

// NewKey makes an ed25519 key pair without passphrase: file and file.pub.
func NewKey(tb testing.TB, file string) {
	tb.Helper()
	keygen(tb, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", file)
}

// HashKnownHosts hashes the names in a known_hosts file, as ssh does with HashKnownHosts.
func HashKnownHosts(tb testing.TB, file string) {
	tb.Helper()
	keygen(tb, "-H", "-f", file)
}

func fingerprint(tb testing.TB, pub string) string {
	tb.Helper()
	for word := range strings.FieldsSeq(keygen(tb, "-l", "-f", pub)) {
		if strings.HasPrefix(word, "SHA256:") {
			return word
		}
	}
	tb.Fatal("ssh-keygen -l shows no fingerprint")
	return ""
}

func keygen(tb testing.TB, args ...string) string {
	tb.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		tb.Skip("needs ssh-keygen: apt-get install openssh-client")
	}
	out, err := exec.Command("ssh-keygen", args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("ssh-keygen %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func findSSHD() (string, error) {
	if p, err := exec.LookPath("sshd"); err == nil {
		return filepath.Abs(p) // sshd wants its whole path, to start itself again
	}
	_, err := os.Stat("/usr/sbin/sshd")
	return "/usr/sbin/sshd", err
}

func freePort(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	return port
}

func readFile(tb testing.TB, name string) string {
	tb.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func put(tb testing.TB, name, content string, mode os.FileMode) {
	tb.Helper()
	if err := writeFile(name, []byte(content), mode); err != nil {
		tb.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
