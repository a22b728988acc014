package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// httpState keeps connections between polls, as long as the CA file stays the same.
type httpState struct {
	client transport.Transport
	idle   *http.Transport
	ca     [sha256.Size]byte
}

// httpSession returns a session with the server. Nothing is sent yet.
func (s *Source) httpSession() (transport.UploadPackSession, error) {
	client, err := s.httpClient()
	if err != nil {
		return nil, err
	}
	auth, err := s.httpAuth()
	if err != nil {
		return nil, err
	}
	ep := *s.at.endpoint // the session changes it when it is redirected
	// go-git falls back on the endpoint's user for auth == nil only if it is an untyped nil.
	if auth == nil {
		return client.NewUploadPackSession(&ep, nil)
	}
	return client.NewUploadPackSession(&ep, auth)
}

func (s *Source) httpClient() (transport.Transport, error) {
	var pem []byte
	if s.cfg.CAFile != "" {
		var err error
		if pem, err = readSmall(s.cfg.CAFile); err != nil {
			return nil, withHint(fmt.Errorf("%w: read CA file: %w", ErrCertificate, err), "check --git-ca-file")
		}
	}
	sum := sha256.Sum256(pem)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http.client != nil && s.http.ca == sum {
		return s.http.client, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if pem != nil && !roots.AppendCertsFromPEM(pem) {
		return nil, withHint(fmt.Errorf("%w: CA file %s has no PEM certificate", ErrCertificate, s.cfg.CAFile),
			"it has to hold lines from -----BEGIN CERTIFICATE----- on")
	}
	if s.http.idle != nil {
		s.http.idle.CloseIdleConnections()
	}
	s.http.idle = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: s.cfg.Timeout}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   s.cfg.Timeout,
		ResponseHeaderTimeout: s.cfg.Timeout,
		IdleConnTimeout:       3 * s.cfg.Interval,
		MaxIdleConnsPerHost:   1,
		ForceAttemptHTTP2:     true,
	}
	s.http.ca = sum
	s.http.client = githttp.NewClientWithOptions(&http.Client{Transport: limited{s.http.idle, s.cfg.Timeout}}, nil)
	return s.http.client, nil
}

// limited bounds what a server can make us read, and wait for.
type limited struct {
	http.RoundTripper

	patience time.Duration
}

func (l limited) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	res, err := l.RoundTripper.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	limit := int64(maxPackAnswer)
	switch {
	case res.StatusCode < 200 || res.StatusCode > 299:
		limit = maxErrorAnswer
	case req.Method == http.MethodGet:
		limit = maxRefsAnswer
	}
	res.Body = &cappedBody{ReadCloser: res.Body, left: limit, patience: l.patience, cancel: cancel}
	return res, nil
}

// httpAuth reads the credentials; nil means those of the URL, or none.
func (s *Source) httpAuth() (githttp.AuthMethod, error) {
	if s.cfg.TokenFile == "" {
		return nil, nil //nolint:nilnil // no credentials is no error
	}
	b, err := readSmall(s.cfg.TokenFile)
	if err != nil {
		return nil, withHint(fmt.Errorf("%w: read token: %w", ErrAuth, err), "check --git-token-file")
	}
	line := strings.TrimSpace(string(b))
	if line == "" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
		return nil, withHint(fmt.Errorf("%w: token file %s does not hold one line", ErrAuth, s.cfg.TokenFile),
			"put the token into it, USER:PASSWORD, or Bearer TOKEN")
	}
	if scheme, token, ok := strings.Cut(line, " "); ok && strings.EqualFold(scheme, "bearer") {
		return &githttp.TokenAuth{Token: strings.TrimSpace(token)}, nil
	}
	if user, password, ok := strings.Cut(line, ":"); ok && s.cfg.Username == "" {
		return &githttp.BasicAuth{Username: user, Password: password}, nil
	}
	user := cmp.Or(s.cfg.Username, s.at.endpoint.User, "x-access-token")
	return &githttp.BasicAuth{Username: user, Password: line}, nil
}
