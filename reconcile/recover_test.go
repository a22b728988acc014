package reconcile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/fake"
)

// The agent dies while a step is being carried out: its state directory is copied at that moment, and another agent goes
// on from the copy.
func TestKilledInTheMiddleOfAStep(t *testing.T) {
	for _, op := range []fake.Op{fake.OpPrepare, fake.OpCreate, fake.OpStart, fake.OpStop, fake.OpRemove} {
		t.Run(string(op), func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "state")
			run(t, func(t *testing.T, w *world) {
				w.push(containers("", "db", "web"))
				w.start()
				w.wantRunning("db", "web")
				db := w.row("db")
				release := w.rt.Pause(op, rtName("web"))
				w.push(merge(containers("", "db"), containers("  env: {A: b}\n", "web")))
				synctest.Wait()
				if err := os.CopyFS(copied, os.DirFS(w.dir)); err != nil {
					t.Fatal(err)
				}
				w.stop()
				release()

				w.cfg.StateDir = copied
				w.start()
				defer w.stop()
				after(5 * time.Second) // what is new proves itself
				w.wantRunning("db", "web")
				if now := w.row("db"); now.ID != db.ID || now.Pid != db.Pid {
					t.Error("db was touched")
				}
				if r := w.row("web"); r.Revision != w.src.head() || len(report.Rows(w.view(), true)) != 2 {
					t.Errorf("web %+v", r)
				}
				if h := w.history(); h[0].Result != journal.ResultApplied || h[0].Steps[0].Result == "" {
					t.Errorf("history %+v", h[0])
				}
			})
		})
	}
}

func TestDamagedStateDisturbsNothing(t *testing.T) {
	damage := map[string]func(dir string) error{
		"state.json is garbage": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "state.json"), []byte("\x00\x00{"), 0o600)
		},
		"all state is garbage": func(dir string) error {
			_ = os.WriteFile(filepath.Join(dir, "state.json.bak"), nil, 0o600)
			return os.WriteFile(filepath.Join(dir, "state.json"), nil, 0o600)
		},
		"the sets are gone": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "sets")) },
		"the journal is garbage": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "journal", "00000001.jsonl"), []byte(strings.Repeat("x\n", 100)), 0o600)
		},
	}
	for name, hurt := range damage {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				w.push(containers("", "db", "web"))
				w.start()
				w.wantRunning("db", "web")
				ids := []runtime.ID{w.idOf("db"), w.idOf("web")}
				w.stop()
				if err := hurt(w.dir); err != nil {
					t.Fatal(err)
				}
				w.start()
				defer w.stop()
				w.wantRunning("db", "web")
				if now := []runtime.ID{w.idOf("db"), w.idOf("web")}; !slices.Equal(now, ids) {
					t.Errorf("containers %v, want %v", now, ids)
				}
				if s := w.status(); s.Sync != report.Synced || len(s.Warnings) == 0 {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}

// With every file of the state gone and no network, what is here is still brought back after a reboot.
func TestRebootWithoutStateAndNetwork(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "db", "web"))
		w.start()
		w.wantRunning("db", "web")
		w.stop()
		if err := os.RemoveAll(w.dir); err != nil {
			t.Fatal(err)
		}
		w.rt.Reboot()
		w.src.hang = make(chan struct{})
		w.start()
		defer w.stop()
		w.wantRunning("db", "web")
		id := w.idOf("web")
		close(w.src.hang)
		if s := w.status(); s.Sync != report.Synced || w.idOf("web") != id {
			t.Errorf("when the network is back: %+v", s)
		}
		// The guards still know what was in force.
		w.src.push("", containers("", "db", "web", "new"))
		if s := w.status(); s.Sync != report.Blocked || s.Reason != "MovedBranch" {
			t.Errorf("after the branch was moved: %+v", s)
		}
	})
}

