package linux_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"reconciler/runtime"
	"reconciler/runtime/linux"
)

// A power cut may leave each file of a container empty or short: the others are listed all the same, what runs is said to
// run, and what cannot be known is said to be unknown.
func TestDamagedRecordsHideNobody(t *testing.T) {
	for file, want := range map[string]func(t *testing.T, e *env, id runtime.ID, before runtime.Status){
		"spec.json": func(t *testing.T, e *env, id runtime.ID, before runtime.Status) {
			st := e.status(id)
			if st.State != runtime.StateRunning || st.Pid != before.Pid || st.Spec.Name != before.Spec.Name {
				t.Errorf("what runs is listed as %+v", st)
			}
			if len(st.Spec.Origin) == 0 || st.Spec.OriginDigest != "" {
				t.Errorf("it is taken for somebody else's, or for what is wanted: %+v", st.Spec)
			}
			if err := e.RemoveVolume(t.Context(), "default", "any"); err == nil || !strings.Contains(err.Error(), "spec.json is damaged") {
				t.Errorf("a volume that it may have mounted: %v", err)
			}
			if _, err := e.PruneImages(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "spec.json is damaged") {
				t.Errorf("its image: %v", err)
			}
		},
		"run.json": func(t *testing.T, e *env, id runtime.ID, before runtime.Status) {
			if st := e.status(id); st.State != runtime.StateRunning || st.Pid != before.Pid || len(st.Warnings) == 0 {
				t.Errorf("what runs is listed as %+v", st)
			}
		},
	} {
		for _, left := range []string{"", `{"version":1,`, "\x00\x00\x00\x00"} {
			t.Run(file, func(t *testing.T) {
				e := newEnv(t)
				other, id := e.start(e.sh("other", "sleep 1000")), e.start(e.sh("web", "sleep 1000"))
				before := e.status(id)
				path := filepath.Join(e.cfg.StateDir, "containers", string(id), file)
				replaceFile(t, path, left)
				if st := e.status(other); st.State != runtime.StateRunning {
					t.Errorf("the other one: %+v", st)
				}
				want(t, e, id, before)
				if err := errors.Join(e.Stop(t.Context(), id, 0), e.Remove(t.Context(), id)); err != nil {
					t.Error(err)
				}
				if st := e.only(); st.ID != other {
					t.Errorf("left: %+v", st)
				}
			})
		}
	}
}

// replaceFile does it as we do, so that it is seen by who has read the file before.
func replaceFile(t *testing.T, path, content string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}

// Where it is not even known whose a container was, and nothing of it runs, it is none, and is swept.
func TestDamagedRecordOfNobody(t *testing.T) {
	e := newEnv(t)
	other := e.start(e.sh("other", "sleep 1000"))
	id := e.create(e.sh("web", "true"))
	dir := filepath.Join(e.cfg.StateDir, "containers", string(id))
	replaceFile(t, filepath.Join(dir, "spec.json"), "")
	if st := e.only(); st.ID != other {
		t.Errorf("listed: %+v", st)
	}
	again, err := linux.Open(e.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Create(t.Context(), e.sh("web", "true")); err != nil { // sweeps
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// How a container ended may be lost with its file, but never becomes a success.
func TestDamagedExitIsUnknown(t *testing.T) {
	e := newEnv(t)
	id := e.start(e.sh("web", "exit 3"))
	e.exited(id)
	e.killSupervisor()
	if err := os.RemoveAll(filepath.Join(e.cfg.RunDir, "supervisor")); err != nil { // as a reboot does
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.cfg.StateDir, "containers", string(id), "exit.json"), []byte(`{"ver`), 0o600); err != nil {
		t.Fatal(err)
	}
	st := e.status(id)
	if st.State != runtime.StateExited || st.ExitCode != nil || st.Reason != runtime.ReasonSupervisorLost || len(st.Warnings) == 0 {
		t.Errorf("listed as %+v", st)
	}
}
