package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// A registry that sends byte by byte is never silent, so minPace bytes have to come within stallTimeout, or else the
// connection is given up. It is little enough for a slow line that several downloads share; they go on where they were.
const (
	minPace      = 8 << 10
	stallTimeout = 30 * time.Second
)

// stalledError says that an answer came too slowly.
type stalledError struct{ after time.Duration }

// Error implements error.
func (e *stalledError) Error() string {
	return fmt.Sprintf("less than %d KiB in %s", minPace>>10, e.after)
}

// Timeout makes it a timeout as those of net are.
func (e *stalledError) Timeout() bool { return true }

// Temporary makes it an error that another try may not have, as those of net are.
func (e *stalledError) Temporary() bool { return true }

// pacedBody is an answer that has to come at minPace.
type pacedBody struct {
	io.ReadCloser
	ctx    context.Context //nolint:containedctx // the request's, which lasts as long as its answer is read
	cancel context.CancelCauseFunc
	limit  time.Duration
	timer  *time.Timer
	got    int // bytes since the timer was set
}

// pace sends a request and bounds how slowly its answer may come.
func pace(rt http.RoundTripper, r *http.Request, limit time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	resp, err := rt.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel(nil)
		return nil, err
	}
	timer := time.AfterFunc(limit, func() { cancel(&stalledError{limit}) })
	resp.Body = &pacedBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, limit: limit, timer: timer}
	return resp, nil
}

// Read implements io.Reader.
func (b *pacedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.got += n; b.got >= minPace {
		b.timer.Reset(b.limit)
		b.got = 0
	}
	if err == nil || err == io.EOF { //nolint:errorlint // as every reader gives it
		return n, err
	}
	if cause := context.Cause(b.ctx); cause != nil {
		err = cause
	}
	return n, err
}

// Close implements io.Closer.
func (b *pacedBody) Close() error {
	b.timer.Stop()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
