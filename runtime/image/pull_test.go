package image

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"reconciler/runtime"
	"reconciler/runtime/image/imagetest"
)

// cutter is a proxy in front of a registry that breaks every download of a blob off after some bytes.
type cutter struct {
	host   string
	after  atomic.Int64 // bytes; 0: never
	ranges atomic.Int64 // requests that went on with a part
	sent   atomic.Int64 // bytes of blobs
}

func newCutter(t testing.TB, registry string) *cutter {
	t.Helper()
	c := &cutter{}
	target := &url.URL{Scheme: "http", Host: registry}
	proxy := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		ErrorLog: quietLog(),
		ModifyResponse: func(r *http.Response) error {
			if !strings.Contains(r.Request.URL.Path, "/blobs/") || r.Request.Method != http.MethodGet {
				return nil
			}
			if r.StatusCode == http.StatusPartialContent {
				c.ranges.Add(1)
			}
			r.Body = &cutBody{r.Body, c, c.after.Load()}
			return nil
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: proxy, ErrorLog: quietLog()}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	c.host = l.Addr().String()
	return c
}

type cutBody struct {
	io.ReadCloser
	c    *cutter
	left int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.c.after.Load() > 0 {
		if b.left <= 0 {
			return 0, errors.New("cut")
		}
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	b.c.sent.Add(int64(n))
	return n, err
}

func TestRealRegistry(t *testing.T) {
	host := imagetest.Registry(t, imagetest.RegistryOptions{})
	img := imagetest.Busybox(t, v1.Config{}, imagetest.File{Name: "etc/motd", Body: "hello"})
	digest := imagetest.Push(t, host+"/shop/web:1", img)
	s := newStore(t)
	if got := ensure(t, s, host+"/shop/web:1"); got.Digest != digest || read(t, got, "/etc/motd") != "hello" {
		t.Fatalf("pulled %s", got.Digest)
	}
	if got := ensure(t, newStore(t), host+"/shop/web@"+digest); got.Digest != digest {
		t.Fatalf("pulled %s by digest", got.Digest)
	}
	// A tag beside a digest is decoration.
	if got := ensure(t, newStore(t), host+"/shop/web:nonsense@"+digest); got.Digest != digest {
		t.Fatalf("pulled %s by tag and digest", got.Digest)
	}
	if d, err := s.Resolve(t.Context(), host+"/shop/web:1", nil); err != nil || d != digest {
		t.Fatalf("resolved %s: %v", d, err)
	}
	_, err := s.Ensure(t.Context(), Request{Ref: host + "/shop/web:2", Name: runtime.Name{Namespace: "n", Name: "c"}})
	var e *runtime.Error
	if !errors.As(err, &e) || e.Reason != runtime.ReasonErrImagePull || e.Permanent || e.Name.Name != "c" || !strings.Contains(e.Hint, "the tag") || !strings.Contains(err.Error(), "404 Not Found") {
		t.Fatalf("a tag that is not there: %v (hint %q)", err, runtime.HintOf(err))
	}
}

func TestResume(t *testing.T) {
	host := imagetest.Registry(t, imagetest.RegistryOptions{})
	const size = 3 << 20
	img := randomImage(t, size, 2)
	digest := imagetest.Push(t, host+"/big:1", img)
	c := newCutter(t, host)
	c.after.Store(1 << 20)
	s := newStore(t)
	var done, total atomic.Int64
	got, err := s.Ensure(t.Context(), Request{Ref: c.host + "/big:1", Progress: func(p runtime.Progress) {
		done.Store(p.Done)
		total.Store(p.Total)
	}})
	if err != nil || got.Digest != digest {
		t.Fatalf("pull through a line that breaks off: %v", err)
	}
	if c.ranges.Load() < 4 {
		t.Fatalf("%d downloads went on with a part, want 4 or more", c.ranges.Load())
	}
	if all := total.Load(); done.Load() != all || all < 2*size {
		t.Fatalf("progress ended at %d of %d", done.Load(), all)
	}
	if sent := c.sent.Load(); sent > total.Load()+total.Load()/50 {
		t.Fatalf("%d bytes were sent for %d", sent, total.Load())
	}
	leftovers(t, s)
}

func TestResumeAfterTheAgentDied(t *testing.T) {
	host := imagetest.Registry(t, imagetest.RegistryOptions{})
	digest := imagetest.Push(t, host+"/big:1", randomImage(t, 2<<20, 1))
	c := newCutter(t, host)
	s := newStore(t)
	// An earlier process got the first half of the layer, and a broken beginning of the configuration.
	img := ensure(t, newStore(t), host+"/big:1")
	if img.Digest != digest {
		t.Fatal("not what was pushed")
	}
	full := newStore(t)
	ensure(t, full, host+"/big:1")
	h, _ := v1.NewHash(digest)
	m, _, err := full.manifest(h)
	if err != nil {
		t.Fatal(err)
	}
	half, err := os.ReadFile(full.blobPath(m.Layers[0].Digest))
	if err != nil {
		t.Fatal(err)
	}
	ingest := func(d v1.Descriptor, b []byte) {
		if err := os.WriteFile(filepath.Join(s.images, "ingest", "sha256-"+d.Digest.Hex), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ingest(m.Layers[0], half[:len(half)/2])
	ingest(m.Config, []byte("not what it begins with"))
	if got := ensure(t, s, c.host+"/big:1"); got.Digest != digest {
		t.Fatal("not what was pushed")
	}
	if sent, want := c.sent.Load(), m.Layers[0].Size/2+2*m.Config.Size+10; sent > want || c.ranges.Load() != 2 {
		t.Fatalf("%d bytes were sent in %d continued downloads, want at most %d in 2", sent, c.ranges.Load(), want)
	}
}

func TestRegistryThatNeverDelivers(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, simple(t, "x"))
	for name, bend := range map[string]func(http.ResponseWriter, *http.Request){
		"wrong content": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("y", 10_000)) },
		"nothing":       func(http.ResponseWriter, *http.Request) {},
		"server error":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) },
		"hangs up":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			reg.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				if strings.Contains(q.URL.Path, "/blobs/") {
					bend(w, q)
					return
				}
				next.ServeHTTP(w, q)
			})
			s := newStore(t)
			_, err := s.Ensure(t.Context(), Request{Ref: ref})
			if err == nil {
				t.Fatal("it was pulled")
			}
			if _, ok, err := s.Find(ref, ""); ok || err != nil {
				t.Fatalf("a part of it is found: %v", err)
			}
			reg.setBend(nil)
			ensure(t, s, ref) // and when the registry is well again, so is the pull
		})
	}
}

