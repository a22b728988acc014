package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"unicode"

	"reconciler/manifest"
	"reconciler/runtime"
)

const (
	// maxBody is how much of a response is read; what is more is not waited for.
	maxBody = 10 << 10
	// maxRedirects is how many redirects are followed, as in Kubernetes.
	maxRedirects = 10
	// maxMessage is how many characters of what a container says are kept.
	maxMessage = 200
	userAgent  = "reconciler-probe"
)

// target is the container that is asked.
type target struct {
	id   runtime.ID
	host string // its address, as it is named in requests
}

func targetOf(s runtime.Status) target {
	host := s.IP
	if host == "" { // without an address of its own
		host = "127.0.0.1"
	}
	return target{id: s.ID, host: host}
}

// ask does a once, until ctx ends.
func ask(ctx context.Context, rt runtime.Runtime, to target, a action) answer {
	var err error
	switch {
	case a.get != nil:
		err = get(ctx, rt, to, a)
	case a.socket != nil:
		err = connect(ctx, rt, to, a)
	default:
		err = execute(ctx, rt, to, a)
	}
	switch {
	case err == nil:
		return answer{ok: true}
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return answer{message: "no answer in time"}
	default:
		return answer{message: oneLine(err.Error()), unknown: isUnknown(err, a)}
	}
}

// isUnknown reports whether err says nothing of the container: it has ended, or there was no way to ask. A command that
// cannot be run is a failure: it will never be one that can.
func isUnknown(err error, a action) bool {
	if errors.Is(err, runtime.ErrNotRunning) || errors.Is(err, runtime.ErrNotFound) || errors.Is(err, context.Canceled) {
		return true
	}
	_, answered := errors.AsType[*codeError](err)
	return a.command != nil && !answered && !runtime.IsPermanent(err)
}

// codeError is how a command ended that did not succeed.
type codeError struct {
	code   int
	output []byte
}

// Error says the code, and the last of what it wrote.
func (e *codeError) Error() string {
	text := fmt.Sprintf("exit code %d", e.code)
	if said := strings.TrimSpace(strings.ToValidUTF8(string(e.output), "�")); said != "" {
		r := []rune(said)
		text += ": " + string(r[max(0, len(r)-maxMessage):])
	}
	return text
}

func execute(ctx context.Context, rt runtime.Runtime, to target, a action) error {
	result, err := rt.Exec(ctx, to.id, a.command)
	if err != nil {
		return err
	}
	if result.Code != 0 {
		return &codeError{code: result.Code, output: result.Output}
	}
	return nil
}

func connect(ctx context.Context, rt runtime.Runtime, to target, a action) error {
	conn, err := dial(ctx, rt, to, net.JoinHostPort(a.socket.Host, strconv.Itoa(int(a.port))))
	if err != nil {
		return fmt.Errorf("connect to port %d: %w", a.port, why(err))
	}
	return conn.Close()
}

// dial connects to address from inside the container's network. A host that is a name is one that this server knows, as in
// Kubernetes.
func dial(ctx context.Context, rt runtime.Runtime, to target, address string) (net.Conn, error) {
	if host, port, err := net.SplitHostPort(address); err == nil && host == to.host {
		address = net.JoinHostPort("", port)
	}
	return rt.Dial(ctx, to.id, "tcp", address)
}

func get(ctx context.Context, rt runtime.Runtime, to target, a action) error {
	req, err := request(ctx, to, a)
	if err != nil {
		return err
	}
	what := "GET " + req.URL.String()
	client := &http.Client{
		CheckRedirect: sameHost,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, rt, to, address) },
			// A probe asks whether somebody answers, not who.
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", what, why(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: status %d", what, resp.StatusCode)
	}
	return nil
}

func request(ctx context.Context, to target, a action) (*http.Request, error) {
	host := a.get.Host
	if host == "" {
		host = to.host
	}
	u, err := url.Parse(a.get.Path)
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(host, strconv.Itoa(int(a.port)))
	if a.get.Scheme == manifest.SchemeHTTPS {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", "*/*")
	seen := map[string]bool{}
	for _, h := range a.get.HTTPHeaders {
		name := http.CanonicalHeaderKey(h.Name)
		switch {
		case name == "Host":
			req.Host = h.Value
		case seen[name]:
			req.Header.Add(name, h.Value)
		default:
			req.Header.Set(name, h.Value)
		}
		seen[name] = true
	}
	return req, nil
}

// sameHost follows redirects within a host. One that leads elsewhere is an answer: the container gave it.
func sameHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	return nil
}

// why is the innermost reason that is worth reading: what was asked stands before it already.
func why(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if e, ok := errors.AsType[*runtime.Error](err); ok {
		if errors.Is(e, runtime.ErrNotRunning) || errors.Is(e, runtime.ErrNotFound) {
			return e
		}
		err = e.Err
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		return e.Err
	}
	return err
}

// oneLine makes what a container said fit for a terminal or a log.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 2*maxMessage {
		s = string(r[:2*maxMessage]) + "…"
	}
	return s
}
