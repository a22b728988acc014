package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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
		if err := s.make(); err != nil {
			t.Fatal(err)
		}
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
	// Where all that was left is wrong, it is thrown away and not taken for the registry's fault.
	s = newStore(t)
	ingest(m.Config, []byte("not what it begins with"))
	ingest(m.Layers[0], append([]byte("x"), half[:len(half)/2]...))
	if got := ensure(t, s, c.host+"/big:1"); got.Digest != digest {
		t.Fatal("not what was pushed")
	}
	leftovers(t, s)
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

// Of an image that is for other machines nothing is fetched but what says so, be it in an index or not, and nothing is kept.
func TestNothingOfAnotherPlatformIsPulled(t *testing.T) {
	other := "arm64"
	if goruntime.GOARCH == other {
		other = "amd64"
	}
	reg := newRegistry(t)
	pushIndex(t, reg.host+"/multi:1", "linux/"+other)
	single := platformed(t, simple(t, "x"), "linux", other, "")
	imagetest.Push(t, reg.host+"/single:1", single)
	config, err := single.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	reg.requests()
	s := newStore(t)
	for ref, blobs := range map[string]int{"/multi:1": 0, "/single:1": 1} {
		_, err := s.Ensure(t.Context(), Request{Ref: reg.host + ref})
		if text := fmt.Sprint(err); runtime.ReasonOf(err) != runtime.ReasonIncompatible ||
			!strings.Contains(text, "linux/"+goruntime.GOARCH+" is wanted") || !strings.Contains(text, "linux/"+other) {
			t.Errorf("%s: %v", ref, err)
		}
		got := reg.requests()
		if n := count(got, "/blobs/"); n != blobs || n != count(got, "/blobs/"+config.String()) {
			t.Errorf("%s: fetched %q", ref, got)
		}
	}
	if images, err := s.List(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("kept %v, %v", images, err)
	}
}

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
