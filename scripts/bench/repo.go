package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// repository is a bare repository with a work tree beside it, both made by git.
type repository struct {
	b          *bench
	bare, work string
}

func (b *bench) newRepository(dir string) (*repository, error) {
	r := &repository{b: b, bare: filepath.Join(dir, "fleet.git"), work: filepath.Join(dir, "work")}
	if _, err := r.git("init", "-q", "--bare", "-b", "main", r.bare); err != nil {
		return nil, err
	}
	_, err := r.git("init", "-q", "-b", "main", r.work)
	return r, err
}

func (r *repository) git(args ...string) (string, error) {
	out, _, err := r.b.do(nil, "/usr/bin/git", args...)
	return strings.TrimSpace(out), err
}

// commit writes files, removes those without text, and commits.
func (r *repository) commit(files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(r.work, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && text != "" {
			err = os.WriteFile(path, []byte(text), 0o644)
		} else if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	_, err := r.git("-C", r.work, "add", "-A")
	if err == nil {
		_, err = r.git("-C", r.work, "commit", "-q", "-m", "change")
	}
	return err
}

// stage brings the commit to the bare repository on a branch that nobody follows. What it returns moves the branch that
// is followed there, by the one rename that git ends a push with: the moment from which a commit can be seen.
func (r *repository) stage() (publish func() error, err error) {
	if _, err = r.git("-C", r.work, "push", "-q", "--force", r.bare, "HEAD:refs/heads/next"); err != nil {
		return nil, err
	}
	commit, err := r.git("-C", r.work, "rev-parse", "HEAD")
	return func() error {
		lock := filepath.Join(r.bare, "refs", "heads", "main.lock")
		if lockErr := os.WriteFile(lock, []byte(commit+"\n"), 0o644); lockErr != nil {
			return lockErr
		}
		return os.Rename(lock, strings.TrimSuffix(lock, ".lock"))
	}, err
}

// push is what a person does.
func (r *repository) push() error {
	_, err := r.git("-C", r.work, "push", "-q", r.bare, "HEAD:main")
	return err
}

// commitPush is both.
func (r *repository) commitPush(files map[string]string) error {
	if err := r.commit(files); err != nil {
		return err
	}
	return r.push()
}

// gitServer serves the repositories of a directory with git http-backend.
type gitServer struct {
	*httptest.Server
	requests atomic.Int64
}

func (b *bench) serveGit(root string) (*gitServer, error) {
	out, _, err := b.do(nil, "/usr/bin/git", "--exec-path")
	if err != nil {
		return nil, err
	}
	backend := &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(out), "git-http-backend"),
		Env:  b.environment("GIT_PROJECT_ROOT="+root, "GIT_HTTP_EXPORT_ALL=1"),
	}
	if _, err := os.Stat(backend.Path); err != nil {
		return nil, err
	}
	s := &gitServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		backend.ServeHTTP(w, r)
	}))
	return s, nil
}

// manifestOf is a container that does nothing, with everything on: the bridge network, user ids of its own, the default
// seccomp filter. A change of its env is what a new version of it is.
func (b *bench) manifestOf(name, env string) string {
	return fmt.Sprintf(`apiVersion: reconciler/v1
kind: Container
metadata: {name: %s}
spec:
  image: %s
  command: [/bin/busybox, sleep, "100000"]
  env: {VERSION: "%s"}
  terminationGracePeriodSeconds: 0
`, name, b.image, env)
}

// manifestsOf are n of them by file, or their removal.
func (b *bench) manifestsOf(prefix string, n int, gone bool) map[string]string {
	files := map[string]string{}
	for i := range n {
		name := fmt.Sprintf("%s%d", prefix, i)
		files[name+".yaml"] = ""
		if !gone {
			files[name+".yaml"] = b.manifestOf(name, "1")
		}
	}
	return files
}

var errNotRunning = errors.New("it does not run")
