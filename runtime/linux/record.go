package linux

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// The files of containers/<id>/ that are ours; the supervisor keeps the output and exit.json beside them.
const (
	specFile     = "spec.json"    // the record: without it there is no container
	runFile      = "run.json"     // what is known of its starts
	configFile   = "config.json"  // the OCI spec of the last start, with placeholders for secrets
	removingFile = "removing"     // Remove has begun
	turnFile     = "serving.json" // whose turn it is to answer for the name
)

// record is spec.json: what a container was made from.
type record struct {
	Version     int          `json:"version"`
	ID          runtime.ID   `json:"id"`
	CreatedAt   time.Time    `json:"createdAt"`
	Spec        runtime.Spec `json:"spec"`
	ImageDigest string       `json:"imageDigest"`
	// InitDigests are of the images of init containers that have one of their own, by the name of the init container.
	InitDigests map[string]string `json:"initDigests,omitempty"`
	// StopSignal is the image's.
	StopSignal string   `json:"stopSignal,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
}

// run is run.json. It is written before a start and after it, so that a start which was cut short can be told.
type run struct {
	Version int `json:"version"`
	Starts  int `json:"starts"`
	// Starting is true from before the start until it worked or failed.
	Starting bool `json:"starting,omitempty"`
	// Init is the init container that runs, or is about to: the container itself does not yet.
	Init      string    `json:"init,omitempty"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	// Pid and StartTime are those of process 1 in the boot named Boot.
	Pid       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"startTime,omitempty"`
	Boot      string `json:"boot,omitempty"`
	// FirstID is the first of the container's own user ids, 0 where it has the server's.
	FirstID uint32 `json:"firstID,omitempty"`
	// The addresses on the bridge, its own or those of the container whose network it shares.
	IP   netip.Addr `json:"ip,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	MAC  string     `json:"mac,omitempty"`
	// Shares is whose network and users it has, if not its own.
	Shares *runtime.StartOf `json:"shares,omitempty"`
	// Warnings are what the last start found that this server cannot do.
	Warnings []string `json:"warnings,omitempty"`
	// Error is why the last start failed.
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
}

// turn is serving.json: which container of a name serves, the one with the highest number, of several the newest. Without
// the file, as earlier releases left it, the number is 0; who does not serve has one below. So one file that is replaced
// is the whole switch, whatever becomes of the others'.
type turn struct {
	Version int   `json:"version"`
	Turn    int64 `json:"turn"`
}

// aside is the turn of a container that does not serve.
const aside = -1

const recordVersion = 1

// entry is what is on disk of one container.
type entry struct {
	record
	last     run
	turn     int64
	removing bool
}

// tried says whether anybody has ever asked the supervisor to start it: that is noted before.
func (e *entry) tried() bool { return e.last.Version != 0 }

// stateDir reads and writes the records. Reading takes no lock and is safe beside a writer in another process: every
// file is replaced whole.
type stateDir struct {
	path  string
	cache *recordCache
}

func (s stateDir) containers() string { return filepath.Join(s.path, "containers") }

func (s stateDir) dir(id runtime.ID) string { return filepath.Join(s.containers(), string(id)) }

// ids returns every container's, also of those that are only half there.
func (s stateDir) ids() ([]runtime.ID, error) {
	entries, err := os.ReadDir(s.containers())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []runtime.ID
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, runtime.ID(e.Name()))
		}
	}
	return ids, nil
}

// read returns one container. The error wraps runtime.ErrNotFound where there is none.
func (s stateDir) read(id runtime.ID) (entry, error) {
	e, err := s.look(id)
	if err != nil {
		return entry{}, err
	}
	return *e, nil
}

// look is read for who changes nothing of what it gets, which others get too.
func (s stateDir) look(id runtime.ID) (*entry, error) {
	if id == "" || filepath.Base(string(id)) != string(id) || id[0] == '.' {
		return nil, runtime.ErrNotFound
	}
	at, err := stampOf(s.dir(id)) // before anything in it is looked at
	if err != nil {
		return nil, err
	}
	if e := s.cache.entry(id, at); e != nil {
		return e, nil
	}
	e, err := s.readFiles(id)
	if err != nil {
		return nil, err
	}
	s.cache.keep(id, at, &e)
	return &e, nil
}

