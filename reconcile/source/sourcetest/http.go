package sourcetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// HTTPServer serves repositories over smart HTTP.
type HTTPServer struct {
	*httptest.Server

	// CAFile holds the server's certificate (TLS only).
	CAFile string

	mu          sync.Mutex
	requests    []string
	headers     []http.Header
	connections int
}

// HTTPOptions say how GitHTTP serves.
type HTTPOptions struct {
	// User and Password are asked for with basic authentication, where Password is not empty.
	User, Password string
	// Bearer is asked for as a token, where it is not empty.
	Bearer string
	// TLS makes it an https server with a certificate of its own.
	TLS bool
	// Expired makes that a certificate whose time is over.
	Expired bool
	// Wrap puts a handler in front, for failures.
	Wrap func(http.Handler) http.Handler
}

// GitHTTP serves the repositories in root with git http-backend: server.Repo("fleet.git") is the URL of one.
func GitHTTP(tb testing.TB, root string, opts HTTPOptions) *HTTPServer {
	tb.Helper()
	out, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		tb.Skip("needs git: apt-get install git")
	}
	backend := filepath.Join(strings.TrimSpace(string(out)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		tb.Skipf("needs git-http-backend: %v", err)
	}
	s := &HTTPServer{}
	var handler http.Handler = &cgi.Handler{
		Path: backend, Env: append(Env(), "GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
		Stderr: writerFunc(func(p []byte) { tb.Logf("http-backend: %s", p) }),
	}
	handler = opts.authenticate(handler)
	if opts.Wrap != nil {
		handler = opts.Wrap(handler)
	}
	recorded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		s.headers = append(s.headers, r.Header.Clone())
		s.mu.Unlock()
		handler.ServeHTTP(w, r)
	})
	s.Server = httptest.NewUnstartedServer(recorded)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			s.connections++
			s.mu.Unlock()
		}
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that do not trust it are meant
	if opts.TLS {
		if opts.Expired {
			s.TLS = &tls.Config{Certificates: []tls.Certificate{expired(tb)}, MinVersion: tls.VersionTLS12}
		}
		s.StartTLS()
		s.CAFile = filepath.Join(tb.TempDir(), "ca.pem")
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
		if err := writeFile(s.CAFile, block, 0o644); err != nil {
			tb.Fatal(err)
		}
	} else {
		s.Start()
	}
	tb.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func expired(tb testing.TB) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(-time.Hour), NotBefore: time.Now().Add(-2 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (o HTTPOptions) authenticate(next http.Handler) http.Handler {
	if o.Password == "" && o.Bearer == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		basic := o.Password != "" && user == o.User && subtle.ConstantTimeCompare([]byte(password), []byte(o.Password)) == 1
		bearer := o.Bearer != "" && r.Header.Get("Authorization") == "Bearer "+o.Bearer
		if !basic && !bearer {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Repo returns the URL of a repository in the root.
func (s *HTTPServer) Repo(name string) string { return s.URL + "/" + name }

// Requests returns the method and path of each request since the last call.
func (s *HTTPServer) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.requests
	s.requests = nil
	return got
}

// Connections returns how many connections were made so far.
func (s *HTTPServer) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connections
}

// Headers returns the headers of all requests so far.
func (s *HTTPServer) Headers() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]http.Header(nil), s.headers...)
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}
