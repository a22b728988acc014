package source_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

// Servers that hang, lie, or break off.
func TestServersThatMisbehave(t *testing.T) {
	t.Parallel()
	wait := func(req *http.Request) { <-req.Context().Done() } // the server's end cuts its clients off
	cases := []struct {
		name   string
		silent bool // it shows only in that nothing comes
		wrap   func(next http.Handler) http.HandlerFunc
		reason error
	}{
		{"hangs", true, func(http.Handler) http.HandlerFunc {
			return func(_ http.ResponseWriter, req *http.Request) { wait(req) }
		}, source.ErrUnreachable},
		{"hangs in the list of branches", true, func(http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.WriteString(w, "001e# service=git-upload-pack\n0000")
				w.(http.Flusher).Flush()
				wait(req)
			}
		}, source.ErrUnreachable},
		{"hangs in the pack", true, func(next http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				if req.Method == http.MethodGet {
					next.ServeHTTP(w, req)
					return
				}
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, req)
				_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
				w.(http.Flusher).Flush()
				wait(req)
			}
		}, source.ErrUnreachable},
		{"drips the list of branches", true, func(next http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, req)
				drip(w, req, rec.Body.Bytes(), 20*time.Millisecond)
			}
		}, source.ErrUnreachable},
		{"breaks off in the pack", false, func(next http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				if req.Method == http.MethodGet {
					next.ServeHTTP(w, req)
					return
				}
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, req)
				_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		}, source.ErrUnreachable},
		{"sends half a pack as if it were whole", false, func(next http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, req)
				n := rec.Body.Len()
				if req.Method == http.MethodPost {
					n /= 2
				}
				_, _ = w.Write(rec.Body.Bytes()[:n])
			}
		}, source.ErrUnreachable},
		{"has a login page", false, func(http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "<html>\x1b[31mplease log in</html>")
			}
		}, source.ErrProtocol},
		{"has an endless page", false, func(http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusBadGateway)
				for i := range 1 << 12 {
					if _, err := w.Write(make([]byte, 1<<12)); err != nil {
						return
					}
					_ = i
				}
			}
		}, source.ErrUnreachable},
		{"sends in circles", false, func(http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, req.URL.RequestURI(), http.StatusTemporaryRedirect)
			}
		}, source.ErrUnreachable},
		{"is down", false, func(http.Handler) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		}, source.ErrUnreachable},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := sourcetest.NewRepo(t)
			first := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
			var misbehave atomic.Bool
			h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{Wrap: func(next http.Handler) http.Handler {
				bad := c.wrap(next)
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if misbehave.Load() {
						bad(w, req)
						return
					}
					next.ServeHTTP(w, req)
				})
			}})
			patient := source.Config{URL: h.Repo("fleet.git"), Timeout: time.Minute, StateDir: t.TempDir()}
			cfg := patient
			if c.silent { // only there: on a busy machine a healthy server needs time too
				cfg.Timeout = 500 * time.Millisecond
			}
			before := fetched(t, open(t, patient), first)
			s := open(t, cfg)
			second := r.CommitPush("two", sourcetest.Files{"a.yaml": "2"})
			misbehave.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // far longer than giving up may take
			defer cancel()
			_, err := s.Fetch(ctx)
			refused(t, err, c.reason)
			if ctx.Err() != nil {
				t.Error("it never gives up by itself")
			}
			if content(t, before, "a.yaml") != "1" {
				t.Error("the revision before is not readable")
			}
			fresh := cfg
			fresh.StateDir = t.TempDir()
			_, err = open(t, fresh).Fetch(t.Context())
			refused(t, err, c.reason)
			for _, dir := range []string{cfg.StateDir, fresh.StateDir} {
				if torn, _ := filepath.Glob(filepath.Join(dir, "repo.git*", "objects", "pack", "tmp_*")); len(torn) > 0 {
					t.Errorf("left behind: %v", torn)
				}
			}
			misbehave.Store(false)
			fetched(t, open(t, patient), second)
		})
	}
}

func TestServerThatDripsThePack(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	h := sourcetest.GitHTTP(t, r.Root, sourcetest.HTTPOptions{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet {
				next.ServeHTTP(w, req)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, req)
			drip(w, req, rec.Body.Bytes(), 100*time.Millisecond)
		})
	}})
	_, err := open(t, source.Config{URL: h.Repo("fleet.git"), Timeout: 500 * time.Millisecond}).Fetch(t.Context())
	refused(t, err, source.ErrUnreachable, "less than 1024 bytes in 5s")
}

// drip sends an answer byte by byte, so that the server is never silent, until the client has had enough.
func drip(w http.ResponseWriter, req *http.Request, answer []byte, every time.Duration) {
	for _, b := range answer {
		if _, err := w.Write([]byte{b}); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		select {
		case <-time.After(every):
		case <-req.Context().Done():
			return
		}
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	d := sourcetest.SSHD(t, sourcetest.SSHOptions{})
	for _, url := range []string{"http://" + addr + "/x.git", "ssh://" + addr + "/x.git", "https://user:canary@host.invalid/x.git"} {
		cfg := source.Config{URL: url, Timeout: 2 * time.Second}
		if strings.HasPrefix(url, "ssh") {
			cfg.SSHKey, cfg.KnownHosts = d.Key, d.KnownHosts
		}
		_, err := open(t, cfg).Fetch(t.Context())
		refused(t, err, source.ErrUnreachable)
		if strings.Contains(err.Error(), "canary") {
			t.Errorf("secret in %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, source.Config{URL: "http://" + addr + "/x.git"}).Fetch(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
