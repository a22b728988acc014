package source

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Reasons that the errors of this package wrap.
var (
	// ErrBranchNotFound: the repository has no such branch; the message names those that it has.
	ErrBranchNotFound = errors.New("branch not found")
	// ErrEmptyRepository: the repository has no commit yet.
	ErrEmptyRepository = errors.New("the repository is empty")
	// ErrAuth: the server refused the credentials, wants some, or ours cannot be read.
	ErrAuth = errors.New("authentication failed")
	// ErrHostKey: the ssh host key is unknown, has changed, or is revoked.
	ErrHostKey = errors.New("host key verification failed")
	// ErrCertificate: the TLS certificate is not trusted.
	ErrCertificate = errors.New("certificate not trusted")
	// ErrNotFound: there is no repository at the URL or path.
	ErrNotFound = errors.New("repository not found")
	// ErrUnreachable: the server did not answer, or stopped answering. Trying later may help.
	ErrUnreachable = errors.New("server unreachable")
	// ErrProtocol: the server answered something that is not Git, or no Git that we speak.
	ErrProtocol = errors.New("unexpected answer")
	// ErrPathNotFound: the commit has no directory Path.
	ErrPathNotFound = errors.New("path not found")
	// ErrUnknownCommit: the revision is not in the repository, or not in our clone of it.
	ErrUnknownCommit = errors.New("unknown commit")
	// ErrCorrupt: the object store is damaged. Our own clone is made again by the next Fetch.
	ErrCorrupt = errors.New("damaged repository")
	// ErrTooLarge: something is beyond a limit of this package.
	ErrTooLarge = errors.New("too large")
	// ErrSymlink: a symbolic link leaves the tree, or links go round in a circle.
	ErrSymlink = errors.New("symbolic link refused")
	// ErrSubmodule: the path is inside a submodule, which is not fetched.
	ErrSubmodule = errors.New("inside a submodule, which is not fetched")
	// ErrChanged: a file of a plain directory is no longer what it was when it was hashed.
	ErrChanged = errors.New("changed since it was read")
	// ErrConfig: the configuration of the source is wrong. Only Open fails with it.
	ErrConfig = errors.New("invalid source")
)

// Error is what the methods of Source fail with.
type Error struct {
	// Op is what was tried, such as "fetch".
	Op string
	// URL is the repository, without credentials.
	URL string
	// Err is why it failed.
	Err error
	// Hint is what a person can do, or "".
	Hint string
}

// Error returns "op url: why". The hint is not part of it.
func (e *Error) Error() string { return e.Op + " " + e.URL + ": " + e.Err.Error() }

// Unwrap returns why it failed.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns the hint that err carries, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}

// Gone returns, in one word, what of that which is followed is not at the source any more though the source was reached:
// its branch, its commits or its path. It is "" for every other error, such as of a server that is down.
func Gone(err error) string {
	switch {
	case errors.Is(err, ErrBranchNotFound):
		return "BranchNotFound"
	case errors.Is(err, ErrEmptyRepository):
		return "EmptyRepository"
	case errors.Is(err, ErrPathNotFound):
		return "PathNotFound"
	}
	return ""
}

// hinted is a reason found deep inside, with its hint; Source.fail turns it into an Error.
type hinted struct {
	error

	hint string
}

func (h *hinted) Unwrap() error { return h.error }

func withHint(err error, hint string) error { return &hinted{error: err, hint: hint} }

// printable makes what a stranger wrote fit for a terminal or log: one line, no escapes, at most limit runes.
func printable(s string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == limit {
			b.WriteString("…")
			break
		}
		switch {
		case r == '\t', r == '\n', r == '\r':
			r = ' '
		case r == utf8.RuneError, unicode.IsControl(r), isBidi(r), r == '\u2028', r == '\u2029':
			r = utf8.RuneError
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimSpace(b.String())
}

// isBidi reports marks that reorder the text around them (CVE-2021-42574).
func isBidi(r rune) bool {
	return r == '\u200e' || r == '\u200f' || r == '\u061c' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}
