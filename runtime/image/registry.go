package image

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Timeouts of one connection. There is none for a whole pull: it may be large and the line slow, as long as it moves.
const (
	dialTimeout   = 10 * time.Second
	headerTimeout = 60 * time.Second
	userAgent     = "reconciler"
)

var errPlainHTTP = errors.New("plain HTTP is only spoken to registries on this machine and to mirrors whose URL says http")

// endpoint is one place where the content of a reference may be: a mirror of its registry, or the registry.
type endpoint struct {
	ref   name.Reference
	plain bool // http was asked for by the mirror's URL
}

// String names the endpoint in messages.
func (e endpoint) String() string { return displayHost(e.ref.Context().RegistryStr()) }

// parseRef reads a registry reference. Both "name" and "name:tag" and "name:tag@digest" are taken, as by docker.
func parseRef(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, badImage("%q is not an image reference: %s", ref, clip(err.Error()))
	}
	return r, nil
}

// display is a reference in full, as people write it: docker.io/library/nginx:latest.
func display(r name.Reference) string {
	full := r.Name()
	host, rest, _ := strings.Cut(full, "/")
	return displayHost(host) + "/" + rest
}

// endpoints returns where to look for ref, in this order.
func (s *Store) endpoints(ref name.Reference) ([]endpoint, error) {
	own := endpoint{ref: ref}
	mirror := s.opts.Mirrors[displayHost(ref.Context().RegistryStr())]
	if mirror == "" {
		mirror = s.opts.Mirrors[ref.Context().RegistryStr()]
	}
	if mirror == "" {
		return []endpoint{own}, nil
	}
	if !strings.Contains(mirror, "://") {
		mirror = "https://" + mirror
	}
	u, err := url.Parse(mirror)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("mirror of %s: not an http or https URL", own)
	}
	var opts []name.Option
	if u.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	registry, err := name.NewRegistry(u.Host, opts...)
	if err != nil {
		return nil, fmt.Errorf("mirror of %s: %w", own, err)
	}
	// A path in the URL, as Harbor's and Artifactory's proxies have, goes before the repository's name.
	repo := registry.Repo(strings.Trim(strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v2"), "/"), ref.Context().RepositoryStr())
	e := endpoint{plain: u.Scheme == "http"}
	if _, byDigest := ref.(name.Digest); byDigest {
		e.ref = repo.Digest(ref.Identifier())
	} else {
		e.ref = repo.Tag(ref.Identifier())
	}
	return []endpoint{e, own}, nil
}

// session speaks with one endpoint, authenticated.
type session struct {
	endpoint
	rt   http.RoundTripper
	hint string
	done func()
}

// open reads certificates and credentials and shakes hands with the registry.
func (s *Store) open(ctx context.Context, e endpoint) (*session, error) {
	base, err := s.transport(e)
	if err != nil {
		return nil, err
	}
	repo := e.ref.Context()
	creds, err := s.credentialsFor(ctx, repo)
	if err != nil {
		return nil, err
	}
	retrying := transport.NewRetry(base, transport.WithRetryBackoff(remote.Backoff{Duration: s.pause, Factor: 3, Jitter: 0.1, Steps: 3}))
	rt, err := transport.NewWithContext(ctx, repo.Registry, creds.auth, transport.NewUserAgent(retrying, userAgent), []string{repo.Scope(transport.PullScope)})
	sess := &session{endpoint: e, rt: rt, hint: creds.hint, done: base.CloseIdleConnections}
	if err != nil {
		sess.done()
		return nil, sess.explain(err)
	}
	return sess, nil
}

// explain adds what is known of the credentials to a refusal.
func (s *session) explain(err error) error {
	var status *transport.Error
	if errors.As(err, &status) && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden) {
		return &unauthorisedError{short(err), s.hint}
	}
	return short(err)
}

// transport makes the HTTP transport for an endpoint. It is made anew for each pull because certificates may be
// replaced at any time.
func (s *Store) transport(e endpoint) (*guarded, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   s.opts.Parallel,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // a registry's blobs are what they are: a decoded one has another digest
	}
	if s.opts.CAFile != "" {
		pem, err := os.ReadFile(s.opts.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read registry certificates: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read registry certificates: %s: no PEM certificate in it", s.opts.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	g := &guarded{Transport: t, stall: s.stall}
	if e.plain {
		g.plainHost = e.ref.Context().RegistryStr()
	}
	return g, nil
}

// guarded refuses plain HTTP where it was not asked for: go-containerregistry would fall back to it for private
// addresses and names that end in .local, and a redirect could ask for it anywhere. What comes has to come at some pace.
type guarded struct {
	*http.Transport
	plainHost string
	stall     time.Duration
}

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !loopback(r.URL.Hostname()) && (g.plainHost == "" || r.URL.Host != g.plainHost) {
		return nil, errPlainHTTP
	}
	if redirects(r) > maxRedirects {
		return nil, errRedirects
	}
	return pace(g.Transport, r, g.stall)
}

// maxRedirects is what net/http follows by itself; go-containerregistry, which has its own rules, follows without end.
const maxRedirects = 10

var errRedirects = fmt.Errorf("stopped after %d redirects", maxRedirects)

// redirects returns how many answers led to a request.
func redirects(r *http.Request) int {
	n := 0
	for r.Response != nil && r.Response.Request != nil && n <= maxRedirects {
		r = r.Response.Request
		n++
	}
	return n
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