func (s stateDir) readFiles(id runtime.ID) (entry, error) {
	var e entry
	rec, err := readCached(&s.cache.records, filepath.Join(s.dir(id), specFile), func(r record) int { return r.Version })
	if bad, ok := errors.AsType[*damagedError](err); ok {
		rec, err = s.named(id, bad)
	}
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return entry{}, runtime.ErrNotFound
		}
		return entry{}, err
	}
	e.record = rec
	e.last, err = readCached(&s.cache.runs, filepath.Join(s.dir(id), runFile), func(r run) int { return r.Version })
	if bad, ok := errors.AsType[*damagedError](err); ok {
		// It was started, more is not known: the supervisor knows whether it runs.
		e.last, err = run{Version: recordVersion, Starts: 1, Warnings: []string{bad.Error()}}, nil
		if c := s.config(id); c.Linux != nil && len(c.Linux.UIDMappings) > 0 {
			e.last.FirstID = c.Linux.UIDMappings[0].HostID
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return entry{}, err
	}
	t, err := readCached(&s.cache.turns, filepath.Join(s.dir(id), turnFile), func(t turn) int { return t.Version })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return entry{}, err
	}
	e.turn = t.Turn
	_, err = os.Lstat(filepath.Join(s.dir(id), removingFile))
	e.removing = err == nil
	return e, nil
}

// damagedError says that a file of ours holds what nobody wrote: a power cut or a bad disk left it so.
type damagedError struct {
	path string
	err  error
}

// Error implements error.
func (e *damagedError) Error() string { return e.path + " is damaged: " + e.err.Error() }

// Unwrap returns what is wrong with it.
func (e *damagedError) Unwrap() error { return e.err }

// damagedOrigin is what a container was made from whose record is damaged: nothing that anybody wants, so that it is
// replaced and not taken for somebody else's.
const damagedOrigin = `"damaged"`

// damaged says what is unknown of a container whose record is damaged; nil: nothing.
func (e *entry) damaged() error {
	if string(e.Spec.Origin) != damagedOrigin {
		return nil
	}
	return errors.New(strings.Join(e.Warnings, "; "))
}

// named makes the record of a container whose spec.json is damaged from the name in its config.json.
func (s stateDir) named(id runtime.ID, bad *damagedError) (record, error) {
	namespace, name, ok := strings.Cut(s.config(id).Annotations[nameAnnotation], "/")
	if !ok {
		return record{}, bad
	}
	rec := record{Version: recordVersion, ID: id, Warnings: []string{bad.Error()}}
	rec.Spec.Name = runtime.Name{Namespace: namespace, Name: name}
	rec.Spec.Origin, rec.Spec.Network, rec.Spec.StopGrace = []byte(damagedOrigin), runtime.NetworkBridge, 30*time.Second
	if info, err := os.Stat(s.dir(id)); err == nil {
		rec.CreatedAt = info.ModTime()
	}
	return rec, nil
}

// config reads the OCI spec of the last start, which tells something where another file is damaged; empty where it is not
// there or damaged itself.
func (s stateDir) config(id runtime.ID) specs.Spec {
	var spec specs.Spec
	data, err := os.ReadFile(filepath.Join(s.dir(id), configFile))
	if err != nil || json.Unmarshal(data, &spec) != nil {
		return specs.Spec{}
	}
	return spec
}

// lock keeps the sweep of another process (LOCK_EX) from a container that is half made (LOCK_SH).
func (s stateDir) lock(how int) (unlock func(), err error) {
	f, err := os.Open(s.containers())
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: f.Name(), Err: err}, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// create makes the directory of a container with its record in it, whole or not at all.
func (s stateDir) create(rec record, number int64) error {
	if err := os.MkdirAll(s.containers(), 0o700); err != nil {
		return err
	}
	unlock, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	failpoint.Here("record: none")
	tmp, err := os.MkdirTemp(s.containers(), ".new-")
	if err != nil {
		return err
	}
	failpoint.Here("record: an empty directory")
	err = writeJSON(filepath.Join(tmp, specFile), rec)
	if err == nil && number != 0 {
		err = writeTurn(tmp, number)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	failpoint.Here("record: whole beside")
	if err := os.Rename(tmp, s.dir(rec.ID)); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	failpoint.Here("record: in place")
	return nil
}

func (s stateDir) writeRecord(rec record) error {
	return writeJSON(filepath.Join(s.dir(rec.ID), specFile), rec)
}

func (s stateDir) writeRun(id runtime.ID, r run) error {
	r.Version = recordVersion
	return writeJSON(filepath.Join(s.dir(id), runFile), r)
}

// writeTurn outlives a power cut: nothing else says which of two containers proved itself.
func writeTurn(dir string, number int64) error {
	data, err := json.Marshal(turn{Version: recordVersion, Turn: number})
	if err != nil {
		return err
	}
	return atomicfile.WriteDurable(filepath.Join(dir, turnFile), data, 0o600)
}

// remove takes the directory away. Its record goes first: what is left after a crash is no container.
func (s stateDir) remove(id runtime.ID) error {
	failpoint.Here("record: there, all else gone")
	err := os.Remove(filepath.Join(s.dir(id), specFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	failpoint.Here("record: gone, its directory there")
	s.cache.forget(id, s.dir(id))
	err = os.RemoveAll(s.dir(id))
	failpoint.Here("record: its directory gone")
	return err
}

func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, 0o600)
}
