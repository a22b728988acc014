package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// TestUpdatesUnderLoad updates a service again and again while clients ask it: no request fails, and no connection that is kept
// is broken before the grace period of its container is over.
func TestUpdatesUnderLoad(t *testing.T) {
	const grace = 3 * time.Second
	updates := 3
	if *chaos {
		updates = 100
	}
	s := newServer(t)
	binary := filepath.Join(s.dir, "bin", "service")
	build := exec.Command("go", "build", "-o", binary, "./testdata/service")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, buildErr := build.CombinedOutput(); buildErr != nil {
		t.Fatalf("%v\n%s", buildErr, out)
	}
	port, echo := freePort(t), freePort(t)
	version := func(n int) sourcetest.Files {
		return sourcetest.Files{"web.yaml": fmt.Sprintf(`apiVersion: reconciler/v1
kind: Container
metadata: {name: web}
spec:
  capture: {paths: [%s]}
  command: [%[1]s]
  env: {VERSION: v%d}
  ports: [{name: http, containerPort: 8080, hostPort: %d}, {name: echo, containerPort: 8081, hostPort: %d}]
  readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, timeoutSeconds: 30}
  terminationGracePeriodSeconds: %d
  strategy: {progressDeadlineSeconds: 600}
`, binary, n, port, echo, int(grace.Seconds()))}
	}
	repo := repository(t, version(0))
	s.start("--repo", repo.Bare, "--allow-capture", s.dir)
	s.must("sync", "--timeout", patience)

	load := newTraffic(t, port, echo, grace)
	for n := 1; n <= updates; n++ {
		repo.CommitPush("update", version(n))
		if err := load.await(fmt.Sprintf("v%d", n)); err != nil {
			t.Fatal(err)
		}
		s.must("sync", "--timeout", patience)
	}
	load.end()
	if web := s.rows()["web"]; web.Health != report.Healthy || len(s.instances("web")) != 1 {
		t.Errorf("in the end: %+v", web)
	}
	asked, broken := load.asked.Load(), load.broken.Load()
	if asked < int64(updates) || broken == 0 {
		t.Errorf("%d requests, %d kept connections broken: too few to tell", asked, broken)
	}
	t.Logf("%d updates, %d requests, %d kept connections ended after their grace period", updates, asked, broken)
}

// traffic is a steady load of new connections and some that are kept.
type traffic struct {
	t             *testing.T
	stop          context.CancelFunc
	parts         sync.WaitGroup
	asked, broken atomic.Int64
	seen          chan string // versions, the newest alone
}

func newTraffic(t *testing.T, port, echo int, grace time.Duration) *traffic {
	ctx, stop := context.WithCancel(t.Context())
	l := &traffic{t: t, stop: stop, seen: make(chan string, 1)}
	t.Cleanup(l.end)
	for range 4 {
		l.parts.Go(func() { l.ask(ctx, port) })
	}
	for range 20 {
		l.parts.Go(func() { l.keep(ctx, echo, grace) })
	}
	return l
}

func (l *traffic) end() {
	l.stop()
	l.parts.Wait()
}

// ask opens a new connection fifty times a second.
func (l *traffic) ask(ctx context.Context, port int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		version, err := get(l.t, port) //nolint:contextcheck // what was asked is answered, also in the end
		if err != nil {
			l.t.Errorf("a request failed: %v", err)
		}
		l.asked.Add(1)
		select {
		case <-l.seen:
		default:
		}
		select {
		case l.seen <- version:
		default:
		}
		<-tick.C
	}
}

// keep has one connection after the other, each for as long as it is let.
func (l *traffic) keep(ctx context.Context, port int, grace time.Duration) {
	for ctx.Err() == nil {
		began := time.Now()
		err := talk(ctx, port)
		if ctx.Err() != nil {
			return
		}
		l.broken.Add(1)
		if lived := time.Since(began); lived < grace {
			l.t.Errorf("a connection was broken after %v: %v", lived, err)
		}
	}
}

// talk says something and listens until the connection breaks.
func talk(ctx context.Context, port int) error {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	defer func() { _ = conn.Close() }()
	lines := bufio.NewReader(conn)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err = conn.Write([]byte("still there\n")); err != nil {
			return err
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, "still there") {
			return errors.New("another answer: " + line)
		}
		<-tick.C
	}
}

// await waits until requests are answered by a version.
func (l *traffic) await(version string) error {
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for {
		select {
		case got := <-l.seen:
			if got == version {
				return nil
			}
		case <-limit.C:
			return errors.New("no request was answered by " + version)
		}
	}
}
