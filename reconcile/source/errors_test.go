package source_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// What people get wrong, over every transport where it can happen.
func TestMistakes(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			r := sourcetest.NewRepo(t)
			good := w.cfg(t, r)

			_, err := open(t, good).Fetch(t.Context())
			refused(t, err, source.ErrEmptyRepository, "push a first commit to branch main")

			r.CommitPush("one", sourcetest.Files{"a.yaml": "1", "deploy/b.yaml": "2"})
			r.Git("push", "--quiet", "origin", "HEAD:refs/heads/feature/x", "HEAD:refs/heads/master")

			cfg := good
			cfg.Branch = "mian"
			_, err = open(t, cfg).Fetch(t.Context())
			refused(t, err, source.ErrBranchNotFound, "no branch mian", "feature/x, main, master", "--branch")

			cfg = good
			cfg.Path = "deplyo"
			s := open(t, cfg)
			_, err = s.Tree(t.Context(), fetch(t, s).Commit)
			refused(t, err, source.ErrPathNotFound, `no directory "deplyo"`, "--path", "deploy")
			cfg.Path = "deploy/b.yaml" // a file
			s = open(t, cfg)
			_, err = s.Tree(t.Context(), fetch(t, s).Commit)
			refused(t, err, source.ErrPathNotFound)

			cfg = good
			cfg.URL += "-not"
			_, err = open(t, cfg).Fetch(t.Context())
			refused(t, err, source.ErrNotFound, "fleet.git-not", "check the")

			s = open(t, good)
			fetch(t, s)
			_, err = s.Tree(t.Context(), strings.Repeat("0f", 20))
			refused(t, err, source.ErrUnknownCommit)
		})
	}
}

// What is wrong with this machine's disk is not blamed on the server.
func TestStateDirectoryUnusable(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	state := filepath.Join(file(t, "in the way"), "state")
	_, err := open(t, source.Config{URL: h.Repo("fleet.git"), StateDir: state}).Fetch(t.Context())
	refused(t, err, syscall.ENOTDIR, filepath.Dir(state))
	if errors.Is(err, source.ErrUnreachable) {
		t.Errorf("the network is blamed: %v", err)
	}
}

// A repository of a kind that is not read is called neither empty nor damaged.
func TestOtherObjectFormat(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	bare := filepath.Join(r.Root, "sha256.git")
	r.Git("init", "--quiet", "--bare", "--object-format=sha256", bare)
	other := filepath.Join(t.TempDir(), "work")
	r.Git("init", "--quiet", "--object-format=sha256", other)
	r.Git("-C", other, "commit", "--quiet", "--allow-empty", "--message", "one")
	r.Git("-C", other, "push", "--quiet", bare, "HEAD:refs/heads/main")
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	for _, url := range []string{bare, "file://" + bare, h.Repo("sha256.git")} {
		_, err := open(t, source.Config{URL: url}).Fetch(t.Context())
		refused(t, err, source.ErrProtocol)
		if text := strings.ToLower(err.Error() + source.Hint(err)); !strings.Contains(text, "sha") {
			t.Errorf("it does not say why: %s", text)
		}
	}
}

func TestHTTPCredentials(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{TLS: true, User: "deploy", Password: "s3cr3t-canary", Bearer: "b34r3r-canary"})
	with := func(token string) source.Config {
		cfg := source.Config{URL: h.Repo("fleet.git"), CAFile: h.CAFile}
		if token != "" {
			cfg.TokenFile = file(t, token)
		}
		return cfg
	}
	withUser := with("s3cr3t-canary")
	withUser.Username = "deploy"
	inURL := with("")
	inURL.URL = strings.Replace(inURL.URL, "https://", "https://deploy:s3cr3t-canary@", 1)
	for name, cfg := range map[string]source.Config{
		"user and password": with("deploy:s3cr3t-canary\n"), "bearer": with("Bearer b34r3r-canary\n"),
		"user by flag": withUser, "in the URL": inURL,
	} {
		s := open(t, cfg)
		fetched(t, s, commit)
		if strings.Contains(s.String()+s.RedactedURL(), "canary") {
			t.Errorf("%s: %s shows the secret", name, s)
		}
	}

	for name, cfg := range map[string]source.Config{"none": with(""), "wrong": with("wr0ng-canary"), "empty": with("\n"), "two lines": with("a\nb")} {
		_, err := open(t, cfg).Fetch(t.Context())
		refused(t, err, source.ErrAuth, "token")
		if strings.Contains(err.Error()+source.Hint(err), "canary") {
			t.Errorf("%s: the message shows the secret: %v", name, err)
		}
	}
	gone := with("x")
	gone.TokenFile += "-gone"
	_, err := open(t, gone).Fetch(t.Context())
	refused(t, err, source.ErrAuth, "no such file", "--git-token-file")

	// A token that is replaced while the agent runs counts at once.
	cfg := with("Bearer expired")
	s := open(t, cfg)
	if _, err = s.Fetch(t.Context()); !errors.Is(err, source.ErrAuth) {
		t.Fatal(err)
	}
	if err = os.WriteFile(cfg.TokenFile, []byte("Bearer b34r3r-canary"), 0o600); err != nil {
		t.Fatal(err)
	}
	fetched(t, s, commit)

	// No secret is on the disk.
	dir := t.TempDir()
	inURL.StateDir = dir
	fetched(t, open(t, inURL), commit)
	err = filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			if b, _ := os.ReadFile(p); strings.Contains(string(b), "canary") {
				t.Errorf("%s holds the secret", p)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{TLS: true})
	cfg := source.Config{URL: h.Repo("fleet.git")}
	_, err := open(t, cfg).Fetch(t.Context())
	refused(t, err, source.ErrCertificate, "unknown authority", "--git-ca-file")
	cfg.CAFile = file(t, "nonsense")
	s := open(t, cfg)
	_, err = s.Fetch(t.Context())
	refused(t, err, source.ErrCertificate, "no PEM certificate")
	ca, err := os.ReadFile(h.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	if err = os.WriteFile(cfg.CAFile, ca, 0o600); err != nil { // read at each use
		t.Fatal(err)
	}
	fetched(t, s, commit)

	named := cfg
	named.URL = strings.Replace(cfg.URL, "127.0.0.1", "localhost", 1)
	_, err = open(t, named).Fetch(t.Context())
	refused(t, err, source.ErrCertificate, "localhost", "a name that the certificate is for")
	expired := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{TLS: true, Expired: true})
	_, err = open(t, source.Config{URL: expired.Repo("fleet.git"), CAFile: expired.CAFile}).Fetch(t.Context())
	refused(t, err, source.ErrCertificate, "expired", "clock")

	// The wrong scheme, either way.
	plain := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	_, err = open(t, source.Config{URL: strings.Replace(plain.Repo("fleet.git"), "http:", "https:", 1)}).Fetch(t.Context())
	refused(t, err, source.ErrProtocol, "no TLS", "http://")
	_, err = open(t, source.Config{URL: strings.Replace(cfg.URL, "https:", "http:", 1)}).Fetch(t.Context())
	refused(t, err, source.ErrProtocol, "answers 400", "check the URL")
}

