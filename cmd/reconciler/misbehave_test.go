package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// badRemote is a remote that follows a test's word, and how to reach it.
type badRemote struct {
	args []string
	line *sourcetest.Line
	page atomic.Pointer[http.HandlerFunc] // answers in the server's place
}

func (b *badRemote) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if page := b.page.Load(); page != nil {
			(*page)(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Whatever a remote does, what runs is not disturbed, every verb answers, status says what is wrong and when the next try
// is; and when the remote is well again, the node follows it.
func TestRemoteThatMisbehaves(t *testing.T) {
	for name, serve := range map[string]func(*testing.T, *sourcetest.Repo, *badRemote){
		"http": func(t *testing.T, repo *sourcetest.Repo, b *badRemote) {
			web := sourcetest.GitHTTP(t, repo.Root, sourcetest.HTTPOptions{Wrap: b.wrap})
			b.line = sourcetest.NewLine(t, web.Listener.Addr().String())
			b.args = []string{"--repo", "http://" + b.line.Addr + "/fleet.git"}
		},
		"ssh": func(t *testing.T, repo *sourcetest.Repo, b *badRemote) {
			sshd := sourcetest.SSHD(t, sourcetest.SSHOptions{})
			b.line = sourcetest.NewLine(t, sshd.Addr)
			known, err := os.ReadFile(sshd.KnownHosts)
			if err != nil {
				t.Fatal(err)
			}
			_, port, _ := strings.Cut(b.line.Addr, ":")
			hosts := filepath.Join(t.TempDir(), "known_hosts")
			if err := os.WriteFile(hosts, []byte(strings.Replace(string(known), "]:"+sshd.Port, "]:"+port, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			url := fmt.Sprintf("ssh://%s@%s%s", sshd.User, b.line.Addr, repo.Bare)
			b.args = []string{"--repo", url, "--git-ssh-key", sshd.Key, "--git-known-hosts", hosts}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
			remote := &badRemote{}
			serve(t, repo, remote)
			s.start(remote.args...)
			s.must("sync", "--timeout", patience)
			type trouble struct {
				name  string
				begin func()
				hangs bool
				want  string
			}
			weather := func(w sourcetest.Weather, hangs bool) trouble {
				return trouble{string(w), func() { remote.line.Turn(w) }, hangs, ""}
			}
			page := func(name, want string, page http.HandlerFunc) trouble {
				return trouble{name, func() { remote.page.Store(&page) }, false, want}
			}
			troubles := []trouble{
				weather(sourcetest.Refused, false), weather(sourcetest.Reset, false), weather(sourcetest.Cut, false),
				weather(sourcetest.Garbage, false), weather(sourcetest.Silent, true), weather(sourcetest.Slow, true),
			}
			if name == "http" {
				troubles = append(troubles,
					page("error 500", "the server answers 500", func(w http.ResponseWriter, _ *http.Request) {
						http.Error(w, "\x1b[2Jdown", http.StatusInternalServerError)
					}),
					page("redirect loop", "redirects", func(w http.ResponseWriter, r *http.Request) {
						http.Redirect(w, r, r.URL.RequestURI(), http.StatusFound)
					}),
					page("login page", "does not speak Git", func(w http.ResponseWriter, _ *http.Request) {
						_, _ = fmt.Fprint(w, "<html>\x1b[31mlog in") // nobody to tell
					}),
				)
			}
			for i, tt := range troubles {
				t.Run(tt.name, func(t *testing.T) {
					before := s.rows()["a"]
					tt.begin()
					repo.CommitPush(tt.name, sourcetest.Files{"note": fmt.Sprint(i)})
					limit := patience
					if tt.hangs {
						limit = "2s"
					}
					r := s.do("sync", "--timeout", limit)
					if r.code != 1 || !strings.Contains(r.err, tt.want) || !tt.hangs && !strings.Contains(r.err, "FetchFailed") {
						t.Errorf("sync: status %d, want 1 and %q\n%s%s", r.code, tt.want, r.out, r.err)
					}
					st := s.status()
					if st.Sync != report.Synced || st.Health != report.Healthy {
						t.Errorf("what runs is said to be %s and %s: %+v", st.Sync, st.Health, st)
					}
					if !tt.hangs {
						tellsOfTheNextTry(t, st)
					}
					if a := s.rows()["a"]; a.Pid != before.Pid || a.Restarts != before.Restarts {
						t.Errorf("what ran was touched: %+v", a)
					}
					remote.page.Store(nil)
					remote.line.Turn(sourcetest.Well)
					s.must("sync", "--timeout", patience)
					if st := s.status(); st.Accepted == nil || st.Accepted.Commit != repo.Head() || !st.LastFetch.OK {
						t.Errorf("after the trouble: %+v", st)
					}
				})
			}
		})
	}
}

// tellsOfTheNextTry checks what status says of a source that could not be read.
func tellsOfTheNextTry(t *testing.T, st report.Status) {
	t.Helper()
	switch {
	case st.LastFetch.OK || st.LastFetch.Error == "" || st.LastFetch.Hint == "" || st.Reason != report.ReasonFetchFailed:
		t.Errorf("it is not said what is wrong: %+v", st)
	case st.NextFetch == nil || st.LastFetch.Time == nil || st.NextFetch.Sub(*st.LastFetch.Time) < time.Second ||
		st.NextFetch.Sub(*st.LastFetch.Time) > 6*time.Minute || !strings.Contains(st.Message, "next try at "):
		t.Errorf("it is not said when the next try is: %+v", st)
	case strings.ContainsFunc(st.LastFetch.Error+st.LastFetch.Hint+st.Message, unicode.IsControl):
		t.Errorf("raw control characters in %q", st.LastFetch.Error)
	}
}

// A clone that is damaged on disk while the agent runs, or while none does, is made again, and nothing else happens.
func TestDamagedCloneDisturbsNothing(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	web := sourcetest.GitHTTP(t, repo.Root, sourcetest.HTTPOptions{})
	running := s.start("--repo", web.Repo("fleet.git"))
	s.must("sync", "--timeout", patience)
	before := s.rows()["a"]
	clone := filepath.Join(s.state(), "repo.git")
	each := func(pattern string, hurt func(string) error) func() error {
		return func() error {
			names, err := filepath.Glob(filepath.Join(clone, pattern))
			if err != nil || len(names) == 0 {
				return fmt.Errorf("no %s in the clone: %w", pattern, err)
			}
			for _, name := range names {
				if err := hurt(name); err != nil {
					return err
				}
			}
			return nil
		}
	}
	empty := func(name string) error { return os.Truncate(name, 0) }
	for i, name := range []string{"packs cut", "objects gone", "branch garbage", "HEAD gone", "config empty", "locks left", "a file"} {
		hurt := map[string]func() error{
			"packs cut":      each("objects/pack/*.pack", func(name string) error { return os.Truncate(name, 40) }),
			"objects gone":   each("objects", os.RemoveAll),
			"branch garbage": each("refs/heads/main", func(name string) error { return os.WriteFile(name, []byte("\x1b[31m"), 0o600) }),
			"HEAD gone":      each("HEAD", os.Remove),
			"config empty":   each("config", empty),
			"locks left":     each("[cHs]*", func(name string) error { return os.WriteFile(name+".lock", nil, 0o600) }),
			"a file": each(".", func(name string) error {
				if err := os.RemoveAll(name); err != nil {
					return err
				}
				return os.WriteFile(name, nil, 0o600)
			}),
		}[name]
		t.Run(name, func(t *testing.T) {
			if err := hurt(); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 { // the next one finds it so
				running.stop(os.Interrupt)
				running = s.start("--repo", web.Repo("fleet.git"))
			}
			repo.CommitPush(name, sourcetest.Files{"note": name})
			s.must("sync", "--timeout", patience)
			if st := s.status(); st.Accepted == nil || st.Accepted.Commit != repo.Head() || st.Sync != report.Synced {
				t.Errorf("status: %+v", st)
			}
			if a := s.rows()["a"]; a.Pid != before.Pid {
				t.Errorf("what ran was touched: %+v", a)
			}
		})
	}
}
