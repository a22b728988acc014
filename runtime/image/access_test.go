package image

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"reconciler/runtime"
	"reconciler/runtime/image/imagetest"
)

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
	refused("only others' credentials", "docker-credential-secretservice: exec: ")
	authConfig(t, file, host, "ci", "wrong horse")
	refused("a wrong password", "were refused")
	if err := os.WriteFile(file, []byte(`{"auths": {"x": {"auth": "horse"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a broken file", "")
	authConfig(t, file, "http://"+host+"/v2/", "ci", password)
	ensure(t, s, ref) // the same store: the file was read again
}

func TestCredentialHelpers(t *testing.T) {
	const password = "correct horse battery"
	host := imagetest.Registry(t, imagetest.RegistryOptions{User: "ci", Password: password})
	ref := host + "/shop/web:1"
	imagetest.Push(t, ref, simple(t, "x"), remote.WithAuth(&authn.Basic{Username: "ci", Password: password}))
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	script := func(name, body string) {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	answer := fmt.Sprintf(`{"ServerURL": "", "Username": "ci", "Secret": %q}`, password)
	script("good", fmt.Sprintf("[ \"$1 $(cat)\" = 'get %s' ] && echo '%s'", host, answer))
	script("wrong", `echo '{"Username": "ci", "Secret": "wrong horse"}'`)
	script("none", "echo credentials not found in native keychain; exit 1")
	script("broken", "echo '"+answer+"'; echo horse >&2; exit 3")
	script("garbage", "echo horse")
	file := filepath.Join(dir, "config.json")
	s := newStore(t, func(o *Options) { o.AuthFile = file })
	for _, c := range []struct{ config, hint string }{
		{`"credsStore": "none"`, "docker-credential-none: it has none"},
		{`"credsStore": "good", "credHelpers": {%q: "wrong"}`, "from docker-credential-wrong were refused"},
		{`"credHelpers": {%q: "broken"}`, "docker-credential-broken: exit status 3"},
		{`"credHelpers": {%q: "garbage"}`, "docker-credential-garbage: its answer is not"},
		{`"credHelpers": {%q: "no-such"}`, "docker-credential-no-such: exec"},
		{`"credHelpers": {%q: "../good"}`, "not the name of a program"},
		{`"credHelpers": {"elsewhere.example.com": "good"}`, "has no credentials for"},
		{`"credHelpers": {%q: "good"}, "credsStore": "none"`, ""},
		{`"credsStore": "good"`, ""},
		{`"credsStore": "wrong", "auths": {%q: {"username": "ci", "password": "` + password + `"}}`, ""},
	} {
		config := strings.ReplaceAll("{"+c.config+"}", "%q", fmt.Sprintf("%q", host))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Ensure(t.Context(), Request{Ref: ref, Policy: runtime.PullAlways})
		if (err == nil) != (c.hint == "") || !strings.Contains(runtime.HintOf(err), c.hint) {
			t.Errorf("%s: %v (hint %q)", c.config, err, runtime.HintOf(err))
		}
		if err != nil && strings.Contains(err.Error()+runtime.HintOf(err), "horse") {
			t.Errorf("%s: a password is in %v", c.config, err)
		}
	}
	// What the file says of Docker Hub, every program asks by the name that docker gave it first.
	script("hub", "[ \"$(cat)\" = https://index.docker.io/v1/ ] && echo '"+answer+"'")
	if err := os.WriteFile(file, []byte(`{"credsStore": "hub"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := parseRef("nginx")
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.credentialsFor(t.Context(), r.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err := c.auth.Authorization(); err != nil || cfg.Username != "ci" || cfg.Password != password {
		t.Errorf("Docker Hub: %v (hint %q)", err, c.hint)
	}
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
		c, err := s.credentialsFor(t.Context(), r.Context())
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
		g := &guarded{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errDialed }}, plainHost: "mirror:5000"}
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
