package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
)

// ErrNoAgent means that no agent answers on the socket.
var ErrNoAgent = errors.New("no agent is running")

// Client asks the agent of one run directory. Its methods may be called concurrently. They fail with ErrNoAgent where
// no agent runs, and with *Error where the agent says no.
type Client struct {
	http   *http.Client
	socket string
}

// NewClient returns a client for the agent's socket in runDir. It does not connect.
func NewClient(runDir string) *Client {
	path := SocketPath(runDir)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, socket: path}
}

// Running reports whether an agent answers.
func (c *Client) Running(ctx context.Context) bool {
	return c.call(ctx, http.MethodGet, "/healthz", nil, nil) == nil
}

// Status returns how the node is as a whole.
func (c *Client) Status(ctx context.Context) (report.Status, error) {
	return get[report.Status](ctx, c, "/v1/status")
}

// Ps returns the rows of ps, of every namespace.
func (c *Client) Ps(ctx context.Context, all bool) ([]report.Row, error) {
	path := "/v1/ps"
	if all {
		path += "?all"
	}
	return get[[]report.Row](ctx, c, path)
}

// Describe returns all that is known of a container.
func (c *Client) Describe(ctx context.Context, name manifest.Name) (report.Description, error) {
	return get[report.Description](ctx, c, "/v1/describe?name="+url.QueryEscape(name.String()))
}

// Plan returns what there is to do.
func (c *Client) Plan(ctx context.Context) (report.Plan, error) {
	return get[report.Plan](ctx, c, "/v1/plan")
}

// History returns the commits that the node dealt with, newest first; of one name, if it is not nil.
func (c *Client) History(ctx context.Context, name *manifest.Name) ([]journal.Entry, error) {
	path := "/v1/history"
	if name != nil {
		path += "?name=" + url.QueryEscape(name.String())
	}
	return get[[]journal.Entry](ctx, c, path)
}

// Events calls fn with what happened, oldest first, and with follow with what happens until ctx ends or fn fails.
func (c *Client) Events(ctx context.Context, name *manifest.Name, follow bool, fn func(report.Event) error) error {
	query := url.Values{}
	if name != nil {
		query.Set("name", name.String())
	}
	if follow {
		query.Set("follow", "")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/events?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	for dec := json.NewDecoder(resp.Body); ; {
		var e report.Event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if ctx.Err() != nil {
			return nil // the caller has seen enough
		} else if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// Sync looks at the source now and waits until the node has converged, cannot, or timeout (0: none) is over.
func (c *Client) Sync(ctx context.Context, timeout time.Duration) (reconcile.SyncResult, error) {
	var r reconcile.SyncResult
	err := c.call(ctx, http.MethodPost, "/v1/sync", SyncRequest{TimeoutSeconds: timeout.Seconds()}, &r)
	return r, err
}

// Approve lets a commit through the guards on this node and returns its whole hash.
func (c *Client) Approve(ctx context.Context, commit string) (string, error) {
	var r ApproveRequest
	err := c.call(ctx, http.MethodPost, "/v1/approve", ApproveRequest{Commit: commit}, &r)
	return r.Commit, err
}

// Retry ends the backoff of name.
func (c *Client) Retry(ctx context.Context, name manifest.Name) error {
	return c.call(ctx, http.MethodPost, "/v1/retry", NameRequest{Name: name.String()}, nil)
}

// Restart restarts name's container once.
func (c *Client) Restart(ctx context.Context, name manifest.Name) error {
	return c.call(ctx, http.MethodPost, "/v1/restart", NameRequest{Name: name.String()}, nil)
}

// Suspend keeps the node at the commit in force.
func (c *Client) Suspend(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/suspend", nil, nil)
}

// Resume ends Suspend.
func (c *Client) Resume(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/resume", nil, nil)
}

// Down suspends the agent and has it start nothing until Resume, also not what crashed or is gone. It returns when no
// step is in flight any more.
func (c *Client) Down(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/down", nil, nil)
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	err := c.call(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

// call sends body as JSON and reads the answer into out, if that is not nil.
func (c *Client) call(ctx context.Context, method, path string, body, out any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the agent's answer to %s: %w", path, err)
	}
	return nil
}

func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, payload)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w (nobody answers on %s)", ErrNoAgent, c.socket)
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return nil, fmt.Errorf("%w (the connection to %s ended)", reconcile.ErrNotRunning, c.socket)
	case err != nil:
		return nil, fmt.Errorf("ask the agent: %w", err)
	case resp.StatusCode >= http.StatusBadRequest:
		defer func() { _ = resp.Body.Close() }()
		return nil, readError(resp)
	}
	return resp, nil
}

func readError(resp *http.Response) error {
	content, _ := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	var body errorBody
	if json.Unmarshal(content, &body) != nil || body.Error == nil {
		body.Error = &Error{Message: "the agent answered " + resp.Status, Reason: ReasonInternal}
	}
	body.Error.Status = resp.StatusCode
	return body.Error
}
