package source_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// An agent polls for years: what one poll keeps must not grow with their number, whether they find something or fail.
func TestPollsKeepNothing(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it closes files that nobody did
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			polls := 60
			if w.name == "ssh" { // each of which is a login
				polls = 8
			}
			r := sourcetest.NewRepo(t)
			r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
			cfg := w.cfg(t, r)
			s := open(t, cfg)
			nothing := cfg
			nothing.URL += "-not"
			failing := open(t, nothing)
			poll := func(n int) {
				for i := range n {
					if i%20 == 0 {
						files := sourcetest.Files{}
						for n := range 20 {
							files[fmt.Sprint(n, ".yaml")] = fmt.Sprint(i, n)
						}
						r.CommitPush("more", files)
					}
					fetched(t, s, r.Head())
					if _, err := failing.Fetch(t.Context()); err == nil {
						t.Fatal("there is nothing, but it was fetched")
					}
				}
			}
			poll(2)
			files, routines := openFiles(t), goruntime.NumGoroutine()
			poll(polls)
			// What a connection left may take a moment to end.
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				moreFiles, moreRoutines := openFiles(t)-files, goruntime.NumGoroutine()-routines
				if moreFiles < polls/4 && moreRoutines < polls/4 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("after %d polls %d more files are open and %d more goroutines run", polls, moreFiles, moreRoutines)
				}
			}
		})
	}
}

// A watch ends with its context.
func TestWatchKeepsNothing(t *testing.T) {
	s := open(t, source.Config{URL: t.TempDir()})
	files, routines := openFiles(t), goruntime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	for range 20 {
		if _, err := s.Watch(ctx); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); openFiles(t) > files || goruntime.NumGoroutine() > routines; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d files more are open and %d goroutines more run", openFiles(t)-files, goruntime.NumGoroutine()-routines)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

// No secret in an error, a hint or the log, whatever goes wrong with it; also where the server says it again.
func TestSecretsAreNotRepeated(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry"
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_, password, _ := req.BasicAuth()
			said := password + " " + req.Header.Get("Authorization")
			switch code := strings.Split(req.URL.Path, "/")[1]; code {
			case "redirect":
				http.Redirect(w, req, "http://"+canary+":"+canary+"@127.0.0.1:1/?x="+password, http.StatusFound)
			case "refs":
				_, _ = fmt.Fprintf(w, "%04xERR %s\n", len(said)+9, said)
			case "pack":
				if req.Method == http.MethodGet {
					req.URL.Path = strings.TrimPrefix(req.URL.Path, "/pack")
					next.ServeHTTP(w, req)
					return
				}
				w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
				_, _ = fmt.Fprintf(w, "0008NAK\n%04x\x03%s", len(said)+5, said)
			default:
				var n int
				_, _ = fmt.Sscan(code, &n)
				w.Header().Set("WWW-Authenticate", said)
				w.WriteHeader(n)
				_, _ = io.WriteString(w, said)
			}
		})
	}})
	d := sourcetest.SSHD(t, sourcetest.SSHOptions{})
	key := "-----BEGIN OPENSSH PRIVATE KEY-----\n" + canary + "\n-----END OPENSSH PRIVATE KEY-----\n"
	cfgs := []source.Config{
		{URL: d.URL(r.Bare), SSHKey: file(t, key), KnownHosts: d.KnownHosts},
		{URL: strings.Replace(d.URL(r.Bare), "@", ":"+canary+"@", 1) + "-not", SSHKey: d.Key, KnownHosts: d.KnownHosts},
		{URL: strings.Replace(h.URL, "://", "://"+canary+":"+canary+"@", 1) + "/401/x"},
		{URL: h.URL + "/401/x?token=" + canary},
	}
	for _, what := range []string{"401", "403", "404", "400", "500", "redirect", "refs", "pack"} {
		for _, token := range []string{canary, "me:" + canary, "Bearer " + canary, canary + "\n" + canary} {
			cfgs = append(cfgs, source.Config{URL: h.URL + "/" + what + "/fleet.git", TokenFile: file(t, token)})
		}
	}
	for _, cfg := range cfgs {
		var log bytes.Buffer
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s := open(t, cfg)
		_, err := s.Fetch(t.Context())
		if err == nil {
			t.Fatalf("%s: fetched", s)
		}
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), source.Hint(err), log.String(), s.String(), s.RedactedURL()} {
			if strings.Contains(text, canary) {
				t.Errorf("%s shows the secret: %s", s, text)
			}
		}
	}
}
