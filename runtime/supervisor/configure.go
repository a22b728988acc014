package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// configurePatience bounds how long a process 1 waits for its caller to configure its network: a caller that hangs
// shall not hold the container for ever.
const configurePatience = time.Minute

// startBody asks for a start. With Configure the first answer brings the container's network namespace, and the command
// is executed only after a configured that says so.
type startBody struct {
	StartRequest
	Configure bool `json:"configure,omitempty"`
}

// configured is the caller's second frame: go on, or undo the start because of Error.
type configured struct {
	Error string `json:"error,omitempty"`
}

// Start runs what the bundle says. For a container that runs already it returns how it was started. After an error
// nothing of the container is left but its output.
//
// If configure is not nil, it is called before process 1 executes the command, with the container's own network namespace,
// which is closed when it returns: while its root file system is made, or after that where process 1 sets kernel
// parameters of interfaces. If it fails, takes longer than a minute or the caller dies in it, the start is undone. Without it, or after it, the start goes on although the caller dies.
func (c *Client) Start(ctx context.Context, req StartRequest, configure func(netns *os.File) error) (Started, error) {
	var s Started
	conn, done, err := c.send(ctx, opStart, startBody{StartRequest: req, Configure: configure != nil})
	if err != nil {
		return s, err
	}
	defer done()
	files, err := receive(ctx, conn, opStart, &s)
	defer func() { closeFiles(files...) }()
	if err != nil || len(files) == 0 || configure == nil {
		return s, err
	}
	var answer configured
	cerr := configure(files[0])
	if cerr != nil {
		answer.Error = cerr.Error()
	}
	_ = writeFrame(conn, answer) // where that fails, the answer, or that there is none, says why
	_, err = receive(ctx, conn, opStart, &s)
	if cerr != nil && ctx.Err() == nil {
		err = opError("start container", req.ID, cerr) // with all that it carries, which its text alone does not
	}
	return s, err
}

// serveStart answers a start, whose caller may have a say in the middle of it.
func (s *server) serveStart(ctx context.Context, conn *net.UnixConn, b startBody) (Started, error) {
	if !b.Configure {
		return s.start(ctx, b.StartRequest, nil)
	}
	return s.start(ctx, b.StartRequest, func(ctx context.Context, netns *os.File) error {
		s.reply(conn, nil, nil, netns)
		return awaitConfigured(ctx, conn, configurePatience)
	})
}

// awaitConfigured waits until the caller has configured the network, is gone or has taken too long.
func awaitConfigured(ctx context.Context, conn *net.UnixConn, patience time.Duration) error {
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var said configured
	files, err := readFrame(conn, maxRequest, &said)
	closeFiles(files...)
	switch {
	case ctx.Err() != nil:
		return errors.New("the supervisor ends")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("its network was not configured within %v", patience)
	case err != nil:
		return fmt.Errorf("who configures its network is gone: %w", err)
	case said.Error != "":
		return errors.New(said.Error)
	}
	return nil
}

// checkOwnNetwork refuses to hand out a network namespace that is not the container's alone.
func checkOwnNetwork(spec *specs.Spec) error {
	own := specs.LinuxNamespace{Type: specs.NetworkNamespace}
	if !slices.Contains(spec.Linux.Namespaces, own) {
		return errors.New("its network cannot be configured: it has no network namespace of its own")
	}
	return nil
}
