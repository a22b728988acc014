package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/runtime/image/imagetest"
)

// pullEnv makes of the test binary a process that pulls the image it names to the directory before the space.
const pullEnv = "IMAGE_TEST_PULL"

func TestMain(m *testing.M) {
	if dir, ref, ok := strings.Cut(os.Getenv(pullEnv), " "); ok {
		s, err := Open(Options{Dir: dir})
		if err == nil {
			_, err = s.Ensure(context.Background(), Request{Ref: ref})
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func startPull(t *testing.T, s *Store, ref string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), pullEnv+"="+s.opts.Dir+" "+ref)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// sharing are images of four layers with many files, of which the last is the image's own.
func sharing(t *testing.T, reg *testRegistry, names ...string) []string {
	t.Helper()
	layer := func(name string) v1.Layer {
		var files []file
		for i := range 300 {
			files = append(files, file{Name: fmt.Sprintf("%s/%d", name, i), Body: strings.Repeat(name, 100)})
		}
		return imagetest.Layer(t, imagetest.Tar(files...))
	}
	shared := []v1.Layer{layer("a"), layer("b"), layer("c")}
	var refs []string
	for _, name := range names {
		ref := reg.host + "/" + name + ":1"
		imagetest.Push(t, ref, imagetest.Image(t, v1.Config{}, append(shared[:3:3], layer(name))...))
		refs = append(refs, ref)
	}
	reg.requests()
	return refs
}

// wholeLayers fails for a layer with a final name that has not all its files.
func wholeLayers(t *testing.T, s *Store) {
	t.Helper()
	entries, err := os.ReadDir(s.layers)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "tmp" {
			continue
		}
		files, err := filepath.Glob(filepath.Join(s.layers, e.Name(), "fs", "*", "*"))
		if err != nil || len(files) != 300 {
			t.Errorf("a layer of %d files was left: %v", len(files), err)
		}
	}
}

// A process that pulls is killed at each of its requests, and whenever it begins to unpack a layer.
func TestKilledPullsLeaveNothingHalf(t *testing.T) {
	reg := newRegistry(t)
	s := newStore(t)
	ref := sharing(t, reg, "web")[0]
	const requests = 7 // ping, manifest, configuration and four layers
	for at := int64(1); at <= requests; at++ {
		var seen atomic.Int64
		started := make(chan *os.Process, 1)
		reg.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			if seen.Add(1) == at {
				_ = (<-started).Kill()
				return
			}
			next.ServeHTTP(w, q)
		})
		cmd := startPull(t, s, ref)
		started <- cmd.Process
		_ = cmd.Wait()
		wholeLayers(t, s)
	}
	reg.setBend(nil)
	if err := os.RemoveAll(s.layers); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		tmp := filepath.Join(s.layers, "tmp")
		if err := os.MkdirAll(tmp, 0o700); err != nil {
			t.Fatal(err)
		}
		watch, err := fsnotify.NewWatcher()
		if err != nil {
			t.Fatal(err)
		}
		if err := watch.Add(tmp); err != nil {
			t.Fatal(err)
		}
		cmd := startPull(t, s, ref)
		for e := range watch.Events {
			if e.Has(fsnotify.Create) {
				break
			}
		}
		if err := errors.Join(cmd.Process.Kill(), watch.Close()); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		wholeLayers(t, s)
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 1 {
			t.Errorf("what killed pulls left grows: %v %v", left, err)
		}
	}
	if err := startPull(t, s, ref).Wait(); err != nil {
		t.Fatal(err)
	}
	wholeLayers(t, s)
	leftovers(t, s)
	if layers, blobs := stored(t, s); layers != 4 || blobs != 6 {
		t.Errorf("%d layers and %d blobs", layers, blobs)
	}
}

func TestProcessesThatPullWhatTheyShare(t *testing.T) {
	reg := newRegistry(t)
	s := newStore(t)
	refs := sharing(t, reg, "one", "two", "three")
	// Nobody gets a blob before all have asked for one.
	var waiting atomic.Int64
	all := make(chan struct{})
	reg.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if strings.Contains(q.URL.Path, "/manifests/") {
			if waiting.Add(1) == int64(len(refs)) {
				close(all)
			}
			select {
			case <-all:
			case <-time.After(time.Minute):
			}
		}
		next.ServeHTTP(w, q)
	})
	var pulls []*exec.Cmd
	for _, ref := range refs {
		pulls = append(pulls, startPull(t, s, ref))
	}
	for _, cmd := range pulls {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	if n := count(reg.requests(), "/blobs/"); n != 9 {
		t.Errorf("%d blobs were downloaded, want each of 9 once", n)
	}
	wholeLayers(t, s)
	leftovers(t, s)
	for _, ref := range refs {
		if _, ok, err := s.Find(ref, ""); !ok || err != nil {
			t.Errorf("%s is not whole: %v", ref, err)
		}
	}
	if layers, _ := stored(t, s); layers != 6 {
		t.Errorf("%d layers", layers)
	}
}