// Credentials do not follow a redirect to another host.
func TestRedirect(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	other := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	redirect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, strings.Replace(other.URL, "127.0.0.1", "localhost", 1)+req.URL.RequestURI(), http.StatusMovedPermanently)
	}))
	defer redirect.Close()
	fetched(t, open(t, source.Config{URL: redirect.URL + "/fleet.git", TokenFile: file(t, "secret")}), commit)
	for _, h := range other.Headers() {
		if h.Get("Authorization") != "" {
			t.Errorf("the other host got %q", h.Get("Authorization"))
		}
	}
}

// A redirect from https to http would show everything on the way.
func TestRedirectToPlain(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	plain := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{TLS: true, Wrap: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, plain.URL+req.URL.RequestURI(), http.StatusFound)
		})
	}})
	_, err := open(t, source.Config{URL: h.Repo("fleet.git"), CAFile: h.CAFile, TokenFile: file(t, "secret")}).Fetch(t.Context())
	refused(t, err, source.ErrUnreachable, "redirect")
	for _, got := range plain.Headers() {
		if got.Get("Authorization") != "" {
			t.Errorf("the token went over http: %q", got.Get("Authorization"))
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for url, words := range map[string]string{
		"":                               "no repository given",
		"git://example.com/x.git":        "neither encrypted nor authenticated",
		"ftp://example.com/x.git":        `scheme "ftp" is not supported`,
		"https://example.com":            "no path",
		"https:///x.git":                 "no host",
		"https://u:canary@exa mple/x":    "",
		"https://u:canary%zz@example/x":  "%XX",
		"https://u:canary/x@example/x":   "%XX",
		"https://u:canary?x@example/x":   "%XX",
		"https://u:x?canary@example/x":   "%XX",
		"https://u:canary#x@example/x":   "%XX",
		"https://u:x/canary@example/x":   "%XX",
		"file://elsewhere/x.git":         "on this machine",
		"https://example.com/x\x1b[31m":  "control character",
		"http://u:canary@example.com/x":  "readable on the way",
		"http://u:canary@10.0.0.1:80/x":  "readable on the way",
		"http://u:canary@127.0.0.1.nip/": "",
	} {
		_, err := source.Open(source.Config{URL: url, StateDir: t.TempDir()})
		refused(t, err, source.ErrConfig, words)
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("secret in %v", err)
		}
	}
	good := source.Config{URL: "https://example.com/x.git", StateDir: "/nowhere"}
	for name, change := range map[string]func(c *source.Config){
		"branch":    func(c *source.Config) { c.Branch = "a..b" },
		"option":    func(c *source.Config) { c.Branch = "--upload-pack=x" },
		"path":      func(c *source.Config) { c.Path = "../x" },
		"interval":  func(c *source.Config) { c.Interval = time.Millisecond },
		"timeout":   func(c *source.Config) { c.Timeout = -1 },
		"state dir": func(c *source.Config) { c.StateDir = "" },
		"ssh key":   func(c *source.Config) { c.SSHKey = "/x" },
		"token":     func(c *source.Config) { c.URL = "ssh://git@example.com/x"; c.TokenFile = "/x" },
		"http":      func(c *source.Config) { c.URL = "http://example.com/x"; c.TokenFile = "/x" },
	} {
		cfg := good
		change(&cfg)
		_, err := source.Open(cfg)
		if !errors.Is(err, source.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"git@github.com:org/fleet.git", "github.com:fleet", "ssh://git@h:22/x", "git+ssh://h/~me/x", "file:///x", "./x", "http://localhost/x"} {
		if _, err := source.Open(source.Config{URL: url, StateDir: "/nowhere"}); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	_, err := open(t, source.Config{URL: "github.com/org/fleet"}).Fetch(t.Context())
	refused(t, err, source.ErrNotFound, "https://")
}

// Errors come with what to do.
func ExampleHint() {
	_, err := source.Open(source.Config{URL: "http://deploy:secret@git.example.com/fleet.git", StateDir: "/var/lib/reconciler"})
	fmt.Println(err)
	fmt.Println("hint:", source.Hint(err))
	// Output:
	// open http://***@git.example.com/fleet.git: invalid source: credentials over http would be readable on the way to git.example.com
	// hint: use https; http with credentials is only for this machine itself
}
