package reconcile

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

func TestRestartVerb(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		before := w.row("web")
		if err := w.agent.Restart(t.Context(), before.FullName()); err != nil {
			t.Fatal(err)
		}
		now := w.row("web")
		if now.Pid == before.Pid || now.ID != before.ID || now.State != report.StateRunning {
			t.Errorf("before %+v, now %+v", before, now)
		}
		after(time.Hour)
		if again := w.row("web"); again.Pid != now.Pid {
			t.Error("restarted more than once")
		}
		var missing *NotFoundError
		if err := w.agent.Restart(t.Context(), before.FullName()); err != nil {
			t.Fatal(err)
		}
		other := before.FullName()
		other.Name = "nothing"
		if err := w.agent.Restart(t.Context(), other); !errors.As(err, &missing) {
			t.Errorf("restart of nothing: %v", err)
		}
	})
}

func TestSecondAgentIsRefused(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		second, err := New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		var locked *journal.LockedError
		if err := second.Run(context.Background()); !errors.As(err, &locked) || locked.Pid == 0 {
			t.Errorf("second agent: %v", err)
		}
	})
}

func TestSyncOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "db", "web"))
		agent, err := New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		r, err := agent.SyncOnce(t.Context())
		if err != nil || r.Outcome != SyncConverged || r.Revision != w.src.head() {
			t.Fatalf("%+v, %v", r, err)
		}
		w.wantRunning("db", "web")
		w.rt.Pause(fake.OpPrepare, rtName("new"))
		w.push(containers("", "db", "new", "web"))
		agent, err = New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if r, err = agent.SyncOnce(ctx); err != nil || r.Outcome != SyncTimeout {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

func TestDownKeepsNothingAlive(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "db", "web"))
		w.start()
		w.wantRunning("db", "web")
		release := w.rt.Pause(fake.OpPrepare, rtName("new"))
		defer release()
		w.push(containers("", "db", "new", "web"))
		synctest.Wait()
		if err := w.agent.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, o := range w.view().Observed {
			if err := w.rt.Remove(t.Context(), o.ID); err != nil {
				t.Fatal(err)
			}
		}
		after(time.Hour)
		w.wantRunning()
		w.stop()
		w.start()
		defer w.stop()
		w.wantRunning()
		if s := w.status(); s.Sync != report.Suspended || !strings.Contains(s.Message, "resume") {
			t.Errorf("status %+v", s)
		}
		w.rt.Heal(rtName("new"))
		if err := w.agent.Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantRunning("db", "web")
	})
}

func TestSyncSaysThatTheContainersCannotBeListed(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.rt.Fail(fake.OpList, runtime.Name{}, -1, errors.New("the supervisor does not answer"))
		w.start()
		defer w.stop()
		<-w.agent.Ready()
		r, err := w.agent.Sync(t.Context())
		if err != nil || r.Outcome != SyncFailed || !strings.Contains(r.Message, "does not answer") {
			t.Errorf("%+v, %v", r, err)
		}
		w.rt.Heal(runtime.Name{})
		after(time.Minute)
		w.wantRunning("web")
	})
}

// Without an agent a plan is the same as with one: also of a changed secret, and of a commit that a guard blocks.
func TestPreviewSaysWhatTheAgentWouldDo(t *testing.T) {
	secrets := t.TempDir()
	run(t, func(t *testing.T, w *world) {
		write := func(s string) {
			if err := os.WriteFile(filepath.Join(secrets, "token"), []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("one")
		files := containers("  mounts: [{path: /run/secrets/s, secret: s}]\n", "web")
		files["secret.yaml"] = "apiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: s}\nspec: {fromDirectory: " + secrets + "}\n"
		w.push(merge(files, containers("", "db", "mail")))
		preview := func() report.Plan {
			t.Helper()
			other, err := New(w.cfg)
			if err != nil {
				t.Fatal(err)
			}
			p, err := other.Preview(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		before := snapshot(t, w.dir)
		if p := preview(); len(p.Steps) != 3 {
			t.Errorf("on a fresh server: %+v", p)
		}
		if !reflect.DeepEqual(before, snapshot(t, w.dir)) {
			t.Error("a preview wrote into the state directory")
		}
		w.start()
		w.wantRunning("db", "mail", "web")
		w.stop()
		before = snapshot(t, w.dir)
		if p := preview(); len(p.Steps) != 0 || p.Blocked != nil {
			t.Errorf("with nothing to do: %+v", p)
		}
		write("two, longer")
		if p := preview(); len(p.Steps) != 1 || p.Steps[0].Op != plan.OpReplace || p.Steps[0].Reason != "content of Secret s changed" {
			t.Errorf("with a changed secret: %+v", p)
		}
		w.push(containers("", "db"))
		if p := preview(); p.Blocked != nil || len(p.Steps) != 2 {
			t.Errorf("two of three removed: %+v", p)
		}
		w.push(containers("", "other"))
		if p := preview(); p.Blocked == nil || p.Blocked.Reason != plan.BlockEmptying || len(p.Steps) != 4 {
			t.Errorf("everything removed: %+v", p)
		}
		bad := w.push(map[string]string{"a.yaml": "kind: x\n"})
		other, _ := New(w.cfg)
		if _, err := other.Preview(t.Context()); err == nil || !strings.Contains(err.Error(), "a.yaml:1") {
			t.Errorf("of %s: %v", bad, err)
		}
		if !reflect.DeepEqual(before, snapshot(t, w.dir)) {
			t.Error("a preview wrote into the state directory")
		}
	})
}

// snapshot returns every file below dir.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			content, _ := os.ReadFile(p)
			out[p] = string(content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
