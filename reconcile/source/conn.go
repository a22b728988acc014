package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	transferLimit   = time.Hour // for one clone or fetch
	maxRefsAnswer   = 64 << 20  // bytes of a list of branches
	maxErrorAnswer  = 64 << 10  // bytes of an error page
	maxPackAnswer   = 8 << 30   // bytes of one transfer
	keepAliveAnswer = 16 << 10  // bytes of an answer's rest read to keep its connection
)

// patientConn gives up when the other side is silent for too long, whatever is spoken on top of it, and tells why: on top
// of it that looks like an end.
type patientConn struct {
	net.Conn

	patience time.Duration
	giveUp   context.CancelCauseFunc
}

func (c *patientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	return n, c.judge(err)
}

func (c *patientConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	return n, c.judge(err)
}

func (c *patientConn) judge(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.giveUp(err)
	}
	return err
}

// cappedBody ends with ErrTooLarge after limit bytes, gives up when the server is silent for too long, and reads a small
// rest before it closes, so that the connection can be used again. The silence of a connection that waits for the next
// poll is no fault, so it is not a patientConn.
type cappedBody struct {
	io.ReadCloser

	left     int64
	patience time.Duration
	cancel   context.CancelFunc // of the request
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the server's answer: %w", ErrTooLarge)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	silent := time.AfterFunc(b.patience, b.cancel)
	n, err := b.ReadCloser.Read(p)
	if !silent.Stop() && err != nil {
		err = os.ErrDeadlineExceeded
	}
	b.left -= int64(n)
	return n, err
}

func (b *cappedBody) Close() error {
	defer b.cancel()
	_, err := io.CopyN(io.Discard, b, keepAliveAnswer)
	closeErr := b.ReadCloser.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil // what was wanted had been read
	}
	return closeErr
}
