package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// webServer is a container on the bridge that answers with a page and is published on a port of this server.
func webServer(name string, port int, more ...string) string {
	text := busybox(name, "busybox httpd -p 8080 -h /srv && echo serving; while true; do sleep 3600; done", append([]string{
		"mounts: [{path: /srv, config: page}]",
		fmt.Sprintf("ports: [{name: http, containerPort: 8080, hostPort: %d}]", port),
	}, more...)...)
	return strings.Replace(text, "network: none", "network: bridge", 1)
}

const page = `apiVersion: reconciler/v1
kind: Config
metadata: {name: page}
data: {index.html: "a page\n"}
`

// freePort returns a port of this server that nobody has now.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// get asks this server for the page at a port.
func get(t *testing.T, port int) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	// A connection that is kept would still lead to where it was made to.
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func wantPage(t *testing.T, port int) {
	t.Helper()
	if got, err := get(t, port); err != nil || got != "a page\n" {
		t.Errorf("port %d answers %q, %v", port, got, err)
	}
}

// TestPublishedPort pushes a container with a published port, moves the port while the process goes on, and wants one that
// a program has.
func TestPublishedPort(t *testing.T) {
	s := newServer(t)
	first, second := freePort(t), freePort(t)
	repo := repository(t, sourcetest.Files{"page.yaml": page, "web.yaml": webServer("web", first)})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	s.follow("logs", "-f", "web").await("serving")
	wantPage(t, first)
	web := s.rows()["web"]
	if want := fmt.Sprintf("0.0.0.0:%d->8080/tcp", first); len(web.Ports) == 0 || web.Ports[0] != want || web.IP == "" || web.MAC == "" {
		t.Errorf("ps: %+v, want %s", web, want)
	}
	if out := s.must("ps", "-o", "wide"); !strings.Contains(out, web.IP) || !strings.Contains(out, web.Ports[0]) {
		t.Errorf("ps -o wide:\n%s", out)
	}
	describe := s.must("describe", "web")
	for _, want := range []string{web.IP, web.MAC, web.Ports[0]} {
		if !strings.Contains(describe, want) {
			t.Errorf("describe has no %s:\n%s", want, describe)
		}
	}

	repo.CommitPush("another port", sourcetest.Files{"web.yaml": webServer("web", second)})
	s.must("sync", "--timeout", patience)
	wantPage(t, second)
	if _, err := get(t, first); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the port from before: %v", err)
	}
	if again := s.rows()["web"]; again.Pid != web.Pid || again.IP != web.IP {
		t.Errorf("the process was touched: %+v, was %+v", again, web)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	taken := l.Addr().(*net.TCPAddr).Port
	repo.CommitPush("a port that somebody has", sourcetest.Files{"api.yaml": webServer("api", taken)})
	if r := s.do("sync", "--timeout", patience); r.code != 1 {
		t.Errorf("sync with a port that is taken: status %d\n%s%s", r.code, r.out, r.err)
	}
	api := s.rows()["api"]
	if api.State != report.StatePending || api.Reason != plan.ReasonPortConflict || !strings.Contains(api.Message, l.Addr().String()) {
		t.Errorf("ps: %+v", api)
	}
	_ = l.Close()
	s.must("sync", "--timeout", patience)
	s.follow("logs", "-f", "api").await("serving")
	wantPage(t, taken)
	wantPage(t, second)

	repo.CommitPush("the port goes to the other", sourcetest.Files{"web.yaml": webServer("web", taken), "api.yaml": webServer("api", second)})
	if r := s.do("sync", "--timeout", patience); r.code != 1 || !strings.Contains(r.err, plan.ReasonPortConflict) {
		t.Errorf("sync that swaps ports: status %d\n%s%s", r.code, r.out, r.err)
	}
	wantPage(t, second)
	repo.CommitPush("one after the other", sourcetest.Files{"web.yaml": webServer("web", taken), "api.yaml": webServer("api", first)})
	s.must("sync", "--timeout", patience)
	wantPage(t, first)
	wantPage(t, taken)
	if again := s.rows()["web"]; again.Pid != web.Pid {
		t.Errorf("the process was touched: %+v, was %+v", again, web)
	}
}

// TestSharedNetwork replaces a container whose network another shares: the other is started again, and reaches it.
func TestSharedNetwork(t *testing.T) {
	s := newServer(t)
	port := freePort(t)
	sidecar := strings.Replace(busybox("sidecar", forever), "network: none", "network: container:web", 1)
	repo := repository(t, sourcetest.Files{"page.yaml": page, "web.yaml": webServer("web", port), "sidecar.yaml": sidecar})
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	s.follow("logs", "-f", "web").await("serving")
	ask := []string{"exec", "sidecar", "--", "/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"}
	if out := s.must(ask...); out != "a page\n" {
		t.Errorf("through the shared network: %q", out)
	}
	before := s.rows()
	if before["sidecar"].IP != before["web"].IP || before["web"].IP == "" {
		t.Errorf("addresses %q and %q", before["sidecar"].IP, before["web"].IP)
	}

	repo.CommitPush("web is replaced", sourcetest.Files{"web.yaml": webServer("web", port, "env: {A: b}")})
	s.must("sync", "--timeout", patience)
	s.follow("logs", "-f", "web").await("serving")
	after := s.rows()
	if after["web"].ID == before["web"].ID || after["sidecar"].ID != before["sidecar"].ID || after["sidecar"].Pid == before["sidecar"].Pid {
		t.Errorf("web was %+v and is %+v; sidecar was %+v and is %+v", before["web"], after["web"], before["sidecar"], after["sidecar"])
	}
	if out := s.must(ask...); out != "a page\n" {
		t.Errorf("through the network of the new one: %q", out)
	}
	s.awaitEvent([]string{"sidecar"}, "shares the network of web, which was started again")
}

// TestNoRoomOnThisServer wants more than the server has, and what is reserved of it.
func TestNoRoomOnThisServer(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{
		"none.yaml":  busybox("none", forever),
		"large.yaml": busybox("large", forever, "resources: {requests: {cpu: 1000000}}"),
		"rest.yaml":  busybox("rest", forever, "resources: {requests: {memory: 16Mi}}"),
	})
	s.start("--repo", repo.Bare, "--reserve", "memory=1000Ti")
	if r := s.do("sync", "--timeout", patience); r.code != 1 {
		t.Errorf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
	for name, want := range map[string]string{"large": "wants cpu 1000000000m, more than this server can give", "rest": "reserved"} {
		row := s.rows()[name]
		if row.State != report.StatePending || row.Reason != plan.ReasonInsufficient || !strings.Contains(row.Message, want) {
			t.Errorf("%s: %+v", name, row)
		}
		if out := s.must("describe", name); !strings.Contains(out, row.Message) {
			t.Errorf("describe %s:\n%s", name, out)
		}
	}
	if row := s.rows()["none"]; row.State != report.StateRunning {
		t.Errorf("one that requests nothing: %+v", row)
	}
	if st := s.status(); st.Health != report.Degraded || !strings.Contains(st.Message, "wants") {
		t.Errorf("status: %+v", st)
	}
}
