package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// stub is a Runtime whose containers answer as a test says. A call that a test has no function for fails it.
type stub struct {
	runtime.Runtime
	exec func(ctx context.Context, id runtime.ID, command []string) (runtime.ExecResult, error)
	dial func(ctx context.Context, id runtime.ID, network, address string) (net.Conn, error)
	stop func(ctx context.Context, id runtime.ID, grace time.Duration) error
}

func (s *stub) Exec(ctx context.Context, id runtime.ID, command []string) (runtime.ExecResult, error) {
	return s.exec(ctx, id, command)
}

func (s *stub) Dial(ctx context.Context, id runtime.ID, network, address string) (net.Conn, error) {
	return s.dial(ctx, id, network, address)
}

func (s *stub) Stop(ctx context.Context, id runtime.ID, grace time.Duration) error {
	return s.stop(ctx, id, grace)
}

var inContainer = target{id: "c", host: "10.77.0.5"}

// serve makes a stub whose container's ports all lead to a server, and counts its open connections.
func serve(t *testing.T, handler http.HandlerFunc, secure bool) (*stub, *sync.WaitGroup) {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	if secure {
		srv.StartTLS()
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	open := &sync.WaitGroup{}
	return &stub{dial: func(ctx context.Context, id runtime.ID, network, address string) (net.Conn, error) {
		if id != "c" || network != "tcp" || !strings.HasPrefix(address, ":") {
			return nil, fmt.Errorf("dialled %s %s in %s", network, address, id)
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return &counted{Conn: conn, closed: sync.OnceFunc(open.Done)}, nil
	}}, open
}

// counted tells of its end.
type counted struct {
	net.Conn
	closed func()
}

func (c *counted) Close() error {
	c.closed()
	return c.Conn.Close()
}

func httpGet(path string, change func(*manifest.HTTPGetAction)) action {
	get := &manifest.HTTPGetAction{Path: path}
	if change != nil {
		change(get)
	}
	return action{get: get, port: 8080}
}

// TestHTTPGet fails where an answer is judged otherwise than Kubernetes does.
func TestHTTPGet(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/headers":
			if r.Host != "shop.example.com" || strings.Join(r.Header["X-A"], ",") != "1,2" || r.UserAgent() != "me" || r.Header.Get("Accept") != "*/*" {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/defaults":
			if r.Host != "10.77.0.5:8080" || r.UserAgent() != userAgent || r.Method != http.MethodGet || r.URL.RawQuery != "a=b%20c" {
				w.WriteHeader(http.StatusTeapot)
			}
		default:
			code, _ := strconv.Atoi(r.URL.Path[1:])
			w.WriteHeader(code)
		}
	}
	for _, secure := range []bool{false, true} {
		rt, open := serve(t, handler, secure)
		scheme := func(g *manifest.HTTPGetAction) {
			if secure {
				g.Scheme = manifest.SchemeHTTPS
			}
		}
		to := func(where string) string { return "/redirect?to=" + url.QueryEscape(where) }
		for path, want := range map[string]string{
			"/200": "", "/204": "", "/302": "", "/399": "",
			"/400": "status 400", "/503": "status 503",
			to("/503"): "status 503", to("/200"): "", to("https://elsewhere.example.com/503"): "",
			"/loop": "stopped after 10 redirects", "/endless": "", "/defaults?a=b%20c": "",
		} {
			got := ask(t.Context(), rt, inContainer, httpGet(path, scheme))
			if got.ok != (want == "") || !strings.Contains(got.message, want) || got.unknown {
				t.Errorf("secure %v, %s: %+v, want message %q", secure, path, got, want)
			}
		}
		got := ask(t.Context(), rt, inContainer, httpGet("/headers", func(g *manifest.HTTPGetAction) {
			scheme(g)
			g.HTTPHeaders = []manifest.HTTPHeader{
				{Name: "host", Value: "shop.example.com"}, {Name: "X-A", Value: "1"}, {Name: "x-a", Value: "2"}, {Name: "user-agent", Value: "me"},
			}
		}))
		if !got.ok {
			t.Errorf("secure %v: headers of the manifest are not sent: %+v", secure, got)
		}
		open.Wait() // every connection was closed
	}
}

// TestHTTPGetIsShown fails where the message does not say what was asked.
func TestHTTPGetIsShown(t *testing.T) {
	rt := &stub{dial: func(context.Context, runtime.ID, string, string) (net.Conn, error) {
		return nil, &runtime.Error{Op: "connect to tcp :8080 in container a/b", Err: fmt.Errorf("connect: %w", syscall.ECONNREFUSED)}
	}}
	got := ask(t.Context(), rt, inContainer, httpGet("/ready", nil))
	if want := "GET http://10.77.0.5:8080/ready: connect: connection refused"; got.message != want || got.ok || got.unknown {
		t.Errorf("%+v, want %q", got, want)
	}
	got = ask(t.Context(), rt, inContainer, action{socket: &manifest.TCPSocketAction{}, port: 8080})
	if want := "connect to port 8080: connect: connection refused"; got.message != want || got.ok || got.unknown {
		t.Errorf("%+v, want %q", got, want)
	}
}

// TestHost fails where a host that the manifest names is not the one that is connected to, from inside the container.
func TestHost(t *testing.T) {
	var dialled []string
	rt := &stub{dial: func(_ context.Context, _ runtime.ID, _, address string) (net.Conn, error) {
		dialled = append(dialled, address)
		return nil, errors.New("nobody there")
	}}
	ask(t.Context(), rt, inContainer, httpGet("/", func(g *manifest.HTTPGetAction) { g.Host = "192.0.2.1" }))
	ask(t.Context(), rt, inContainer, action{socket: &manifest.TCPSocketAction{Host: "localhost"}, port: 80})
	ask(t.Context(), rt, inContainer, action{socket: &manifest.TCPSocketAction{}, port: 80})
	if got := strings.Join(dialled, " "); got != "192.0.2.1:8080 localhost:80 :80" {
		t.Errorf("dialled %s", got)
	}
}

// TestSlow fails where a server that accepts and says nothing outlasts the timeout.
func TestSlow(t *testing.T) {
	asked := make(chan struct{}, 2)
	rt, open := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}, false)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if got := ask(ctx, rt, inContainer, httpGet("/", nil)); got.ok || got.unknown || got.message != "no answer in time" {
		t.Errorf("%+v, want no answer in time", got)
	}
	open.Wait()
}

