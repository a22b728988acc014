package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/image/imagetest"
)

// registryTroubles are what a registry answers in place of a part of an image.
var registryTroubles = []struct {
	name, part string
	hangs      bool
	answer     http.HandlerFunc
}{
	{"error", "/manifests/", false, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "\x1b[2Jdown", http.StatusInternalServerError)
	}},
	{"gone", "/manifests/", false, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"errors":[{"code":"X","message":"\u001b[31mgone\nfor good"}]}`, http.StatusNotFound)
	}},
	{"garbage", "/manifests/", false, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "\x1b[31m<html>") }},
	{"circle", "/manifests/", false, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
	}},
	{"cut", "/blobs/", false, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	{"rotten", "/blobs/", false, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "\x1b[31mrotten") }},
	{"silent", "/manifests/", true, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
	{"stuck", "/blobs/", true, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // it is a server's
		<-r.Context().Done()
	}},
	{"slow", "/blobs/", true, func(w http.ResponseWriter, r *http.Request) {
		for every := time.NewTicker(time.Second); ; {
			if _, err := io.WriteString(w, "x"); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush() // it is a server's
			select {
			case <-r.Context().Done():
				return
			case <-every.C:
			}
		}
	}},
}

// Whatever a registry does, what runs goes on, no other container waits, and each row says why and when the next try is;
// and when it is well again everything comes to run.
func TestRegistryThatMisbehaves(t *testing.T) {
	s := newServer(t)
	var well atomic.Bool
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, tt := range registryTroubles {
			if !well.Load() && r.Method != http.MethodHead && strings.HasPrefix(r.URL.Path, "/v2/"+tt.name+"/") && strings.Contains(r.URL.Path, tt.part) {
				tt.answer(w, r)
				return
			}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	host := strings.TrimPrefix(server.URL, "http://")
	pulled := func(name, image string) string {
		captured := busybox(name, forever)
		return strings.Replace(captured, "capture: {paths: [/bin/busybox]}", `image: "`+host+"/"+image+`:1"`, 1)
	}
	good, troubled := sourcetest.Files{}, sourcetest.Files{"new.yaml": pulled("new", "new")}
	well.Store(true)
	imagetest.Push(t, host+"/new:1", imagetest.Busybox(t, v1.Config{}))
	for _, tt := range registryTroubles {
		// An image of its own: what another one brought here is not asked for again.
		imagetest.Push(t, host+"/"+tt.name+":1", imagetest.Busybox(t, v1.Config{}, imagetest.File{Name: "name", Body: tt.name}))
		file := tt.name + ".yaml"
		good[file] = busybox(tt.name, forever)
		troubled[file] = pulled(tt.name, tt.name)
	}
	well.Store(false)
	repo := repository(t, good)
	s.start("--repo", repo.Bare, "--max-unavailable", "100%")
	s.must("sync", "--timeout", patience)
	before := s.rows()
	repo.CommitPush("every image is another one", troubled)
	s.awaitEvent([]string{"new"}, "Done", "create")
	for _, tt := range registryTroubles {
		if !tt.hangs {
			s.awaitEvent([]string{tt.name}, "Failed", "replace")
		}
	}
	rows := s.rows()
	if rows["new"].State != "Running" {
		t.Errorf("what the registry serves does not run: %+v", rows["new"])
	}
	for _, tt := range registryTroubles {
		row := rows[tt.name]
		if row.Pid != before[tt.name].Pid || row.State != "Running" || row.Restarts != 0 {
			t.Errorf("%s: what ran was touched: %+v", tt.name, row)
		}
		if strings.ContainsFunc(row.Message, unicode.IsControl) {
			t.Errorf("%s: raw control characters in %q", tt.name, row.Message)
		}
		if !tt.hangs && (row.Health != report.Degraded || !strings.Contains(row.Message, host+"/"+tt.name+":1") || row.NextRetryAt == nil && row.Reason != "InvalidImage") {
			t.Errorf("%s: it is not said what is wrong and when the next try is: %+v", tt.name, row)
		}
		if tt.hangs && row.Health == report.Degraded {
			t.Errorf("%s: it is given up before its time: %+v", tt.name, row)
		}
	}
	well.Store(true)
	server.CloseClientConnections()
	for _, tt := range registryTroubles {
		s.must("retry", tt.name)
	}
	for range 5 { // nine containers take their time on a slow machine
		if s.do("sync", "--timeout", patience).code == 0 {
			break
		}
	}
	for name, row := range s.rows() {
		if row.Revision != repo.Head() || row.State != "Running" {
			t.Errorf("%s after the trouble: %+v", name, row)
		}
	}
}
