package reconcile

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// eventsOf returns what the journal tells of a name.
func (w *world) eventsOf(name string) []report.Event {
	w.t.Helper()
	records, err := w.agent.Records()
	if err != nil {
		w.t.Fatal(err)
	}
	return report.EventsOf(records, &manifest.Name{Namespace: manifest.DefaultNamespace, Name: name})
}

func TestIgnoredStopSignalIsToldOf(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		stubborn := "  command: [stubborn]\n  terminationGracePeriodSeconds: 30\n"
		w.push(merge(containers(stubborn, "deaf"), containers(stubborn+"  init: true\n", "child"), containers("", "good")))
		w.start()
		defer w.stop()
		w.wantRunning("child", "deaf", "good")
		w.push(merge(containers(stubborn+"  env: {A: b}\n", "deaf"), containers(stubborn+"  init: true\n  env: {A: b}\n", "child"), containers("  env: {A: b}\n", "good")))
		after(2 * time.Minute)
		w.wantRunning("child", "deaf", "good")
		for name, want := range map[string]string{"deaf": "`init: true` cures that", "child": "grace period of 30s", "good": ""} {
			told := ""
			for _, e := range w.eventsOf(name) {
				if e.Reason == "StopSignalIgnored" {
					told += e.Message
				}
			}
			if want == "" && told != "" || !strings.Contains(told, want) || name == "child" && strings.Contains(told, "init: true") {
				t.Errorf("%s: %q", name, told)
			}
		}
	})
}

// A container with a new name is a replacement: what ran before goes when the image of the new one is here.
func TestRenameStopsNothingBeforeItsImageIsHere(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		old := "---\napiVersion: reconciler/v1\nkind: Container\nmetadata: {name: old}\nspec: {image: \"registry.example.com/x:1\", network: none}\n"
		w.push(map[string]string{"a.yaml": old})
		w.start()
		defer w.stop()
		w.wantRunning("old")
		resume := w.rt.Pause(fake.OpPrepare, rtName("new"))
		w.push(map[string]string{"a.yaml": strings.Replace(old, "name: old", "name: new", 1)})
		w.wantRunning("old")
		after(time.Hour)
		w.wantRunning("old")
		if r := w.row("new"); r.State != report.StatePulling {
			t.Errorf("new is %s", r.State)
		}
		resume()
		w.wantRunning("new")
		if s := w.status(); s.Sync != report.Synced || s.Health != report.Healthy {
			t.Errorf("%+v", s)
		}
	})
}

// Where the new one cannot be made, the one with the old name is kept, and started again when it crashes.
func TestRenamedIsKeptAlive(t *testing.T) {
	run(t, func(_ *testing.T, w *world) {
		old := "---\napiVersion: reconciler/v1\nkind: Container\nmetadata: {name: old}\nspec: {image: \"registry.example.com/x:1\", network: none}\n"
		w.push(map[string]string{"a.yaml": old})
		w.start()
		defer w.stop()
		w.wantRunning("old")
		w.rt.Fail(fake.OpPrepare, rtName("new"), -1, &runtime.Error{Op: "pull", Err: os.ErrDeadlineExceeded, Reason: runtime.ReasonErrImagePull})
		w.push(map[string]string{"a.yaml": strings.Replace(old, "name: old", "name: new", 1)})
		w.wantRunning("old")
		for range 3 {
			w.rt.Kill(w.idOf("old"))
			after(2 * time.Minute)
			w.wantRunning("old")
		}
		w.rt.Heal(rtName("new"))
		after(10 * time.Minute)
		w.wantRunning("new")
	})
}

// Real files, a real clock, no poll: a changed secret is seen when it changes, also in a directory that was swapped.
func TestChangedSecretIsSeenAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	write := func(dir, content string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(dir, "one")
	w := newWorld(t, t.TempDir())
	w.cfg.Interval = time.Hour
	files := containers("  mounts: [{path: /run/secrets/s, secret: s}]\n", "web")
	files["secret.yaml"] = "apiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: s}\nspec: {fromDirectory: " + dir + "}\n"
	w.push(files)
	watching := make(chan struct{}, 8)
	w.cfg.watchDirs = func(ctx context.Context, dirs []string, changed func()) error {
		return watchDirs(ctx, dirs, func() { changed(); watching <- struct{}{} })
	}
	w.start()
	defer w.stop()
	<-w.agent.Ready()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, events, err := w.agent.Follow(ctx)
	if err != nil {
		t.Fatal(err)
	}
	await := func(what string) {
		t.Helper()
		for e := range events {
			if e.Reason == "Done" && strings.Contains(e.Message, what) {
				return
			}
		}
		t.Fatalf("no %s", what)
	}
	if r, err := w.agent.Sync(ctx); err != nil || r.Outcome != SyncConverged {
		t.Fatal(r, err)
	}
	<-watching
	write(dir, "two, longer")
	await("replace")
	write(dir+".next", "three, longer still")
	for len(watching) > 0 {
		<-watching
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	<-watching // it was seen that nothing is there
	if err := os.Rename(dir+".next", dir); err != nil {
		t.Fatal(err)
	}
	await("replace")
	write(dir, "four")
	await("replace")
}

// What was stopped for an update does not stay down because the agent is told to stop in the middle of it; what has only
// been begun ends at once.
func TestStopFinishesWhatItStopped(t *testing.T) {
	for _, op := range []fake.Op{fake.OpStop, fake.OpRemove, fake.OpCreate, fake.OpStart} {
		t.Run(string(op), func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				w.push(containers("", "web"))
				w.start()
				w.wantRunning("web")
				release := w.rt.Pause(op, rtName("web"))
				hangs := w.rt.Pause(fake.OpPrepare, rtName("hangs"))
				defer hangs()
				last := w.push(containers("  env: {A: b}\n", "hangs", "web"))
				synctest.Wait()
				time.AfterFunc(time.Second, release)
				w.stop()
				list, err := w.rt.List(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				serving := list[len(list)-1] // what it took the place of is kept until it has proved itself
				if serving.State != runtime.StateRunning || serving.Spec.Revision != last || !serving.Serving || len(list) > 2 {
					for _, o := range list {
						t.Errorf("%s is %s, made from %s", o.ID, o.State, o.Spec.Revision)
					}
				}
			})
		})
	}
	run(t, func(t *testing.T, w *world) {
		w.rt.Pause(fake.OpCreate, rtName("web")) // for ever
		w.push(containers("", "web"))
		w.start()
		synctest.Wait()
		told := time.Now()
		w.stop()
		if took := time.Since(told); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}