func TestRangesThatAreIgnored(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/big:1"
	imagetest.Push(t, ref, randomImage(t, 1<<20, 1))
	var cuts atomic.Int64
	reg.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		q.Header.Del("Range")
		if strings.Contains(q.URL.Path, "/blobs/") && cuts.Add(1) <= 2 {
			w = &shortWriter{w, 100_000}
		}
		next.ServeHTTP(w, q)
	})
	ensure(t, newStore(t), ref)
}

type shortWriter struct {
	http.ResponseWriter
	left int
}

func (s *shortWriter) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return s.ResponseWriter.Write(p)
}

func platformed(t testing.TB, img v1.Image, os, arch, variant string) v1.Image {
	t.Helper()
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Variant = os, arch, variant
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

// pushIndex pushes an index with an image for each platform, such as linux/arm/v6, and returns their digests.
func pushIndex(t testing.TB, ref string, platforms ...string) map[string]string {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	digests := map[string]string{}
	for _, p := range platforms {
		parsed, err := v1.ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		img := platformed(t, simple(t, p), parsed.OS, parsed.Architecture, parsed.Variant)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: parsed}})
		digests[p] = digestOf(t, img)
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r, index); err != nil {
		t.Fatal(err)
	}
	return digests
}

func TestPlatforms(t *testing.T) {
	host := imagetest.Registry(t, imagetest.RegistryOptions{})
	ref := host + "/multi:1"
	digests := pushIndex(t, ref, "unknown/unknown", "linux/amd64", "linux/amd64/v3", "linux/arm64/v8", "linux/arm/v5", "linux/arm/v6", "windows/amd64")
	for want, expect := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/arm64": "linux/arm64/v8", "linux/arm/v7": "linux/arm/v6", "linux/arm/v5": "linux/arm/v5",
		"linux/amd64/v4": "linux/amd64/v3", "linux/aarch64": "linux/arm64/v8",
	} {
		p := strings.Split(want+"/", "/")
		s := newStore(t)
		img, err := s.Ensure(t.Context(), Request{Ref: ref, Platform: &runtime.Platform{OS: p[0], Architecture: p[1], Variant: p[2]}})
		if err != nil || img.Digest != digests[expect] {
			t.Errorf("%s: got %s, want %s: %v", want, img.Digest, expect, err)
		}
	}
	s := newStore(t)
	for _, p := range []runtime.Platform{{OS: "linux", Architecture: "riscv64"}, {OS: "linux", Architecture: "arm", Variant: "v4"}} {
		_, err := s.Ensure(t.Context(), Request{Ref: ref, Platform: &p})
		var e *runtime.Error
		if !errors.As(err, &e) || e.Reason != runtime.ReasonIncompatible || !e.Permanent {
			t.Fatalf("%v: %v", p, err)
		}
		if text := err.Error(); !strings.Contains(text, platformString(p)+" is wanted") || !strings.Contains(text, "linux/amd64, linux/amd64/v3, linux/arm/v5") || strings.Contains(text, "unknown") {
			t.Errorf("the message does not tell what is wanted and what there is: %s", text)
		}
	}
	other := "arm64"
	if goruntime.GOARCH == other {
		other = "amd64"
	}
	imagetest.Push(t, host+"/single:1", platformed(t, simple(t, "x"), "linux", other, ""))
	_, err := s.Ensure(t.Context(), Request{Ref: host + "/single:1"})
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !runtime.IsPermanent(err) {
		t.Fatalf("an image for another machine, without an index: %v", err)
	}
	// An image that is here for another platform does not stand in for one for this.
	if _, err := s.Ensure(t.Context(), Request{Ref: host + "/single:1", Platform: &runtime.Platform{OS: "linux", Architecture: other}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(t.Context(), Request{Ref: host + "/single:1"}); runtime.ReasonOf(err) != runtime.ReasonIncompatible {
		t.Fatalf("found an image for another platform: %v", err)
	}
}

func authConfig(t testing.TB, file, host, user, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	body := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}, "credsStore": "secretservice"}`, host, auth)
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCredentials(t *testing.T) {
	const password = "correct horse battery"
	host := imagetest.Registry(t, imagetest.RegistryOptions{User: "ci", Password: password})
	ref := host + "/shop/web:1"
	imagetest.Push(t, ref, simple(t, "x"), remote.WithAuth(&authn.Basic{Username: "ci", Password: password}))
	file := filepath.Join(t.TempDir(), "config.json")
	s := newStore(t, func(o *Options) { o.AuthFile = file })
	refused := func(what, hint string) {
		t.Helper()
		_, err := s.Ensure(t.Context(), Request{Ref: ref})
		var e *runtime.Error
		if !errors.As(err, &e) || e.Permanent || !strings.Contains(e.Hint, hint) {
			t.Fatalf("%s: %v (hint %q, want %q in it)", what, err, runtime.HintOf(err), hint)
		}
		if strings.Contains(err.Error()+e.Hint, "horse") {
			t.Fatalf("%s: a password is in %v", what, err)
		}
	}
	_, err := newStore(t).Ensure(t.Context(), Request{Ref: ref})
	if err == nil || !strings.Contains(runtime.HintOf(err), "--registry-auth") || !strings.Contains(err.Error(), "401 Unauthorized") {
		t.Fatalf("without a file: %v (hint %q)", err, runtime.HintOf(err))
	}
	refused("a file that is not there", "")
	authConfig(t, file, "elsewhere.example.com", "ci", password)
	refused("only others' credentials", `helper "secretservice", which is not run`)
	authConfig(t, file, host, "ci", "wrong horse")
	refused("a wrong password", "were refused")
	if err := os.WriteFile(file, []byte(`{"auths": {"x": {"auth": "horse"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a broken file", "")
	authConfig(t, file, "http://"+host+"/v2/", "ci", password)
	ensure(t, s, ref) // the same store: the file was read again
}

func TestAuthKeys(t *testing.T) {
	for key, want := range map[string]string{
		"https://index.docker.io/v1/": "docker.io", "docker.io": "docker.io", "registry-1.docker.io": "docker.io",
		"http://localhost:5000": "localhost:5000", "quay.io/shop/web": "quay.io/shop/web", "https://quay.io/v2/": "quay.io",
	} {
		if got := authKey(key); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	file := filepath.Join(t.TempDir(), "config.json")
	body := `{"auths": {"quay.io": {"username": "all", "password": "p"}, "quay.io/shop": {"username": "shop", "password": "p"}, "quay.io/shopping": {"username": "no", "password": "p"}}}`
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, func(o *Options) { o.AuthFile = file })
	for ref, want := range map[string]string{"quay.io/shop/web": "shop", "quay.io/other": "all", "docker.io/nginx": ""} {
		r, err := parseRef(ref)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.credentialsFor(r.Context())
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := c.auth.Authorization()
		if err != nil || cfg.Username != want {
			t.Errorf("%s: %q, want %q: %v", ref, cfg.Username, want, err)
		}
	}
}

func TestMirrors(t *testing.T) {
	origin, mirror := newRegistry(t), newRegistry(t)
	ref := origin.host + "/shop/web:1"
	img := randomImage(t, 50_000, 2)
	digest := imagetest.Push(t, ref, img)
	withMirror := func(o *Options) { o.Mirrors = map[string]string{origin.host: "http://" + mirror.host + "/proxy"} }

	t.Run("has not the image", func(t *testing.T) {
		if got := ensure(t, newStore(t, withMirror), ref); got.Digest != digest || count(mirror.requests(), "/v2/proxy/shop/web/manifests/1") == 0 {
			t.Fatal("the mirror was not asked first")
		}
	})
	imagetest.Push(t, mirror.host+"/proxy/shop/web:1", img)
	origin.requests()
	t.Run("has it", func(t *testing.T) {
		s := newStore(t, withMirror)
		if got := ensure(t, s, ref); got.Digest != digest || got.Ref != ref {
			t.Fatalf("got %+v", got)
		}
		if got := origin.requests(); len(got) > 0 {
			t.Fatalf("the registry was asked too: %v", got)
		}
	})
	t.Run("breaks in the middle", func(t *testing.T) {
		mirror.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			if strings.Contains(q.URL.Path, "/blobs/") {
				http.NotFound(w, q)
				return
			}
			next.ServeHTTP(w, q)
		})
		if got := ensure(t, newStore(t, withMirror), ref); got.Digest != digest {
			t.Fatal("not the same image")
		}
	})
	t.Run("is down", func(t *testing.T) {
		down := func(o *Options) { o.Mirrors = map[string]string{origin.host: "http://127.0.0.1:1"} }
		if got := ensure(t, newStore(t, down), ref); got.Digest != digest {
			t.Fatal("not the same image")
		}
		_, err := newStore(t, down).Ensure(t.Context(), Request{Ref: origin.host + "/none:1"})
		if err == nil || !strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), "mirror") {
			t.Fatalf("both fail: %v", err)
		}
	})
}

