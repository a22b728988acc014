package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// memSource is a repository in memory: a list of commits, the last of which is the branch.
type memSource struct {
	mu      sync.Mutex
	commits []memCommit
	err     error         // of Fetch
	lost    error         // of Descends
	hang    chan struct{} // Fetch waits for it
	hints   chan struct{}
	fetches int
}

type memCommit struct {
	rev    manifest.Revision
	tree   fstest.MapFS
	parent string
}

func (s *memSource) push(parent string, files map[string]string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	commit := fmt.Sprintf("%040x", len(s.commits)+1)
	tree := fstest.MapFS{}
	for name, content := range files {
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	s.commits = append(s.commits, memCommit{
		rev:    manifest.Revision{Commit: commit, Author: "Ada <ada@example.com>", Subject: fmt.Sprintf("change %d", len(s.commits)+1)},
		tree:   tree,
		parent: parent,
	})
	select {
	case s.hints <- struct{}{}:
	default:
	}
	return commit
}

// back makes the branch what it was one commit before.
func (s *memSource) back() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commits = append(s.commits, s.commits[len(s.commits)-2])
	s.hints <- struct{}{}
}

func (s *memSource) head() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.commits) == 0 {
		return ""
	}
	return s.commits[len(s.commits)-1].rev.Commit
}

func (s *memSource) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// stall makes Fetch and Descends wait for answer; nil: not any more.
func (s *memSource) stall(answer chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hang = answer
}

// looks returns how often Fetch was called.
func (s *memSource) looks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches
}

func (s *memSource) Fetch(ctx context.Context) (manifest.Revision, error) {
	s.mu.Lock()
	s.fetches++
	hang := s.hang
	s.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return manifest.Revision{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return manifest.Revision{}, s.err
	}
	if len(s.commits) == 0 {
		return manifest.Revision{}, errors.New("the repository is empty")
	}
	return s.commits[len(s.commits)-1].rev, nil
}

func (s *memSource) Tree(_ context.Context, commit string) (fs.FS, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.commits {
		if c.rev.Commit == commit {
			return c.tree, nil
		}
	}
	return nil, errors.New("no such commit")
}

func (s *memSource) Descends(_ context.Context, ancestor, commit string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return false, s.lost
	}
	for at := commit; at != ""; {
		if at == ancestor {
			return true, nil
		}
		i := slices.IndexFunc(s.commits, func(c memCommit) bool { return c.rev.Commit == at })
		if i < 0 {
			break
		}
		at = s.commits[i].parent
	}
	return false, nil
}

func (s *memSource) Watch(context.Context) (<-chan struct{}, error) { return s.hints, nil }

// world is an agent with everything around it in memory, but for its state directory.
type world struct {
	t      testing.TB
	dir    string
	src    *memSource
	rt     *fake.Runtime
	cfg    Config
	loads  atomic.Int64
	agent  *Agent
	cancel context.CancelFunc
	ended  chan error
}

func newWorld(t testing.TB, dir string) *world {
	w := &world{t: t, dir: dir, src: &memSource{hints: make(chan struct{}, 1)}, rt: fake.New(fake.Options{})}
	began := time.Now()
	w.cfg = Config{
		Node: "edge-1", Instance: "test", StateDir: dir, Source: w.src, Runtime: w.rt,
		Policy: plan.Policy{MaxRemove: 50, AllowSecretPath: []string{"/"}},
		Facts:  plan.Facts{Architecture: "amd64", Kernel: "6.1.0"},
		Starts: 4, MaxUnavailable: 25,
		// Files change outside of a bubble of virtual time: only what is seen at a poll is tested there.
		watchDirs: func(context.Context, []string, func()) error { return errors.New("cannot be watched") },
		bootTime:  func() time.Duration { return time.Since(began) }, bootID: "boot-1",
		watchClock: func(context.Context) (<-chan struct{}, error) { return nil, nil },
		BuiltAt:    time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), // the clock of a bubble begins in 2000
		Output: func(_ context.Context, id runtime.ID) (string, error) {
			return strings.Join(w.rt.Output(id), "\n"), nil
		},
		Load: func(tree fs.FS, rev manifest.Revision) (manifest.Set, error) {
			w.loads.Add(1)
			return manifest.Load(tree, rev, manifest.Node{Name: w.cfg.Node})
		},
	}
	if os.Getenv("RECONCILER_TEST_LOG") != "" {
		w.cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return w
}

// push commits files on top of the branch.
func (w *world) push(files map[string]string) string { return w.src.push(w.src.head(), files) }

func (w *world) start() {
	w.t.Helper()
	agent, err := New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.agent, w.cancel, w.ended = agent, cancel, make(chan error, 1)
	go func() { w.ended <- agent.Run(ctx) }()
}

func (w *world) stop() {
	w.t.Helper()
	w.cancel()
	if err := <-w.ended; err != nil {
		w.t.Fatalf("Run: %v", err)
	}
}

// status returns the status once nothing moves any more, as of now.
func (w *world) status() report.Status {
	w.t.Helper()
	return report.StatusOf(w.view())
}

func (w *world) view() report.View {
	w.t.Helper()
	synctest.Wait()
	v, err := w.agent.View(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) row(name string) report.Row {
	w.t.Helper()
	for _, r := range report.Rows(w.view(), false) {
		if r.Name == name {
			return r
		}
	}
	w.t.Fatalf("no row for %s", name)
	return report.Row{}
}

func (w *world) running() []string {
	w.t.Helper()
	synctest.Wait()
	list, err := w.rt.List(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, s := range list {
		if s.State == runtime.StateRunning {
			names = append(names, s.Spec.Name.Name)
		}
	}
	return names
}

func (w *world) wantRunning(want ...string) {
	w.t.Helper()
	if got := w.running(); !slices.Equal(got, want) {
		w.t.Fatalf("running: %v, want %v", got, want)
	}
}

func (w *world) idOf(name string) runtime.ID { return runtime.ID(w.row(name).ID) }

func (w *world) history() []journal.Entry {
	w.t.Helper()
	synctest.Wait()
	records, err := w.agent.Records()
	if err != nil {
		w.t.Fatal(err)
	}
	return journal.Fold(records)
}

// after lets virtual time pass.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func rtName(name string) runtime.Name {
	return runtime.Name{Namespace: manifest.DefaultNamespace, Name: name}
}

// containers makes a file with one plain container for each name, with extra lines below spec.
func containers(extra string, names ...string) map[string]string {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "---\napiVersion: reconciler/v1\nkind: Container\nmetadata: {name: %s}\nspec:\n  image: registry.example.com/%s:1\n  network: none\n%s", n, n, extra)
	}
	return map[string]string{"all.yaml": b.String()}
}

func merge(files ...map[string]string) map[string]string {
	out := map[string]string{}
	for i, m := range files {
		for name, content := range m {
			out[fmt.Sprintf("%d-%s", i, name)] = content
		}
	}
	return out
}