// Also where the branch is moved before the state that was lost could be made anew.
func TestMovedWhileStateWasLost(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		kept := w.push(containers("", "db", "web"))
		w.start()
		w.wantRunning("db", "web")
		w.stop()
		if err := os.RemoveAll(w.dir); err != nil {
			t.Fatal(err)
		}
		w.src.push("", containers("  env: {A: moved}\n", "db", "web"))
		other, err := New(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := other.Preview(t.Context()); err != nil || p.Blocked == nil || p.Blocked.Reason != "MovedBranch" {
			t.Errorf("preview: %+v, %v", p, err)
		}
		w.start()
		defer w.stop()
		if s := w.status(); s.Sync != report.Blocked || s.Reason != "MovedBranch" || s.Accepted.Commit != kept {
			t.Errorf("status %+v", s)
		}
	})
}

func TestRestartedAgentRecordsNothingNew(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		for range 3 {
			w.start()
			w.wantRunning("web")
			w.stop()
		}
		got, err := journal.Read(w.dir)
		if err != nil || len(got.Records) != 4 { // accepted, intent, result, settled
			t.Errorf("%d records, %v", len(got.Records), err)
		}
	})
}

func TestUnwritableStateKeepsContainersAlive(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		// A directory in the place of the copy makes every save fail, as a read-only disk does, also for root.
		bak := filepath.Join(w.dir, "state.json.bak")
		if err := os.Remove(bak); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(bak, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		w.rt.Kill(w.idOf("web"))
		w.wantRunning("web")
		if s := w.status(); len(s.Warnings) == 0 || !strings.Contains(s.Warnings[0], "write state") {
			t.Fatalf("status %+v", s)
		}
		// Who asks for something that is to last is told that it may not; it is in force all the same.
		var notKept *NotKeptError
		if err := w.agent.Suspend(t.Context()); !errors.As(err, &notKept) || notKept.Hint() == "" {
			t.Errorf("suspended: %v", err)
		}
		if s := w.status(); s.Sync != report.Suspended {
			t.Errorf("status %+v", s)
		}
		if commit, err := w.agent.Approve(t.Context(), w.src.head()); !errors.As(err, &notKept) || commit != w.src.head() {
			t.Errorf("approved %s: %v", commit, err)
		}
		if err := w.agent.Restart(t.Context(), manifest.Name{Namespace: manifest.DefaultNamespace, Name: "web"}); err != nil {
			t.Errorf("what is done at once needs not be kept: %v", err)
		}
		if err := os.RemoveAll(bak); err != nil {
			t.Fatal(err)
		}
		if err := w.agent.Resume(t.Context()); err != nil {
			t.Errorf("resumed: %v", err)
		}
		after(time.Minute)
		if s := w.status(); len(s.Warnings) != 0 {
			t.Errorf("warnings after the repair: %q", s.Warnings)
		}
	})
}

