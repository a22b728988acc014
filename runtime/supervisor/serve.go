package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"reconciler/runtime"
)

// whileCalled returns a context that ends when the caller on conn is gone. Nobody sends a second frame meanwhile: reading
// tells. Closing conn ends this.
func whileCalled(ctx context.Context, conn *net.UnixConn) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	}()
	return ctx, cancel
}

// serve answers one call. release says that what is left of it is waiting only, or that nothing is lost with it.
func (s *server) serve(ctx context.Context, conn *net.UnixConn, release func()) {
	defer func() { _ = conn.Close() }()
	if cred, err := peerCred(conn); err != nil || cred.Uid != 0 {
		s.log.Warn("refused a connection of another user")
		return
	}
	_ = conn.SetReadDeadline(time.Now().Add(dialTimeout))
	var req request
	files, err := readFrame(conn, maxRequest, &req)
	defer func() { closeFiles(files...) }()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			s.reply(conn, nil, fmt.Errorf("bad request: %w", err))
		}
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if req.Op != opStart { // whose caller may send a second frame
		var cancel context.CancelFunc
		ctx, cancel = whileCalled(ctx, conn)
		defer cancel()
	}
	if req.Protocol != protocolVersion && req.Op != opVersion && req.Op != opUpgrade {
		s.reply(conn, nil, &runtime.Error{
			Op: req.Op, Permanent: true,
			Err: fmt.Errorf("the caller speaks version %d of the protocol, this supervisor %d", req.Protocol, protocolVersion),
		})
		return
	}
	switch req.Op {
	case opWatch:
		release()
		s.watch(ctx, conn)
	case opHold:
		release()
		s.hold(ctx, conn)
	case opUpgrade:
		release()
		s.reply(conn, nil, s.upgrade(ctx, conn, req.Body, files))
	case opStop:
		s.stop(ctx, conn, req.Body, release)
	case opExec:
		s.exec(ctx, conn, req.Body, files, release)
	default:
		out, err := s.answer(ctx, conn, req)
		s.reply(conn, out, err)
		if req.Op == opShutdown && err == nil {
			s.end()
		}
	}
}

func (s *server) reply(conn *net.UnixConn, body any, err error, files ...*os.File) {
	resp := response{Body: body}
	if err != nil {
		resp = response{Error: toWire(err)}
	}
	_ = conn.SetWriteDeadline(time.Now().Add(dialTimeout)) // a caller that does not read shall not hold us
	if err := writeFrame(conn, resp, files...); err != nil {
		s.log.Debug("a caller is gone", "err", err)
	}
}

// answer does what a request asks for and returns the body of the response.
func (s *server) answer(ctx context.Context, conn *net.UnixConn, req request) (any, error) {
	switch req.Op {
	case opStart:
		return handle(req.Body, func(b startBody) (Started, error) { return s.serveStart(ctx, conn, b) })
	case opSignal:
		return handle(req.Body, func(b signalBody) (any, error) {
			c, err := s.get("signal container", b.ID)
			if err != nil {
				return nil, err
			}
			return nil, opError("signal container", b.ID, c.signal(b.Signal))
		})
	case opDelete:
		return handle(req.Body, func(b deleteBody) (any, error) { return nil, s.delete(ctx, b) })
	case opUpdate:
		return handle(req.Body, func(b updateBody) (any, error) {
			c, err := s.get("update container", b.ID)
			if err != nil {
				return nil, err
			}
			return nil, opError("update container", b.ID, c.update(b.Limits, b.Logs))
		})
	case opList:
		return handle(req.Body, func(b listBody) (any, error) { return s.list(b), nil })
	case opShutdown:
		return handle(req.Body, func(b shutdownBody) (any, error) { return nil, s.shutdown(ctx, b.Kill) })
	case opVersion:
		return s.version(), nil
	case opExpect:
		return nil, s.expect()
	}
	return nil, &runtime.Error{Op: req.Op, Err: errors.New("this supervisor does not know that call"), Permanent: true}
}

// handle decodes a body for f.
func handle[In, Out any](raw json.RawMessage, f func(In) (Out, error)) (any, error) {
	var in In
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, fmt.Errorf("bad request: %w", err)
	}
	return f(in)
}
