package image

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"reconciler/runtime"
	"reconciler/runtime/image/imagetest"
)

func newStore(t testing.TB, change ...func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: t.TempDir()}
	for _, c := range change {
		c(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	s.pause = time.Millisecond
	return s
}

// testRegistry is a registry in this process that counts and may bend what is asked.
type testRegistry struct {
	host string
	mu   sync.Mutex
	got  []string // "GET /v2/… bytes=…"
	bend func(http.ResponseWriter, *http.Request, http.Handler)
}

func newRegistry(t testing.TB) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	inner := registry.New(registry.Logger(quietLog()))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		r.got = append(r.got, strings.TrimSpace(q.Method+" "+q.URL.Path+" "+q.Header.Get("Range")))
		bend := r.bend
		r.mu.Unlock()
		if bend != nil {
			bend(w, q, inner)
			return
		}
		inner.ServeHTTP(w, q)
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

func (r *testRegistry) setBend(f func(http.ResponseWriter, *http.Request, http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bend = f
}

// requests returns and forgets what was asked.
func (r *testRegistry) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.got
	r.got = nil
	return got
}

func count(got []string, part string) int {
	n := 0
	for _, g := range got {
		if strings.Contains(g, part) {
			n++
		}
	}
	return n
}

func ensure(t testing.TB, s *Store, ref string) Image {
	t.Helper()
	img, err := s.Ensure(t.Context(), Request{Ref: ref})
	if err != nil {
		t.Fatalf("%v (hint: %s)", err, runtime.HintOf(err))
	}
	return img
}

func digestOf(t testing.TB, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func randomImage(t testing.TB, size int64, layers int) v1.Image {
	t.Helper()
	img, err := random.Image(size, int64(layers))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// simple is an image with one file of a text.
func simple(t testing.TB, text string) v1.Image {
	t.Helper()
	return imagetest.Image(t, v1.Config{}, imagetest.Layer(t, imagetest.Tar(imagetest.File{Name: "hello", Body: text})))
}

func read(t testing.TB, img Image, name string) string {
	t.Helper()
	b, err := img.ReadFile(name, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPull(t *testing.T) {
	reg := newRegistry(t)
	img := imagetest.Busybox(t, v1.Config{User: "app", WorkingDir: "/home/app", StopSignal: "SIGUSR1"},
		imagetest.File{Name: "etc/motd", Body: "hello"})
	digest := imagetest.Push(t, reg.host+"/shop/web:1", img)
	s := newStore(t)
	reg.requests()

	got := ensure(t, s, reg.host+"/shop/web:1")
	if got.Digest != digest || len(got.Layers) != 2 || got.Config.User != "app" || got.Config.StopSignal != "SIGUSR1" {
		t.Fatalf("pulled %+v, want digest %s and two layers", got, digest)
	}
	if read(t, got, "/etc/motd") != "hello" {
		t.Fatal("the top layer's file is not there")
	}
	if info, err := os.Stat(s.layers); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("layers are open to others: %v %v", info.Mode(), err)
	}
	if n := count(reg.requests(), "/blobs/"); n != 3 {
		t.Fatalf("%d blobs were asked for, want 3", n)
	}
	again := ensure(t, s, reg.host+"/shop/web:1")
	byDigest, err := s.Ensure(t.Context(), Request{Ref: reg.host + "/shop/web:1", Digest: digest, Policy: runtime.PullAlways})
	if err != nil || byDigest.Digest != digest || again.Digest != digest {
		t.Fatalf("found %v and %v: %v", again.Digest, byDigest.Digest, err)
	}
	if asked := reg.requests(); len(asked) > 0 {
		t.Fatalf("what is here was asked for again: %v", asked)
	}
	pinned := ensure(t, newStore(t), reg.host+"/shop/web@"+digest)
	if pinned.Digest != digest {
		t.Fatalf("pulled %s by digest, want %s", pinned.Digest, digest)
	}
	found, ok, err := s.Find(reg.host+"/shop/web:1", "")
	if err != nil || !ok || found.Digest != digest {
		t.Fatalf("Find: %v %v %v", found.Digest, ok, err)
	}
	if _, ok, err := s.Find(reg.host+"/shop/other:1", ""); ok || err != nil {
		t.Fatalf("Find found what is not there: %v", err)
	}
}

func TestPullPolicies(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:latest"
	one := imagetest.Push(t, ref, simple(t, "one"))
	s := newStore(t)
	if _, err := s.Ensure(t.Context(), Request{Ref: ref, Policy: runtime.PullNever}); err == nil || runtime.IsPermanent(err) || runtime.ReasonOf(err) != runtime.ReasonErrImagePull {
		t.Fatalf("Never pulled, or failed for ever: %v", err)
	}
	ensure(t, s, ref)
	two := imagetest.Push(t, ref, simple(t, "two"))
	if got := ensure(t, s, ref); got.Digest != one {
		t.Fatal("IfNotPresent looked for a newer image")
	}
	if d, err := s.Resolve(t.Context(), ref, nil); err != nil || d != two {
		t.Fatalf("Resolve: %s, %v, want %s", d, err, two)
	}
	got, err := s.Ensure(t.Context(), Request{Ref: ref, Policy: runtime.PullAlways})
	if err != nil || got.Digest != two || read(t, got, "hello") != "two" {
		t.Fatalf("Always: %v %v", got.Digest, err)
	}
	// The older one is still there for a rollback, without its name, and a pin to it does not move the name.
	old, err := s.Ensure(t.Context(), Request{Ref: ref, Digest: one, Policy: runtime.PullNever})
	if err != nil || read(t, old, "hello") != "one" {
		t.Fatalf("the old image is gone: %v", err)
	}
	if got := ensure(t, s, ref); got.Digest != two {
		t.Fatal("a pin to an older digest moved the name")
	}
}

func TestConcurrentPullsShareTheWork(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, randomImage(t, 100_000, 4))
	s := newStore(t)
	other, err := Open(s.opts) // as another process would
	if err != nil {
		t.Fatal(err)
	}
	reg.requests()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			store := s
			if i%2 == 1 {
				store = other
			}
			if _, err := store.Ensure(context.Background(), Request{Ref: ref, Progress: func(runtime.Progress) {}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(reg.requests(), "/blobs/"); n != 5 {
		t.Fatalf("%d blobs were downloaded, want each of 5 once", n)
	}
	leftovers(t, s)
}

// leftovers fails for anything half made.
func leftovers(t testing.TB, s *Store) {
	t.Helper()
	for _, dir := range []string{filepath.Join(s.images, "tmp"), filepath.Join(s.images, "leases"), filepath.Join(s.images, "ingest"), filepath.Join(s.layers, "tmp")} {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 0 {
			t.Errorf("%s holds %v: %v", dir, entries, err)
		}
	}
}

func TestOneWhoGivesUpDoesNotFailTheOthers(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, simple(t, "x"))
	s := newStore(t)
	reached, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	reg.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if strings.Contains(q.URL.Path, "/blobs/") {
			once.Do(func() { close(reached) })
			<-proceed
		}
		next.ServeHTTP(w, q)
	})
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.Ensure(ctx, Request{Ref: ref})
		first <- err
	}()
	<-reached
	go func() {
		_, err := s.Ensure(t.Context(), Request{Ref: ref})
		second <- err
	}()
	for { // until the second one waits for the same work
		s.pulls.mu.Lock()
		waiting := 0
		for _, f := range s.pulls.calls {
			waiting += f.waiters
		}
		s.pulls.mu.Unlock()
		if waiting == 2 {
			break
		}
		goruntime.Gosched()
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Fatalf("the first one: %v", err)
	}
	close(proceed)
	if err := <-second; err != nil {
		t.Fatalf("the second one failed with the first: %v", err)
	}
}

func TestOpenSweepsWhatTheDeadLeft(t *testing.T) {
	s := newStore(t)
	dead := filepath.Join(s.layers, "tmp", "dead")
	if err := os.MkdirAll(filepath.Join(dead, "layer/fs"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.images, 0o700); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(s.images, ".index.json.123.tmp")
	if err := os.WriteFile(torn, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	alive, err := s.newTemp(filepath.Join(s.layers, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.remove()
	l, err := s.newLease()
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	if _, err := Open(s.opts); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{dead, torn} {
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what a dead process left is still there: %v", err)
		}
	}
	if _, err := os.Stat(alive.dir); err != nil {
		t.Errorf("what a living process makes was swept: %v", err)
	}
	if _, err := os.Stat(l.f.Name()); err != nil {
		t.Errorf("a living lease was swept: %v", err)
	}
}