func TestClockSetBackDoesNotPutRetryOff(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.rt.Fail(fake.OpPrepare, rtName("web"), 1, fmt.Errorf("registry is down"))
		w.push(containers("", "web"))
		w.start()
		synctest.Wait()
		w.stop()
		store, err := journal.Open(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		st := store.State()
		for name, h := range st.Histories {
			h.NextTry = time.Now().AddDate(30, 0, 0)
			h.LastFailure = time.Now()
			st.Histories[name] = h
		}
		if err := store.Save(st); err != nil {
			t.Fatal(err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		w.start()
		defer w.stop()
		w.wantRunning()
		after(6 * time.Minute)
		w.wantRunning("web")
	})
}

func TestSecretChangeReplaces(t *testing.T) {
	secrets := t.TempDir()
	run(t, func(t *testing.T, w *world) {
		write := func(s string) {
			if err := os.WriteFile(filepath.Join(secrets, "token"), []byte(s), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("canary-one")
		files := containers("  mounts: [{path: /run/secrets/s, secret: s}]\n", "web")
		files["secret.yaml"] = "apiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: s}\nspec: {fromDirectory: " + secrets + "}\n"
		for name, content := range containers("", "db") {
			files["1-"+name] = content
		}
		w.push(files)
		w.start()
		defer w.stop()
		w.wantRunning("db", "web")
		db, web := w.idOf("db"), w.idOf("web")
		write("canary-two, longer")
		after(time.Minute)
		w.wantRunning("db", "web")
		if w.idOf("web") == web || w.idOf("db") != db {
			t.Error("the changed secret reached the wrong containers")
		}
		err := filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if content, _ := os.ReadFile(p); strings.Contains(string(content), "canary") {
				t.Errorf("%s holds the secret", p)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// Whatever happens on the way: once nothing fails any more, what runs is what the newest commit says, and what is not
// ours is as it was.
func TestAnythingConverges(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		state := filepath.Join(dir, fmt.Sprint(n))
		moves := rapid.SliceOfN(rapid.IntRange(0, 1<<16), 1, 25).Draw(rt, "moves")
		var wrong string
		synctest.Test(t, func(t *testing.T) { wrong = convergesAfter(newWorld(t, state), moves) })
		if wrong != "" {
			rt.Fatal(wrong)
		}
	})
}

func convergesAfter(w *world, moves []int) string {
	names := []string{"a", "b", "c", "d", "e"}
	foreign := w.rt.Put(runtime.Status{Spec: runtime.Spec{Name: rtName("foreign")}, State: runtime.StateRunning})
	want := w.randomPush(names, 31)
	w.start()
	for _, m := range moves {
		name := names[m/16%len(names)]
		switch m % 16 {
		case 0, 1, 2, 3:
			want = w.randomPush(names, m/16)
		case 4, 5:
			w.rt.Fail(fake.OpPrepare, rtName(name), 1+m/256%3, fmt.Errorf("scripted"))
		case 6:
			w.rt.Fail(fake.OpStart, rtName(name), 1+m/256%3, fmt.Errorf("scripted"))
		case 7:
			w.rt.Fail(fake.OpRemove, rtName(name), 1+m/256%3, fmt.Errorf("scripted"))
		case 8, 9:
			for _, r := range report.Rows(w.view(), false) {
				if r.Name == name {
					w.rt.Kill(runtime.ID(r.ID))
				}
			}
		case 10:
			w.rt.Reboot()
		case 11:
			w.stop()
			w.start()
			<-w.agent.Ready()
		case 12:
			_ = w.agent.Suspend(w.t.Context())
		case 13:
			_ = w.agent.Resume(w.t.Context())
		case 14:
			after(time.Duration(m) * time.Millisecond)
		case 15:
			_ = w.agent.Restart(w.t.Context(), manifest.Name{Namespace: manifest.DefaultNamespace, Name: name})
		}
		if m%3 > 0 {
			synctest.Wait()
		}
	}
	for _, n := range names {
		w.rt.Heal(rtName(n))
	}
	<-w.agent.Ready()
	_ = w.agent.Resume(w.t.Context())
	_, _ = w.agent.Approve(w.t.Context(), w.src.head())
	after(15 * time.Minute)
	for _, n := range names { // an update whose container was killed right after its start is taken back until somebody says so
		_ = w.agent.Retry(w.t.Context(), manifest.Name{Namespace: manifest.DefaultNamespace, Name: n})
	}
	after(15 * time.Minute)
	defer w.stop()
	got := slices.DeleteFunc(w.running(), func(n string) bool { return n == "foreign" })
	if !slices.Equal(got, want) {
		return fmt.Sprintf("running %v, want %v; status %+v", got, want, w.status())
	}
	s := w.status()
	if s.Sync != report.Synced {
		return fmt.Sprintf("status %+v", s)
	}
	for _, o := range w.view().Observed {
		if o.ID == foreign && o.Starts == 0 {
			return ""
		}
	}
	return "what is not ours was touched"
}

// randomPush commits the subset of names that bits say, with an environment that they say too.
func (w *world) randomPush(names []string, bits int) []string {
	var files []map[string]string
	var want []string
	for i, n := range names {
		if bits>>i&1 == 0 {
			continue
		}
		want = append(want, n)
		files = append(files, containers(fmt.Sprintf("  env: {V: \"%d\"}\n", bits>>(5+i)&1), n))
	}
	w.push(merge(files...))
	return want
}
