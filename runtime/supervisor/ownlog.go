package supervisor

import (
	"os"
	"path/filepath"

	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

const (
	logFile = "supervisor.log"
	maxLog  = 1 << 20 // bytes; above this its own log is begun anew, and the full one is kept beside it as .1
)

func openOwnLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// boundOwnLog begins the log of a detached supervisor anew where it is full. The file is its standard error, which
// crashes of the Go runtime are written to as well: so it is copied away and cut off, not replaced.
func (s *server) boundOwnLog() {
	if !s.detached {
		return
	}
	s.logSize.Lock()
	defer s.logSize.Unlock()
	st, err := os.Stderr.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() <= maxLog {
		return
	}
	path := filepath.Join(s.cfg.StateDir, logFile)
	if at, err := os.Stat(path); err != nil || !os.SameFile(st, at) {
		return // somebody gave us another file
	}
	failpoint.Here("own log: full")
	if err := copyFile(path, path+".1"); err != nil {
		s.log.Warn("cannot keep the full log", "err", err)
	}
	failpoint.Here("own log: copied")
	if err := os.Stderr.Truncate(0); err != nil {
		s.log.Warn("cannot begin the log anew", "err", err)
	}
	failpoint.Here("own log: begun anew")
}

// copyFile is of a file that fits in memory.
func copyFile(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	failpoint.Here("own log: no copy")
	err = atomicfile.Write(to, content, 0o600)
	failpoint.Here("own log: a copy in place")
	return err
}