// certificate makes a self-signed certificate for 127.0.0.1 and returns the files.
func certificate(t testing.TB) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: b}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	host := imagetest.Registry(t, imagetest.RegistryOptions{CertFile: cert, KeyFile: key})
	pem, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	tr := remote.DefaultTransport.(*http.Transport).Clone()
	tr.TLSClientConfig.RootCAs = pool
	ref := host + "/web:1"
	imagetest.Push(t, ref, simple(t, "x"), remote.WithTransport(tr))

	_, err = newStore(t).Ensure(t.Context(), Request{Ref: ref})
	if err == nil || !strings.Contains(runtime.HintOf(err), "--registry-ca") {
		t.Fatalf("an unknown authority: %v (hint %q)", err, runtime.HintOf(err))
	}
	ensure(t, newStore(t, func(o *Options) { o.CAFile = cert }), ref)
	_, err = newStore(t, func(o *Options) { o.CAFile = key }).Ensure(t.Context(), Request{Ref: ref})
	if err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
		t.Fatalf("a file without certificates: %v", err)
	}
}

func TestPlainHTTPIsRefused(t *testing.T) {
	for target, allowed := range map[string]bool{
		"http://10.0.0.1:5000/v2/": false, "http://registry.local/v2/": false, "http://example.com/token": false,
		"http://mirror:5000/v2/": true, "http://mirror:6000/v2/": false,
	} {
		g := &guarded{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return nil, errDialed }}, plainHost: "mirror:5000"}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = g.RoundTrip(r) //nolint:bodyclose // it never succeeds
		if want := map[bool]error{true: errDialed, false: errPlainHTTP}[allowed]; !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", target, err, want)
		}
	}
	for host, want := range map[string]bool{"localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "localhost.evil.example": false, "10.0.0.1": false} {
		if loopback(host) != want {
			t.Errorf("loopback(%s) is not %v", host, want)
		}
	}
}