// TestExec fails where a command's end is misjudged: its code counts, not that it could not be asked.
func TestExec(t *testing.T) {
	result := func(code int, output string) func(context.Context, runtime.ID, []string) (runtime.ExecResult, error) {
		return func(context.Context, runtime.ID, []string) (runtime.ExecResult, error) {
			return runtime.ExecResult{Code: code, Output: []byte(output)}, nil
		}
	}
	fails := func(err error) func(context.Context, runtime.ID, []string) (runtime.ExecResult, error) {
		return func(context.Context, runtime.ID, []string) (runtime.ExecResult, error) {
			return runtime.ExecResult{}, err
		}
	}
	for name, c := range map[string]struct {
		exec func(context.Context, runtime.ID, []string) (runtime.ExecResult, error)
		want answer
	}{
		"good":          {result(0, "fine\n"), answer{ok: true}},
		"bad":           {result(3, ""), answer{message: "exit code 3"}},
		"said why":      {result(1, "no\x1b[31m disk\nleft\xff\n"), answer{message: "exit code 1: no [31m disk left�"}},
		"said too much": {result(1, strings.Repeat("x", 9000)), answer{message: "exit code 1: " + strings.Repeat("x", maxMessage)}},
		"no command":    {fails(&runtime.Error{Op: "run", Err: errors.New("no such program"), Permanent: true}), answer{message: "run: no such program"}},
		"not running":   {fails(&runtime.Error{Op: "run", Err: runtime.ErrNotRunning}), answer{message: "run: the container is not running", unknown: true}},
		"no supervisor": {fails(&runtime.Error{Op: "run", Err: errors.New("no supervisor")}), answer{message: "run: no supervisor", unknown: true}},
	} {
		rt := &stub{exec: c.exec}
		if got := ask(t.Context(), rt, inContainer, action{command: []string{"check"}}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
