package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// The protocol: one call a connection. The client sends one frame with a request, the supervisor answers with one or,
// for Watch, Hold and Exec, several frames. A frame is its length in 4 bytes, big endian, and that much JSON; file
// descriptors travel with the length (SCM_RIGHTS). Closing the connection ends a call.
//
// Fields may be added: who does not know them ignores them. What changes otherwise takes another protocolVersion, with
// which nothing is answered but version and upgrade. Those two stay as they are for ever.
const (
	protocolVersion = 2
	maxFrame        = 64 << 20
	maxFDs          = 3
	dialTimeout     = 10 * time.Second
)

// Names of calls.
const (
	opStart    = "start"
	opStop     = "stop"
	opSignal   = "signal"
	opDelete   = "delete"
	opUpdate   = "update"
	opList     = "list"
	opExec     = "exec"
	opWatch    = "watch"
	opShutdown = "shutdown"
	opVersion  = "version"
	opExpect   = "expect"  // a start is coming
	opHold     = "hold"    // be lent what every run has: its pipes and pidfd
	opGive     = "give"    // asked of who holds, by a supervisor that starts
	opUpgrade  = "upgrade" // execute another release in the same process
)

// request is what a client sends.
type request struct {
	Protocol int             `json:"protocol"`
	Op       string          `json:"op"`
	Body     json.RawMessage `json:"body,omitempty"`
}

// response is what comes back.
// response has as its Body what is sent, or where to put what comes: it is not parsed twice.
type response struct {
	Error *wireError `json:"error,omitempty"`
	Body  any        `json:"body,omitempty"`
}

// Bodies of requests that have no exported type.
type (
	stopBody struct {
		ID     runtime.ID    `json:"id"`
		Signal string        `json:"signal,omitempty"`
		Grace  time.Duration `json:"grace"`
	}
	signalBody struct {
		ID     runtime.ID `json:"id"`
		Signal string     `json:"signal"`
	}
	deleteBody struct {
		ID   runtime.ID `json:"id"`
		Seen time.Time  `json:"seen,omitzero"` // what was started after that stays
	}
	listBody struct {
		ID runtime.ID `json:"id,omitempty"` // of it alone
	}
	updateBody struct {
		ID     runtime.ID        `json:"id"`
		Limits runtime.Resources `json:"limits"`
		Logs   runtime.Logs      `json:"logs"`
	}
	shutdownBody struct {
		Kill bool `json:"kill"`
	}
	execEvent struct {
		Pid      int  `json:"pid,omitempty"`
		ExitCode *int `json:"exitCode,omitempty"`
	}
)

// wireError is a *runtime.Error on its way.
type wireError struct {
	Op        string     `json:"op"`
	ID        runtime.ID `json:"id,omitempty"`
	Message   string     `json:"message"`
	Kind      string     `json:"kind,omitempty"` // which sentinel it wraps
	Reason    string     `json:"reason,omitempty"`
	Permanent bool       `json:"permanent,omitempty"`
	Hint      string     `json:"hint,omitempty"`
}

// sentinels are the errors that keep their identity across the socket.
func sentinels() map[string]error {
	return map[string]error{
		"notFound": runtime.ErrNotFound,
		"exited":   ErrExited,
		"started":  ErrStarted,
	}
}

// remoteError has the text of an error from the other side and the identity of its sentinel.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func toWire(err error) *wireError {
	w := &wireError{Message: err.Error()}
	if re, ok := errors.AsType[*runtime.Error](err); ok {
		w.Op, w.ID, w.Reason, w.Permanent, w.Hint = re.Op, re.ID, re.Reason, re.Permanent, re.Hint
		if re.Err != nil {
			w.Message = re.Err.Error()
		}
	}
	for kind, s := range sentinels() {
		if errors.Is(err, s) {
			w.Kind = kind
		}
	}
	return w
}

func (w *wireError) toError() error {
	return &runtime.Error{
		Op: w.Op, ID: w.ID, Err: &remoteError{text: w.Message, is: sentinels()[w.Kind]},
		Reason: w.Reason, Permanent: w.Permanent, Hint: w.Hint,
	}
}

// writeFrame sends v and files as one frame.
func writeFrame(conn *net.UnixConn, v any, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	return writeFDs(conn, v, fds...)
}

// writeFDs is writeFrame for bare file descriptors.
func writeFDs(conn *net.UnixConn, v any, fds ...int) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(body) > maxFrame {
		return fmt.Errorf("message of %d bytes is too long", len(body))
	}
	msg := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(msg, oob, nil)
	if err != nil {
		return err
	}
	if n < len(msg) { // a long frame goes in several writes; the file descriptors went with the first
		_, err = conn.Write(msg[n:])
	}
	return err
}

// readFrame receives one frame into v and returns the files that came with it, which the caller closes.
func readFrame(conn *net.UnixConn, limit int, v any) ([]*os.File, error) {
	fds, err := readFDs(conn, limit, v)
	return openFDs(fds...), err
}

// readFDs is readFrame for who wants no poller to look at what comes. After an error there is nothing to close.
func readFDs(conn *net.UnixConn, limit int, v any) (fds []int, err error) {
	defer func() {
		if err != nil {
			closeFDs(fds...)
			fds = nil
		}
	}()
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn, _, _, err := conn.ReadMsgUnix(head[:], oob)
	if err != nil {
		return nil, err
	}
	if fds, err = parseFDs(oob[:oobn]); err != nil {
		return fds, err
	}
	if n == 0 {
		return fds, io.EOF
	}
	if _, err = io.ReadFull(conn, head[n:]); err != nil {
		return fds, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if int64(size) > int64(limit) {
		return fds, fmt.Errorf("message of %d bytes is too long", size)
	}
	body := make([]byte, size)
	if _, err = io.ReadFull(conn, body); err != nil {
		return fds, err
	}
	return fds, json.Unmarshal(body, v)
}

func parseFDs(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("read file descriptors: %w", err)
	}
	for _, m := range msgs {
		got, err := syscall.ParseUnixRights(&m)
		if err != nil {
			continue // another kind of message
		}
		for _, fd := range got {
			unix.CloseOnExec(fd)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// openFDs makes files of bare file descriptors.
func openFDs(fds ...int) []*os.File {
	var files []*os.File
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "received"))
	}
	return files
}

func closeFDs(fds ...int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// dupFD returns another descriptor of what c is, which leaves c as it is: a file's Fd method would make it block.
func dupFD(c syscall.Conn) (int, error) {
	conn, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup := -1
	var derr error
	if err := conn.Control(func(fd uintptr) { dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return -1, err
	}
	return dup, derr
}
