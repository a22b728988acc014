package supervisor

import (
	"errors"
	"log/slog"
	"os"
	"strconv"
	"time"

	"reconciler/runtime"
)

// ErrNotRunning is wrapped by the error of Dial where no supervisor listens.
var ErrNotRunning = errors.New("the supervisor is not running")

// ErrAlreadyRunning is wrapped by the error of Run where another supervisor holds the run directory.
var ErrAlreadyRunning = errors.New("another supervisor uses this run directory")

// ErrExited is wrapped by the error of a call that needs a running container where it is not.
var ErrExited = errors.New("the container is not running")

// ErrStarted is wrapped by the error of DeleteSeen where the container was started since it was seen.
var ErrStarted = errors.New("the container was started meanwhile")

// Config says where a supervisor keeps its things.
type Config struct {
	StateDir string // survives a reboot; its own log is below
	RunDir   string // does not; socket, lock, FIFOs and libcontainer's state are below
	Instance string // names its cgroup, /reconciler/<instance>/supervisor
	Release  string // which release this binary is; empty: what it was built from
	Logger   *slog.Logger

	// Begin, if not nil, is called once when Run begins, with the files that Files returned in the release that ran in this
	// process before; nil where there was none. Files returns what the next one is to have; they are closed.
	Begin func([]*os.File)
	Files func() []*os.File
}

// StartRequest asks for a container to be started.
type StartRequest struct {
	ID runtime.ID `json:"id"`
	// Bundle is a directory with config.json, the OCI spec as it is to be run. Its root file system is mounted already.
	Bundle string `json:"bundle"`
	// LogDir is where output and exit.json are kept. It exists already and outlives the container's runs.
	LogDir string       `json:"logDir"`
	Logs   runtime.Logs `json:"logs"`
	// StopSignal is what Stop sends where it is not told another; empty means SIGTERM.
	StopSignal string `json:"stopSignal,omitempty"`
}

// Started is a container's process 1 as it was started.
type Started struct {
	Pid       int       `json:"pid"`       // as the host sees it
	StartTime uint64    `json:"startTime"` // in clock ticks since boot, field 22 of /proc/PID/stat; with Pid it is unique
	At        time.Time `json:"at"`
	Warnings  []string  `json:"warnings,omitempty"`
}

// Exit is how a run of a container ended, as kept in exit.json.
type Exit struct {
	Version int `json:"version"`
	// Code is the exit status, 128 + signal for a signal. Nil where it could not be known, never invented.
	Code       *int          `json:"code"`
	Signal     string        `json:"signal,omitempty"` // such as SIGKILL, where a signal ended it
	OOMKilled  bool          `json:"oomKilled"`
	StartedAt  time.Time     `json:"startedAt"`
	FinishedAt time.Time     `json:"finishedAt"`
	Ran        time.Duration `json:"ran"`               // by CLOCK_BOOTTIME, which no time step moves
	Stopped    bool          `json:"stopped,omitempty"` // it was asked for with Stop
	// Reason is runtime.ReasonSupervisorLost for an exit that nobody saw, else empty.
	Reason string `json:"reason,omitempty"`
}

// codeText is the exit code for a log.
func (e Exit) codeText() string {
	if e.Code == nil {
		return "unknown"
	}
	return strconv.Itoa(*e.Code)
}

// State is one container that the supervisor knows: started and not deleted.
type State struct {
	ID         runtime.ID    `json:"id"`
	Pid        int           `json:"pid"` // 0 while not running
	StartTime  uint64        `json:"startTime"`
	Running    bool          `json:"running"`
	StartedAt  time.Time     `json:"startedAt"`
	FinishedAt time.Time     `json:"finishedAt,omitzero"`
	Ran        time.Duration `json:"ran"` // of the present or last run, by CLOCK_BOOTTIME
	ExitCode   *int          `json:"exitCode"`
	Signal     string        `json:"signal,omitempty"`
	OOMKilled  bool          `json:"oomKilled"`
	Stopped    bool          `json:"stopped,omitempty"`
	Reason     string        `json:"reason,omitempty"`   // as Exit.Reason
	Warnings   []string      `json:"warnings,omitempty"` // what the host could not do and it runs without
}

// ExecRequest asks for a command to be run in a running container.
type ExecRequest struct {
	ID   runtime.ID `json:"id"`
	Args []string   `json:"args"`
	// Env is added to the container's own environment, NAME=value.
	Env []string `json:"env,omitempty"`
	Cwd string   `json:"cwd,omitempty"` // empty: the container's
	// User is "uid" or "uid:gid", numeric; empty means the container's.
	User string `json:"user,omitempty"`
	// TTY gives the command a terminal; its size is Width and Height in characters where they are not 0.
	TTY    bool   `json:"tty,omitempty"`
	Width  uint16 `json:"width,omitempty"`
	Height uint16 `json:"height,omitempty"`
	// Resize tells new sizes of the terminal; nil where it never changes.
	Resize <-chan Size `json:"-"`
}

// Size is that of a terminal, in characters.
type Size struct {
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// Version is what a running supervisor is.
type Version struct {
	Protocol  int       `json:"protocol"`
	Binary    string    `json:"binary"` // which release it is
	Pid       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
}

// Stream is which of its two outputs a container wrote to.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// LogOptions says which of the kept output to read. The zero value is all of it.
type LogOptions struct {
	Previous bool      // only the run before the last
	Current  bool      // only the last run
	Tail     int       // only the last so many lines; 0 means all, less than 0 none
	Since    time.Time // nothing older
	Stream   Stream    // only this one; empty means both
	Follow   bool      // go on as output is written, until the context ends
}

// LogEntry is one line of output.
type LogEntry struct {
	Time   time.Time `json:"time"` // when its first byte was taken from the container
	Stream Stream    `json:"stream"`
	Line   []byte    `json:"line"`  // without its newline; valid until the next entry is asked for
	Start  int       `json:"start"` // 1 for the container's first run
	// Partial means that the line goes on in the next entry of this stream and start: it was too long for one.
	Partial bool `json:"partial,omitempty"`
	// Lost is how many bytes could not be kept here, because the disk was full for instance. Line is empty then.
	Lost int64 `json:"lost,omitempty"`
}
