package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"reconciler/runtime/image/imagetest"
)

func TestRegistryThatNeverDelivers(t *testing.T) {
	reg := newRegistry(t)
	ref := reg.host + "/web:1"
	imagetest.Push(t, ref, simple(t, "x"))
	for name, bend := range map[string]func(http.ResponseWriter, *http.Request){
		"wrong content": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("y", 10_000)) },
		"nothing":       func(http.ResponseWriter, *http.Request) {},
		"server error":  func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) },
		"hangs up":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"goes in circles": func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, q.URL.Path, http.StatusTemporaryRedirect)
		},
		"falls silent": func(w http.ResponseWriter, q *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush() // it is a server's
			<-q.Context().Done()
		},
		"drips": drip,
	} {
		for _, of := range []string{"/blobs/", "/manifests/"} {
			t.Run(name+" in "+strings.Trim(of, "/"), func(t *testing.T) {
				reg.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
					if strings.Contains(q.URL.Path, of) {
						bend(w, q)
						return
					}
					next.ServeHTTP(w, q)
				})
				s := newStore(t)
				s.stall = 100 * time.Millisecond
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // far longer than giving up may take
				defer cancel()
				_, err := s.Ensure(ctx, Request{Ref: ref})
				if err == nil || ctx.Err() != nil {
					t.Fatalf("it was pulled, or never given up: %v", err)
				}
				if _, ok, err := s.Find(ref, ""); ok || err != nil {
					t.Fatalf("a part of it is found: %v", err)
				}
				reg.setBend(nil)
				s.stall = time.Minute
				ensure(t, s, ref) // and when the registry is well again, so is the pull
			})
		}
	}
}

// drip answers byte by byte, so that it is never silent for long.
func drip(w http.ResponseWriter, q *http.Request) {
	w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	for every := time.NewTicker(20 * time.Millisecond); ; {
		if _, err := io.WriteString(w, " "); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush() // it is a server's
		select {
		case <-q.Context().Done():
			return
		case <-every.C:
		}
	}
}

// However many downloads a registry keeps waiting, those from another one go on.
func TestRegistryThatHangsHoldsUpNoOther(t *testing.T) {
	hangs, well := newRegistry(t), newRegistry(t)
	s := newStore(t)
	waiting := make(chan struct{}, 100)
	hangs.setBend(func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if strings.Contains(q.URL.Path, "/blobs/") && q.Method == http.MethodGet {
			waiting <- struct{}{}
			<-q.Context().Done()
			return
		}
		next.ServeHTTP(w, q)
	})
	ctx, cancel := context.WithCancel(t.Context())
	var pulls sync.WaitGroup
	defer pulls.Wait()
	defer cancel()
	for i := range s.opts.Parallel {
		ref := fmt.Sprintf("%s/web:%d", hangs.host, i)
		imagetest.Push(t, ref, simple(t, ref))
		pulls.Go(func() {
			if _, err := s.Ensure(ctx, Request{Ref: ref}); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", ref, err)
			}
		})
	}
	for range s.opts.Parallel {
		<-waiting
	}
	imagetest.Push(t, well.host+"/web:1", simple(t, "well"))
	ensure(t, s, well.host+"/web:1")
}
