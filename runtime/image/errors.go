package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// ErrNotFound is wrapped by the error of a method that names an image which is not in the store.
var ErrNotFound = errors.New("no such image")

var errNeverPulled = errors.New("it is not on this server, and imagePullPolicy is Never")

// badImageError says that the image itself is at fault: trying again brings the same.
type badImageError struct{ why string }

// Error implements error.
func (e *badImageError) Error() string { return e.why }

func badImage(format string, args ...any) error {
	return &badImageError{fmt.Sprintf(format, args...)}
}

// failure makes the error that users see of what went wrong while an image was brought here.
func (s *Store) failure(op string, name runtime.Name, err error) error {
	var done *runtime.Error
	if err == nil || errors.As(err, &done) {
		return err
	}
	e := &runtime.Error{Op: op, Name: name, Err: err, Reason: runtime.ReasonErrImagePull}
	var bad *badImageError
	var unauthorised *unauthorisedError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded) && !isTimeout(err):
	case errors.Is(err, errPlatform):
		e.Reason, e.Permanent = runtime.ReasonIncompatible, true
		e.Hint = "use an image that is built for this server's platform, or select other nodes for the container"
	case errors.As(err, &bad):
		e.Reason, e.Permanent = runtime.ReasonInvalidImage, true
	case errors.Is(err, errNeverPulled):
		e.Hint = "load it with \"reconciler image load\", or use imagePullPolicy: IfNotPresent"
	case errors.As(err, &unauthorised):
		e.Hint = unauthorised.hint
	default:
		e.Hint = hint(err)
	}
	return e
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// hint says what a person can do about an error of the network, the registry or the disk.
func hint(err error) string {
	var (
		status    *transport.Error
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		host      x509.HostnameError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		dns       *net.DNSError
	)
	switch {
	case errors.Is(err, errPlainHTTP):
		return "give the registry a certificate, or name it with --registry-mirror HOST=http://HOST if its network is trusted"
	case errors.As(err, &authority), errors.As(err, &invalid), errors.As(err, &host), errors.As(err, &verify):
		return "name the file with the registry's certificate authority with --registry-ca, and check the registry's host name and this server's clock"
	case errors.As(err, &status):
		return hintOfStatus(status.StatusCode)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "the registry speaks plain HTTP: give it a certificate, or name it with --registry-mirror HOST=http://HOST if its network is trusted"
	case errors.As(err, &dns):
		return "check the registry's name in the reference, and this server's DNS"
	case errors.Is(err, unix.ECONNREFUSED):
		return "check that the registry is up and that the port is right"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "free disk space, for example with \"reconciler image prune\""
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH), isTimeout(err):
		return "check this server's network and that the registry is up"
	default:
		return ""
	}
}

func hintOfStatus(code int) string {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "log in with \"docker login\" or \"podman login\" and name the file with --registry-auth; check that the account may pull this repository"
	case http.StatusNotFound:
		return "check the name and the tag; a registry may also say this of a private repository: then name credentials with --registry-auth"
	case http.StatusTooManyRequests:
		return "the registry limits pulls: log in with --registry-auth, or use a mirror with --registry-mirror"
	default:
		return ""
	}
}

// short makes of a registry's error what fits in one line: "404 Not Found: MANIFEST_UNKNOWN: manifest unknown".
// URLs, which may carry signatures in their query, are left out.
func short(err error) error {
	if verify, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		// On loopback plain HTTP is tried next, and that answer tells nothing.
		return &shortError{verify.Error(), err}
	}
	if status, ok := errors.AsType[*transport.Error](err); ok {
		text := fmt.Sprintf("%d %s", status.StatusCode, http.StatusText(status.StatusCode))
		if len(status.Errors) > 0 && status.Errors[0].Message != "" {
			text += ": " + clip(status.Errors[0].Message)
		}
		return &shortError{text, err}
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		host := u.URL
		if parsed, perr := url.Parse(u.URL); perr == nil {
			host = parsed.Host
		}
		return &shortError{host + ": " + u.Err.Error(), err}
	}
	return err
}

// shortError says less than what it wraps.
type shortError struct {
	text string
	err  error
}

// Error implements error.
func (e *shortError) Error() string { return e.text }

// Unwrap returns the whole error.
func (e *shortError) Unwrap() error { return e.err }

// clip keeps a stranger's text to one line of bounded length.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200]) + "…"
	}
	return s
}

// disk reports whether an error is this server's and not the image's.
func disk(err error) bool {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EROFS, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EPERM, fs.ErrPermission} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
