package api

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime/fake"
)

const web = `apiVersion: reconciler/v1
kind: Container
metadata: {name: web}
spec: {image: "registry.example.com/web:1", network: none}
`

// oneCommit is a source with one commit for ever.
type oneCommit struct{}

func (oneCommit) Fetch(context.Context) (manifest.Revision, error) {
	return manifest.Revision{Commit: strings.Repeat("a", 40), Author: "Ada", Subject: "first"}, nil
}

func (oneCommit) Tree(context.Context, string) (fs.FS, error) {
	return fstest.MapFS{"web.yaml": {Data: []byte(web)}}, nil
}

func (oneCommit) Descends(context.Context, string, string) (bool, error) { return true, nil }

func (oneCommit) Watch(context.Context) (<-chan struct{}, error) { return nil, nil }

// serve runs a real agent on the fake runtime and its API on a real socket.
func serve(t *testing.T, opts Options) (*reconcile.Agent, *Server, *Client) {
	t.Helper()
	agent, err := reconcile.New(reconcile.Config{
		Node: "edge-1", Instance: "test", StateDir: t.TempDir(), Source: oneCommit{}, Runtime: fake.New(fake.Options{}),
		Policy: plan.Policy{MaxRemove: 50},
		Load: func(tree fs.FS, rev manifest.Revision) (manifest.Set, error) {
			return manifest.Load(tree, rev, manifest.Node{Name: "edge-1"})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	run := t.TempDir()
	l, err := Listen(run)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(agent, opts)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- agent.Run(ctx) }()
	go func() { ended <- server.Serve(ctx, l, true) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Stat(SocketPath(run)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	<-agent.Ready()
	return agent, server, NewClient(run)
}

func TestClientAndServer(t *testing.T) {
	_, _, c := serve(t, Options{Version: "test"})
	ctx := t.Context()
	name := manifest.Name{Namespace: "default", Name: "web"}
	r, err := c.Sync(ctx, time.Minute)
	if err != nil || r.Outcome != reconcile.SyncConverged {
		t.Fatalf("sync %+v, %v", r, err)
	}
	s, err := c.Status(ctx)
	if err != nil || s.Sync != report.Synced || s.Node != "edge-1" {
		t.Errorf("status %+v, %v", s, err)
	}
	rows, err := c.Ps(ctx, false)
	if err != nil || len(rows) != 1 || rows[0].State != report.StateRunning {
		t.Errorf("ps %+v, %v", rows, err)
	}
	d, err := c.Describe(ctx, name)
	if err != nil || d.Source.File != "web.yaml" || d.Name != "web" {
		t.Errorf("describe %+v, %v", d, err)
	}
	p, err := c.Plan(ctx)
	if err != nil || len(p.Steps) != 0 {
		t.Errorf("plan %+v, %v", p, err)
	}
	h, err := c.History(ctx, &name)
	if err != nil || len(h) != 1 || h[0].Result != "Applied" {
		t.Errorf("history %+v, %v", h, err)
	}
	if err = c.Suspend(ctx); err != nil {
		t.Error(err)
	}
	if err = c.Resume(ctx); err != nil {
		t.Error(err)
	}
	if err = c.Restart(ctx, name); err != nil {
		t.Error(err)
	}
	if err = c.Retry(ctx, name); err != nil {
		t.Error(err)
	}
	full, err := c.Approve(ctx, "aaaaaaaa")
	if err != nil || full != strings.Repeat("a", 40) {
		t.Errorf("approve %q, %v", full, err)
	}
	var e *Error
	if err := c.Restart(ctx, manifest.Name{Namespace: "x", Name: "y"}); !errors.As(err, &e) || e.Reason != ReasonNotFound || e.Hint == "" {
		t.Errorf("restart of nothing: %v", err)
	}
	if _, err := c.Approve(ctx, "xyz"); !errors.As(err, &e) || e.Reason != ReasonInvalid {
		t.Errorf("approve of nonsense: %v", err)
	}
}

func TestEventsAreFollowed(t *testing.T) {
	_, _, c := serve(t, Options{})
	if _, err := c.Sync(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen []string
	suspended := false
	err := c.Events(ctx, nil, true, func(e report.Event) error {
		seen = append(seen, e.Reason)
		if !suspended { // the past has begun to come: now make something new
			suspended = true
			return c.Suspend(ctx)
		}
		if e.Reason == "Suspended" {
			cancel()
		}
		return nil
	})
	if err != nil || seen[0] != "Accepted" || seen[len(seen)-1] != "Suspended" {
		t.Errorf("%v, %v", seen, err)
	}
	n := 0
	if err := c.Events(t.Context(), nil, false, func(report.Event) error { n++; return nil }); err != nil || n != len(seen) {
		t.Errorf("%d events, then %d: %v", len(seen), n, err)
	}
}

func TestTCPNeedsTokenToChange(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	_, withToken, _ := serve(t, Options{TokenFile: file})
	_, without, _ := serve(t, Options{})
	ask := func(s *Server, method, path, auth string) int {
		req := httptest.NewRequest(method, path, nil)
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		w := httptest.NewRecorder()
		s.Handler(false).ServeHTTP(w, req)
		return w.Code
	}
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		server                    *Server
		token, method, path, auth string
		want                      int
	}{
		{without, "", "GET", "/v1/status", "", 200},
		{without, "", "GET", "/healthz", "", 200},
		{without, "", "POST", "/v1/suspend", "", 403},
		{without, "", "POST", "/v1/suspend", "Bearer ", 403},
		{withToken, "one\n", "POST", "/v1/suspend", "", 401},
		{withToken, "one\n", "POST", "/v1/suspend", "Bearer two", 401},
		{withToken, "one\n", "POST", "/v1/suspend", "one", 401},
		{withToken, "one\n", "POST", "/v1/suspend", "Bearer one", 200},
		{withToken, "two\n", "POST", "/v1/suspend", "Bearer one", 401}, // rotated
		{withToken, "\n", "POST", "/v1/suspend", "Bearer ", 403},       // an empty token is none
		{withToken, "two\n", "GET", "/v1/suspend", "Bearer two", 404},
		{withToken, "two\n", "GET", "/v1/nothing", "", 404},
	} {
		write(c.token)
		if got := ask(c.server, c.method, c.path, c.auth); got != c.want {
			t.Errorf("%s %s with %q: %d, want %d", c.method, c.path, c.auth, got, c.want)
		}
	}
}

func TestMetrics(t *testing.T) {
	_, server, c := serve(t, Options{Version: "v1"})
	if _, err := c.Sync(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	server.Handler(true).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, _ := io.ReadAll(w.Body)
	for _, want := range []string{
		`reconciler_build_info{goversion="go`, `reconciler_app_info{health="Healthy",name="default/web",sync="Synced"} 1`,
		`reconciler_reconcile_total{result="ok"}`, "reconciler_reconcile_duration_seconds_bucket", `reconciler_source_fetch_total{result="changed"} 1`,
		"reconciler_last_applied_timestamp_seconds 1", "reconciler_drift_detected_total 0",
		"reconciler_guard_blocked_total 0", "reconciler_image_pull_bytes_total", "reconciler_state_bytes_written_total",
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s", want)
		}
	}
}

func TestNoAgent(t *testing.T) {
	dir := t.TempDir()
	c := NewClient(dir)
	if _, err := c.Status(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("without a socket: %v", err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(SocketPath(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err = Listen(dir); err == nil {
		t.Error("the socket of one that lives was taken over")
	}
	dead := l.(*socket)
	if err = dead.UnixListener.Close(); err != nil { // as a killed agent does: the file stays
		t.Fatal(err)
	}
	if _, err = c.Status(t.Context()); !errors.Is(err, ErrNoAgent) {
		t.Errorf("with a dead socket: %v", err)
	}
	if l, err = Listen(dir); err != nil {
		t.Fatalf("a dead socket was not taken over: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("too long a path: %v", err)
	}
}

// Who sends too much is told so; who sends too slowly is cut off; who waits for a long answer is not.
func TestRequestsAreBounded(t *testing.T) {
	agent, server, c := serve(t, Options{})
	server.bodyTimeout = 200 * time.Millisecond
	if _, err := c.Sync(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", c.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	w := httptest.NewRecorder()
	server.Handler(true).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/approve", strings.NewReader(strings.Repeat(" ", maxBody+1))))
	if w.Code != http.StatusRequestEntityTooLarge || !strings.Contains(w.Body.String(), "larger than 64 KiB") {
		t.Errorf("too large: %d %s", w.Code, w.Body)
	}
	slow, follows := dial(), dial()
	if _, err := io.WriteString(slow, "POST /v1/approve HTTP/1.1\r\nHost: agent\r\nContent-Length: 10\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(follows, "GET /v1/events?follow HTTP/1.1\r\nHost: agent\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_ = slow.SetReadDeadline(time.Now().Add(bodyTimeout + 10*time.Second))
	answer, err := io.ReadAll(slow)
	if err != nil || !strings.Contains(string(answer), "400 Bad Request") {
		t.Errorf("slow: %q, %v", answer, err)
	}
	// By now whoever follows has waited for longer than a request may take.
	if err := agent.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = follows.SetReadDeadline(time.Now().Add(10 * time.Second))
	var got strings.Builder
	for buf := make([]byte, 4096); !strings.Contains(got.String(), "Suspended"); {
		n, err := follows.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			t.Fatalf("follows: %q, %v", got.String(), err)
		}
	}
}

// waits is an agent whose sync lasts as long as somebody waits for it.
type waits struct {
	*reconcile.Agent
	asked chan struct{}
}

func (w waits) Sync(ctx context.Context) (reconcile.SyncResult, error) {
	close(w.asked)
	<-ctx.Done()
	return reconcile.SyncResult{}, context.Cause(ctx)
}

// An agent that stops while somebody waits for its answer is one that does not run, not a broken connection.
func TestAgentStopsBeforeItAnswers(t *testing.T) {
	agent, _, _ := serve(t, Options{})
	for range 10 { // the answer and the end of the connection race
		run := t.TempDir()
		l, err := Listen(run)
		if err != nil {
			t.Fatal(err)
		}
		w := waits{agent, make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- NewServer(w, Options{}).Serve(ctx, l, true) }()
		go func() { <-w.asked; cancel() }()
		if _, err := NewClient(run).Sync(t.Context(), 0); !errors.Is(err, reconcile.ErrNotRunning) {
			t.Errorf("sync: %v", err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
