package source

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"
)

type locationKind int

const (
	kindHTTP   locationKind = iota
	kindSSH                 // ssh:// or user@host:path
	kindGitDir              // file://: a repository, whatever it looks like
	kindPath                // a path: repository or plain directory, decided at each Fetch
)

// location is a parsed URL.
type location struct {
	kind     locationKind
	endpoint *transport.Endpoint // of http and ssh
	dir      string              // absolute path of the others
	display  string              // for messages: no password, nothing that could be one
}

func (l location) remote() bool { return l.kind == kindHTTP || l.kind == kindSSH }

func (l location) hasPassword() bool { return l.endpoint != nil && l.endpoint.Password != "" }

// mayCarrySecrets reports whether credentials are safe on the way: by TLS, or because they never leave this machine.
func (l location) mayCarrySecrets() bool {
	if l.endpoint.Protocol == "https" {
		return true
	}
	host := strings.Trim(l.endpoint.Host, "[]")
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func parseLocation(raw string) (location, error) {
	bad := func(hint, format string, args ...any) (location, error) {
		return location{}, &Error{
			Op: "open", URL: redact(raw), Hint: hint,
			Err: fmt.Errorf("%w: "+format, append([]any{ErrConfig}, args...)...),
		}
	}
	const forms = "give https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, file:///PATH, or a path"
	switch {
	case raw == "":
		return bad(forms, "no repository given")
	case strings.ContainsFunc(raw, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return bad(forms, "the URL has a control character in it")
	case !strings.Contains(raw, "://"):
		return parsePathOrSCP(raw)
	}
	u, err := url.Parse(raw)
	if err != nil { // its text repeats parts of the URL, perhaps of the password
		return bad(forms+"; in a password write %XX for each of / ? # @ : %", "not a URL")
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return bad(forms, "the URL has no host or no path")
		}
		ep, err := transport.NewEndpoint(raw)
		if err != nil {
			return bad(forms, "not a URL")
		}
		return location{kind: kindHTTP, endpoint: ep, display: redact(raw)}, nil
	case "ssh", "git+ssh", "ssh+git":
		ep, err := transport.NewEndpoint(raw)
		if err != nil || u.Host == "" || strings.Trim(u.Path, "/") == "" {
			return bad(forms, "the URL has no host or no path")
		}
		ep.Protocol = "ssh"
		if strings.HasPrefix(ep.Path, "/~") {
			ep.Path = ep.Path[1:] // a home directory of the server, as git reads it
		}
		return location{kind: kindSSH, endpoint: ep, display: redact(raw)}, nil
	case "file":
		if u.Host != "" && u.Host != "localhost" || u.Path == "" {
			return bad("give file:///absolute/path", "a file URL names a path on this machine")
		}
		return location{kind: kindGitDir, dir: filepath.Clean(u.Path), display: redact(raw)}, nil
	case "git":
		return bad("use https or ssh", "git:// is neither encrypted nor authenticated")
	default:
		return bad(forms, "scheme %q is not supported", u.Scheme)
	}
}

func parsePathOrSCP(raw string) (location, error) {
	_, statErr := os.Lstat(raw)
	host, _, colon := strings.Cut(raw, ":")
	if statErr != nil && colon && !strings.Contains(host, "/") {
		ep, err := transport.NewEndpoint(raw)
		if err == nil && ep.Protocol == "ssh" && ep.Host != "" && ep.Path != "" {
			return location{kind: kindSSH, endpoint: ep, display: redact(raw)}, nil
		}
	}
	abs, err := filepath.Abs(raw)
	if err != nil {
		return location{}, &Error{Op: "open", URL: raw, Err: fmt.Errorf("%w: %w", ErrConfig, err)}
	}
	return location{kind: kindPath, dir: abs, display: abs}, nil
}

// redact takes the password out of a URL, and what comes after a question mark, where some hosts want tokens. The user
// of http goes too: it may be a token as well. Of what does not parse only the scheme is shown: where a password with a
// slash or a question mark in it ends cannot be known.
func redact(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return printable(raw, 500)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return printable(scheme, 20) + "://***"
	}
	rest, _, _ = strings.Cut(rest, "?")
	rest, _, _ = strings.Cut(rest, "#")
	if u.User != nil {
		user := u.User.Username()
		if scheme == "http" || scheme == "https" {
			user = "***"
		}
		authority, tail, slash := strings.Cut(rest, "/")
		rest = user + "@" + authority[strings.LastIndexByte(authority, '@')+1:]
		if slash {
			rest += "/" + tail
		}
	}
	return printable(scheme+"://"+rest, 500)
}

// looksLikeHost matches github.com/org/repo, a URL whose scheme was forgotten.
func looksLikeHost(p string) bool {
	return regexp.MustCompile(`(^|/)[a-z0-9-]+(\.[a-z0-9-]+)*\.[a-z]{2,}(/[\w.-]+){2,}$`).MatchString(p)
}
