package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"reconciler/manifest"
	"reconciler/reconcile"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
)

// Agent is what the API needs of *reconcile.Agent.
type Agent interface {
	View(ctx context.Context) (report.View, error)
	Records() ([]journal.Record, error)
	Follow(ctx context.Context) ([]journal.Record, <-chan report.Event, error)
	Counters() reconcile.Counters
	Plan(ctx context.Context) (report.Plan, error)
	Sync(ctx context.Context) (reconcile.SyncResult, error)
	Approve(ctx context.Context, commit string) (string, error)
	Retry(ctx context.Context, name manifest.Name) error
	Restart(ctx context.Context, name manifest.Name) error
	Suspend(ctx context.Context) error
	Resume(ctx context.Context) error
	Down(ctx context.Context) error
}

// Options are what a Server needs besides its agent.
type Options struct {
	// Version is of this program, for the metric build_info.
	Version string
	// TokenFile holds the bearer token that allows changes over TCP. It is read at every use, so that it can be
	// rotated. Empty: nothing can be changed over TCP.
	TokenFile string
}

// Server answers requests to one agent.
type Server struct {
	agent   Agent
	opts    Options
	metrics http.Handler

	bodyTimeout time.Duration
}

// The limits of a request.
const (
	maxBody        = 64 << 10
	headTimeout    = 10 * time.Second
	bodyTimeout    = 10 * time.Second
	writeTimeout   = time.Minute // of an answer, or of one event
	idleTimeout    = 2 * time.Minute
	maxConnections = 64 // over TCP, at a time: others wait
)

// NewServer returns a server for agent. It listens nowhere yet.
func NewServer(agent Agent, opts Options) *Server {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(agent, opts.Version), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &Server{agent: agent, opts: opts, bodyTimeout: bodyTimeout, metrics: promhttp.HandlerFor(reg, promhttp.HandlerOpts{})}
}

// Serve answers on l until ctx ends, then closes it and ends what is being answered. Local says that l is the unix
// socket, whose mode says who may connect; on any other, what changes something needs the token.
func (s *Server) Serve(ctx context.Context, l net.Listener, local bool) error {
	if !local {
		l = netutil.LimitListener(l, maxConnections)
	}
	srv := &http.Server{
		Handler: s.Handler(local), ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	err := srv.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
}

// Handler returns the API. Local is as in Serve.
func (s *Server) Handler(local bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.metrics)
	read := func(path string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) { answer(w, r, fn) })
	}
	read("/v1/status", s.status)
	read("/v1/ps", s.ps)
	read("/v1/describe", s.describe)
	read("/v1/plan", func(r *http.Request) (any, error) { return s.agent.Plan(r.Context()) })
	read("/v1/history", s.history)
	mux.HandleFunc("GET /v1/events", s.events)
	write := func(path string, fn func(r *http.Request) (any, error)) {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			if !local {
				if err := s.allowed(r); err != nil {
					writeError(w, err)
					return
				}
			}
			answer(w, r, fn)
		})
	}
	write("/v1/sync", s.sync)
	write("/v1/approve", s.approve)
	write("/v1/retry", s.named(s.agent.Retry))
	write("/v1/restart", s.named(s.agent.Restart))
	write("/v1/suspend", s.plain(s.agent.Suspend))
	write("/v1/resume", s.plain(s.agent.Resume))
	write("/v1/down", s.plain(s.agent.Down))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &Error{Message: r.Method + " " + r.URL.Path + ": no such endpoint", Reason: ReasonNotFound, Status: http.StatusNotFound})
	})
	return s.bounded(mux)
}

// bounded reads the whole of a request first, and cuts off whoever sends or takes too slowly.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		extendWrite(w)
		// A deadline for reading that stayed set would end the wait of a long answer.
		_ = conn.SetReadDeadline(time.Now().Add(s.bodyTimeout)) // works on every connection there is
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err == nil { // else what is left of it is not waited for
			_ = conn.SetReadDeadline(time.Time{})
		}
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			writeError(w, &Error{
				Message: fmt.Sprintf("request: larger than %d KiB", maxBody>>10), Reason: ReasonInvalid, Status: http.StatusRequestEntityTooLarge,
			})
			return
		}
		if err != nil {
			writeError(w, invalid("request: "+err.Error(), ""))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

// extendWrite gives what is written next its time.
func extendWrite(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // works on every connection there is
}

func answer(w http.ResponseWriter, r *http.Request, fn func(*http.Request) (any, error)) {
	body, err := fn(r)
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, body)
}

// allowed checks the bearer token of a request over TCP.
func (s *Server) allowed(r *http.Request) error {
	if s.opts.TokenFile == "" {
		return &Error{
			Message: r.URL.Path + ": nothing can be changed over TCP", Reason: ReasonForbidden, Status: http.StatusForbidden,
			Hint: "use the command line on the server, or start the agent with a token file",
		}
	}
	content, err := os.ReadFile(s.opts.TokenFile)
	want := strings.TrimSpace(string(content))
	if err != nil || want == "" {
		return &Error{
			Message: "the token file of the API cannot be read or is empty", Reason: ReasonForbidden, Status: http.StatusForbidden,
			Hint: "put a token into the file that the agent was given",
		}
	}
	got, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want)) // of one length, so that the time tells nothing
	if !isBearer || subtle.ConstantTimeCompare(a[:], b[:]) != 1 {
		return &Error{
			Message: r.URL.Path + ": wrong or missing token", Reason: ReasonForbidden, Status: http.StatusUnauthorized,
			Hint: "send the header Authorization: Bearer TOKEN",
		}
	}
	return nil
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	v, err := s.agent.View(r.Context())
	if err == nil && v.ObservedError != "" {
		err = errors.New(v.ObservedError)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

func decodeBody(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return invalid("request: "+err.Error(), "send a JSON object")
	}
	return nil
}
