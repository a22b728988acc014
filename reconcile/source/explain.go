package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// fail turns whatever went wrong into an Error: which of our reasons it is, what to do, and no secrets.
func (s *Source) fail(op string, err error) error {
	if done, ok := errors.AsType[*Error](err); ok {
		return done
	}
	e := &Error{Op: op, URL: s.at.display, Err: s.explain(err)}
	if h, ok := errors.AsType[*hinted](e.Err); ok {
		e.Hint = h.hint
	} else {
		e.Hint = s.defaultHint(e.Err)
	}
	return e
}

// explain finds the reason. Texts of others are left out where they could repeat the URL, or what a server wrote.
func (s *Source) explain(err error) error {
	for _, known := range []error{
		ErrBranchNotFound, ErrEmptyRepository, ErrAuth, ErrHostKey, ErrCertificate, ErrNotFound, ErrProtocol,
		ErrPathNotFound, ErrUnknownCommit, ErrTooLarge, ErrCorrupt, ErrChanged, ErrUnreachable,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	var status *githttp.Err
	if unexpected, ok := errors.AsType[*plumbing.UnexpectedError](err); ok { // has no Unwrap
		err = unexpected.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return ErrEmptyRepository
	case errors.Is(err, transport.ErrAuthenticationRequired):
		return fmt.Errorf("%w: the server wants credentials, or refuses those given (401)", ErrAuth)
	case errors.Is(err, transport.ErrAuthorizationFailed):
		return fmt.Errorf("%w: the credentials have no right to read it (403)", ErrAuth)
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fmt.Errorf("%w (404)", ErrNotFound)
	case errors.As(err, &status):
		reason := ErrUnreachable
		if code := status.StatusCode(); code < 500 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests {
			reason = ErrProtocol // asking again will not help
		}
		return fmt.Errorf("%w: the server answers %d", reason, status.StatusCode())
	case !s.at.remote(), isLocal(err):
		return err
	case isCertificate(err):
		return untrusted(err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return withHint(fmt.Errorf("%w: there is no TLS at the other end", ErrProtocol), "check the URL: should it begin with http://, or have another port?")
	case isTimeout(err):
		return fmt.Errorf("%w: no answer within %s: %w", ErrUnreachable, s.cfg.Timeout, context.DeadlineExceeded)
	case isProtocol(err):
		return fmt.Errorf("%w: what is there does not speak Git, or hashes with SHA-256", ErrProtocol)
	case s.at.kind == kindHTTP && !isNetwork(err): // its text may be the server's, which knows our credentials
		return fmt.Errorf("%w: what it sent cannot be used", ErrUnreachable)
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, printable(withoutURL(err).Error(), 300))
}

func (s *Source) defaultHint(err error) string {
	switch {
	case errors.Is(err, ErrAuth) && s.at.kind == kindHTTP && s.cfg.TokenFile == "":
		return "give a token that may read the repository with --git-token-file"
	case errors.Is(err, ErrAuth) && s.at.kind == kindHTTP:
		return "check that the token in " + s.cfg.TokenFile + " has not expired and may read this repository"
	case errors.Is(err, ErrAuth):
		return "check that the key may read this repository"
	case errors.Is(err, ErrNotFound) && s.at.kind == kindHTTP:
		return "check the URL; many servers also say so of a private repository where credentials are missing or wrong"
	case errors.Is(err, ErrNotFound) && looksLikeHost(s.at.dir):
		return "did you mean a URL, with https:// in front?"
	case errors.Is(err, ErrNotFound):
		return "check the path of the repository"
	case errors.Is(err, ErrCertificate):
		return "give the certificate authority of the server with --git-ca-file"
	case errors.Is(err, ErrEmptyRepository):
		return "push a first commit to branch " + s.cfg.Branch
	case errors.Is(err, ErrProtocol):
		return "check the URL: it has to be the one that git clone takes"
	case errors.Is(err, ErrUnreachable):
		return "check the network and the server; it is tried again"
	case errors.Is(err, syscall.ENOSPC):
		return "free space in the state directory"
	}
	return ""
}

// isLocal reports an error of this machine's disk, or of a malformed tree, which no server has a part in.
func isLocal(err error) bool {
	var file *fs.PathError
	var link *os.LinkError
	return errors.As(err, &file) || errors.As(err, &link)
}

func isCertificate(err error) bool {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	return errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid) || errors.As(err, &verification)
}

// untrusted says what is wrong with a certificate; where nothing better is known the hint is that of ErrCertificate.
func untrusted(err error) error {
	why := fmt.Errorf("%w: %s", ErrCertificate, printable(innermost(err).Error(), 300))
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &host):
		return withHint(why, "write the URL with a name that the certificate is for")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return withHint(why, "renew the certificate, or set the clock of this machine")
	}
	return why
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

func isNetwork(err error) bool {
	var request *url.Error
	var op *net.OpError
	return errors.As(err, &request) || errors.As(err, &op) || errors.Is(err, io.ErrUnexpectedEOF)
}

func isProtocol(err error) bool {
	var data *packp.ErrUnexpectedData
	return errors.As(err, &data) || errors.Is(err, pktline.ErrInvalidPktLen) || errors.Is(err, packp.ErrEmptyInput) ||
		strings.Contains(err.Error(), "error decoding upload-pack response")
}

// withoutURL drops the request URL that net/http puts in front of its errors.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