var errDialed = errors.New("dialed")

func TestRegistryErrors(t *testing.T) {
	s := newStore(t)
	reg := newRegistry(t)
	artifact := reg.host + "/artifact:1"
	imagetest.Push(t, artifact, mutate.ConfigMediaType(simple(t, "x"), "application/vnd.cncf.helm.config.v1+json"))
	for ref, want := range map[string]struct {
		reason, text, hint string
		permanent          bool
	}{
		"127.0.0.1:1/web:1": {runtime.ReasonErrImagePull, "connection refused", "is up", false},
		"UPPER/case":        {runtime.ReasonInvalidImage, "not an image reference", "", true},
		artifact:            {runtime.ReasonInvalidImage, "not a container image", "", true},
		"oci:../x":          {runtime.ReasonInvalidImage, "no commit", "", true},
	} {
		_, err := s.Ensure(t.Context(), Request{Ref: ref})
		var e *runtime.Error
		if !errors.As(err, &e) || e.Reason != want.reason || e.Permanent != want.permanent || !strings.Contains(err.Error(), want.text) || !strings.Contains(e.Hint, want.hint) {
			t.Errorf("%s: %v (%+v)", ref, err, e)
		}
	}
	reg.setBend(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusTooManyRequests)
	})
	if _, err := s.Ensure(t.Context(), Request{Ref: reg.host + "/web:1"}); err == nil || runtime.IsPermanent(err) || !strings.Contains(runtime.HintOf(err), "mirror") {
		t.Errorf("too many requests: %v (hint %q)", err, runtime.HintOf(err))
	}
}

