package source

import (
	"cmp"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"reconciler/manifest"
)

// Limits and defaults.
const (
	// DefaultBranch is followed where Config.Branch is empty.
	DefaultBranch = "main"
	// DefaultInterval is the time between polls where Config.Interval is zero.
	DefaultInterval = 30 * time.Second
	// DefaultTimeout is used where Config.Timeout is zero.
	DefaultTimeout = 30 * time.Second
	// MaxReadFile is the size, in bytes, up to which ReadFile reads a file; a larger one is opened and streamed.
	MaxReadFile = 1 << 20
	// MinInterval is the shortest poll interval that Open accepts.
	MinInterval = time.Second
)

// Config says where desired state is and how to get at it.
type Config struct {
	// URL is an https, http, ssh, scp-like (user@host:path) or file URL, or the path of a bare repository or directory.
	URL string
	// Branch is followed; empty means DefaultBranch. A directory source ignores it.
	Branch string
	// Path is the directory inside the repository that holds the manifests, slash-separated; "." or empty is the root.
	// Trees are always of the whole repository, but a commit without Path has none.
	Path string
	// StateDir holds the bare clone of a remote, as repo.git. It is not needed for local sources.
	StateDir string
	// NodeName spreads the polls of many nodes over the interval.
	NodeName string
	// Interval is the time between polls; zero means DefaultInterval.
	Interval time.Duration
	// Timeout is how long a server may stay silent; zero means DefaultTimeout. The check of the remote branch has to be
	// complete within twice that, a transfer within an hour.
	Timeout time.Duration
	// TokenFile, Username and CAFile are for https: see the package's description.
	TokenFile string
	Username  string
	CAFile    string
	// SSHKey and KnownHosts are for ssh: see the package's description.
	SSHKey     string
	KnownHosts string
	// Logger gets what is done without being asked, such as a damaged clone that is made again; nil logs nothing.
	Logger *slog.Logger
}

// Source is one place that desired state comes from. Its methods may be called from several goroutines.
type Source struct {
	cfg    Config
	at     location
	subdir string // Path, cleaned
	log    *slog.Logger
	// lookAgain is the time between looks for a watched path that is not there.
	lookAgain time.Duration

	// fetching is held by whoever changes the clone or looks for a new revision.
	fetching sync.Mutex
	listings listings

	mu        sync.Mutex
	head      manifest.Revision // the last one that Fetch returned
	store     *store            // the clone, or the local repository
	local     bool              // opened by OpenLocal
	snapshots []*snapshot       // of a directory source, newest last
	damaged   error             // what is wrong with the clone
	cloned    time.Time         // when it was last made again because of that
	http      httpState
}

// Open checks cfg and returns the source. It starts nothing and reads nothing: what is wrong at the other end shows at
// the first Fetch. All its errors wrap ErrConfig.
func Open(cfg Config) (*Source, error) {
	at, err := parseLocation(cfg.URL)
	if err != nil {
		return nil, err
	}
	cfg.Branch = strings.TrimPrefix(cmp.Or(cfg.Branch, DefaultBranch), "refs/heads/")
	cfg.Interval = cmp.Or(cfg.Interval, DefaultInterval)
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	s := &Source{cfg: cfg, at: at, log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)), lookAgain: watchAgain}
	bad := func(format string, args ...any) error {
		return &Error{Op: "open", URL: at.display, Err: fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...)}
	}
	s.subdir = path.Clean(strings.Trim(cmp.Or(cfg.Path, "."), "/"))
	switch {
	case !validBranch(cfg.Branch):
		return nil, bad("branch %q is no branch name", cfg.Branch)
	case !fs.ValidPath(s.subdir):
		return nil, bad("path %q leaves the repository", cfg.Path)
	case cfg.Interval < MinInterval:
		return nil, bad("interval %s is shorter than %s", cfg.Interval, MinInterval)
	case cfg.Timeout < 0:
		return nil, bad("timeout %s is negative", cfg.Timeout)
	case at.remote() && cfg.StateDir == "":
		return nil, bad("no state directory for the clone")
	case cfg.TokenFile != "" && at.kind != kindHTTP:
		return nil, bad("a token file is for https URLs only")
	case cfg.SSHKey != "" && at.kind != kindSSH:
		return nil, bad("an ssh key is for ssh URLs only")
	case at.kind == kindHTTP && !at.mayCarrySecrets() && (cfg.TokenFile != "" || at.hasPassword()):
		err := bad("credentials over http would be readable on the way to %s", printable(at.endpoint.Host, 100))
		return nil, addHint(err, "use https; http with credentials is only for this machine itself")
	}
	return s, nil
}

func addHint(err error, hint string) error {
	if e, ok := err.(*Error); ok { //nolint:errorlint // made two lines above, never wrapped
		e.Hint = hint
	}
	return err
}

// OpenLocal opens the Git repository that dir is in (a work tree, a directory of one, or a bare repository) for Resolve,
// Tree and Descends: nothing is fetched, watched or written. Fetch returns the commit of HEAD.
func OpenLocal(dir string) (*Source, error) {
	at := location{kind: kindGitDir, dir: dir, display: dir}
	s := &Source{
		cfg: Config{URL: dir, Interval: DefaultInterval, Timeout: DefaultTimeout},
		at:  at, subdir: ".", log: slog.New(slog.DiscardHandler), local: true, lookAgain: watchAgain,
	}
	git, err := discover(dir)
	if err != nil {
		return nil, s.fail("open", err)
	}
	st, err := openStore(git)
	if err != nil {
		return nil, s.fail("open", err)
	}
	s.store = st
	return s, nil
}

// String returns the URL without credentials, and the branch.
func (s *Source) String() string {
	if s.local {
		return s.at.display
	}
	return s.at.display + " branch " + s.cfg.Branch
}

// RedactedURL returns the URL without credentials.
func (s *Source) RedactedURL() string { return s.at.display }

// validBranch refuses what git check-ref-format refuses, as far as it could do harm or surprise.
func validBranch(b string) bool {
	if b == "" || b == "@" || len(b) > 255 || strings.ContainsAny(b, " ~^:?*[\\\x7f") || strings.Contains(b, "..") ||
		strings.Contains(b, "@{") || strings.HasSuffix(b, ".") || strings.HasPrefix(b, "-") {
		return false
	}
	for part := range strings.SplitSeq(b, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return !strings.ContainsFunc(b, func(r rune) bool { return r < ' ' })
}

func homeFile(elem ...string) string {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/root" // a daemon may have no HOME; root is who we are then
	}
	return path.Join(append([]string{home}, elem...)...)
}
