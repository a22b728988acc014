package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/reconcile/api"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/runtimetest/leak"
)

// TestSoak does things at random to a server: 1,000 in the long form. In the end what is desired runs, and nothing else. The
// last part kills neither the agent nor the supervisor, and wants neither to have grown by it.
func TestSoak(t *testing.T) {
	random := dice(t)
	s := newServerOnSmallDisk(t)
	soak := newSoak(t, s, random)
	operations := either(40, 1000)
	quiet := operations * 3 / 4 // from here on neither the agent nor the supervisor is killed
	var before load
	for n := range operations {
		if n == quiet {
			before = soak.load()
		}
		soak.step(n, n < quiet)
		if n%25 == 24 {
			soak.calm()
		}
	}
	after := soak.load()
	t.Logf("%d operations; load before and after the quiet quarter: %+v, %+v", operations, before, after)
	// A connection or a timer may just be there; what grows with operations grows by more.
	slack := 5 + operations/100
	for _, grown := range []struct {
		what          string
		before, after int
	}{
		{"goroutines of the agent", before.goroutines, after.goroutines},
		{"descriptors of the agent", before.agentFDs, after.agentFDs},
		{"descriptors of the supervisor", before.supervisorFDs, after.supervisorFDs},
		{"threads of the supervisor", before.supervisorThreads, after.supervisorThreads},
	} {
		if grown.after > grown.before+slack {
			t.Errorf("%s: %d, were %d", grown.what, grown.after, grown.before)
		}
	}
}

// soak is a server to which things happen.
type soak struct {
	*keeper
	random *rand.Rand
	repo   *sourcetest.Repo
	cut    atomic.Bool // the remote is not in reach
	wanted map[string]int
	last   []string // what happened, for who wants to know why
}

func newSoak(t *testing.T, s *server, random *rand.Rand) *soak {
	k := &soak{random: random, wanted: map[string]int{"c0": 0}}
	k.repo = repository(t, sourcetest.Files{"c0.yaml": k.manifest("c0", 0)})
	git := sourcetest.GitHTTP(t, k.repo.Root, sourcetest.HTTPOptions{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !k.cut.Load() {
				next.ServeHTTP(w, r)
				return
			}
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				_ = conn.Close()
			}
		})
	}})
	k.keeper = s.keep("--repo", git.Repo("fleet.git"), "--max-remove", "100%")
	k.calm()
	return k
}

// soakNames are the containers that there may be.
const soakNames = 6

func (k *soak) manifest(name string, n int) string {
	text := busybox(name, "trap 'exit 0' TERM; while true; do echo here; busybox usleep 300000; done",
		fmt.Sprintf("env: {N: %d}", n), "mounts: [{path: /data, volume: {name: "+name+"}}]", "restartBackoff: {initial: 1s, max: 2s}")
	if name == "c1" || name == "c2" {
		text = strings.Replace(text, "network: none", "network: bridge", 1)
	}
	return text
}

// step does one thing.
func (k *soak) step(n int, kill bool) {
	k.t.Helper()
	what := k.random.IntN(12)
	if !kill && (what == 2 || what == 3) {
		what = 0
	}
	name := fmt.Sprintf("c%d", k.random.IntN(soakNames))
	k.last = append(k.last[max(0, len(k.last)-30):], fmt.Sprintf("%d: %d %s", n, what, name))
	switch what {
	case 0, 1: // push a container, new or changed
		k.wanted[name] = n
		k.repo.CommitPush(fmt.Sprint("operation ", n), sourcetest.Files{name + ".yaml": k.manifest(name, n)})
	case 2:
		k.stop(syscall.SIGKILL)
	case 3:
		if pid := k.supervisor().Pid; pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	case 4: // a container's process 1
		if pid := k.rows()[name].Pid; pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	case 5:
		k.do("exec", name, "--", "/bin/busybox", "true")
	case 6:
		k.do("restart", name)
	case 7: // the disk is full, or is not any more
		full := filepath.Join(filepath.Dir(k.state()), "full")
		if err := os.Remove(full); err != nil {
			k.fill(full)
		}
	case 8:
		k.cut.Store(!k.cut.Load())
	case 9:
		if len(k.wanted) > 1 {
			delete(k.wanted, name)
			k.repo.CommitPush(fmt.Sprintf("operation %d\n\nReconciler-Allow: remove", n), sourcetest.Files{name + ".yaml": sourcetest.Removed})
		}
	case 10:
		k.do("image", "prune")
	case 11:
		k.do("sync", "--timeout", "1s")
	}
	k.alive()
}

// fill writes a file until the disk is full.
func (k *soak) fill(path string) {
	k.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		return // it is full already
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 64<<10); ; {
		if _, err := f.Write(block); err != nil {
			return
		}
	}
}

// calm lets everything be as it should, and wants what is desired to run and nothing else.
func (k *soak) calm() {
	k.t.Helper()
	k.cut.Store(false)
	_ = os.Remove(filepath.Join(filepath.Dir(k.state()), "full")) // it need not be
	head := k.repo.Head()
	k.await("the state of "+head+" after "+strings.Join(k.last, ", "), func(rows map[string]report.Row) bool {
		for name, row := range rows {
			if row.Reason == plan.ReasonRolledBack { // somebody killed it before it had proved itself
				k.do("retry", name)
			}
		}
		r := k.do("sync", "--timeout", "10s")
		if r.code != 0 || len(rows) != len(k.wanted) {
			return false
		}
		for name := range k.wanted {
			if rows[name].State != report.StateRunning || rows[name].Health != report.Healthy {
				return false
			}
		}
		return true
	})
	if st := k.status(); st.Applied == nil || st.Applied.Commit != head {
		k.t.Fatalf("applied: %+v, want %s", st.Applied, head)
	}
}

// load is what the processes of a server hold.
type load struct{ goroutines, agentFDs, supervisorFDs, supervisorThreads int }

// load looks at what is held for every container that there may be.
func (k *soak) load() (l load) {
	k.t.Helper()
	files := sourcetest.Files{}
	for i := range soakNames {
		name := fmt.Sprintf("c%d", i)
		if _, ok := k.wanted[name]; !ok {
			k.wanted[name] = 0
			files[name+".yaml"] = k.manifest(name, 0)
		}
	}
	k.repo.CommitPush("all of them", files)
	k.calm()
	pid := k.supervisor().Pid
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err == nil {
		l.supervisorThreads = len(threads)
		l.supervisorFDs, err = leak.FDs(pid)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	metrics := k.metrics()
	value := func(name string) (n int) {
		_, rest, ok := strings.Cut(metrics, "\n"+name+" ")
		if _, err := fmt.Sscan(rest, &n); err != nil || !ok {
			k.t.Fatalf("no metric %s: %v", name, err)
		}
		return n
	}
	l.goroutines, l.agentFDs = value("go_goroutines"), value("process_open_fds")
	return l
}

// metrics asks the agent.
func (k *soak) metrics() string {
	k.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", api.SocketPath(k.run()))
		},
	}, Timeout: 30 * time.Second}
	resp, err := client.Get("http://agent/metrics")
	if err != nil {
		k.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(text)
}