func TestProgressIsMonotonous(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, randomImage(t, 400_000, 5))
	var mu sync.Mutex
	var seen []int64
	_, err := newStore(t).Ensure(t.Context(), Request{Ref: ref, Progress: func(p runtime.Progress) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, p.Done)
		if p.What != "pull "+ref || p.Done > p.Total {
			t.Errorf("progress %+v", p)
		}
	}})
	if err != nil || !slices.IsSorted(seen) {
		t.Fatalf("progress went back: %v %v", seen, err)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	const size = 96 << 20
	zeros := imagetest.Layer(t, zeroTar(t, size))
	reg := newRegistry(t)
	ref := reg.host + "/zeros:1"
	imagetest.Push(t, ref, imagetest.Image(t, v1.Config{}, zeros))
	goruntime.GC()
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	ensure(t, newStore(t), ref)
	goruntime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 24<<20 {
		t.Fatalf("%d MiB were allocated for a layer of %d MiB", got>>20, size>>20)
	}
}

// zeroTar is the archive of one file of zeros, which compresses to little.
func zeroTar(t testing.TB, size int) []byte {
	t.Helper()
	return imagetest.Tar(imagetest.File{Name: "zeros-" + strconv.Itoa(size), Body: string(bytes.Repeat([]byte{0}, size))})
}
