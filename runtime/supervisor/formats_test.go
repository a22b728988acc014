package supervisor

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"reconciler/runtime"
)

var update = flag.Bool("update", false, "write the files of the present formats anew: a format that was released never changes")

// Each format that was ever written is read, and the present one is written as it always was. A change that breaks this
// needs a new version and a new file, beside the old one. That of kept output is in TestLogGolden.
func TestFormats(t *testing.T) {
	code := 137
	at := time.Date(2026, 11, 27, 12, 0, 0, 123456789, time.UTC)
	for _, f := range []struct {
		file string
		want any
		into any
	}{
		{"record-v1.json", containerRecord{
			Version: 1, Pid: 4242, StartTime: 987654, StartedAt: at, StartBoot: 90 * time.Second,
			Request: StartRequest{
				ID: "web-1", Bundle: "/run/reconciler/bundles/web-1", LogDir: "/var/lib/reconciler/containers/web-1",
				Logs: runtime.Logs{MaxSize: 1 << 20, MaxFiles: 3}, StopSignal: "SIGQUIT",
			},
			Warnings: []string{"CAP_SYS_RESOURCE is not given"}, Stopped: true, KillBoot: 100 * time.Second,
		}, &containerRecord{}},
		{"exit-v1.json", Exit{
			Version: 1, Code: &code, Signal: "SIGKILL", OOMKilled: true, StartedAt: at, FinishedAt: at.Add(time.Minute),
			Ran: time.Minute, Stopped: true, Reason: runtime.ReasonSupervisorLost,
		}, &Exit{}},
		{"handover-v1.json", handover{
			Version: 1, Detached: true, Since: at, Lock: 3, Listener: 7,
			Runs:  []handedRun{{Run: runRef{ID: "web-1", Pid: 4242, StartTime: 987654}, FDs: []int{8, 9, 10}}},
			Files: []int{15, 16},
			Waits: []handedWait{
				{Op: opUpgrade, Conn: 11}, {Op: opStop, Conn: 12, ID: "web-1"}, {Op: opExec, Conn: 13, Pid: 4300, Pidfd: 14},
			},
		}, &handover{}},
		// What passes between releases that know nothing else of each other.
		{"protocol-version.json", Version{Protocol: 2, Binary: "v1.0.0", Pid: 77, StartedAt: at}, &Version{}},
		{"protocol-upgrade.json", upgradeBody{Args: []string{"reconciler", "supervisor"}, Handover: 1}, &upgradeBody{}},
		{"protocol-lent.json", lent{Run: runRef{ID: "web-1", Pid: 4242, StartTime: 987654}, Over: true, All: true}, &lent{}},
	} {
		path := filepath.Join("testdata", f.file)
		written, err := json.MarshalIndent(f.want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, '\n')
		if *update {
			if err = os.WriteFile(path, written, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := readJSON(path, f.into); err != nil {
			t.Errorf("%s: %v", f.file, err)
		}
		if got := reflect.ValueOf(f.into).Elem().Interface(); !reflect.DeepEqual(got, f.want) {
			t.Errorf("%s is read as\n%+v, want\n%+v", f.file, got, f.want)
		}
		if !bytes.Equal(golden, written) {
			t.Errorf("%s is written as\n%s", f.file, written)
		}
	}
}

// What a later release wrote is refused by name, not misread.
func TestLaterFormats(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("exit.json", `{"version":2}`)
	if _, _, err := ReadExit(dir); err == nil || !strings.Contains(err.Error(), "has format 2, this reconciler reads up to 1") {
		t.Errorf("exit: %v", err)
	}
	f, err := os.Open(write("handover", `{"version":2}`))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err = readHandover(f); err == nil || !strings.Contains(err.Error(), "reads up to 1") {
		t.Errorf("handover: %v", err)
	}
	write("supervisor/web-1/record.json", `{"version":2,"pid":1}`)
	err = Run(t.Context(), Config{StateDir: dir, RunDir: dir, Instance: "formats"})
	if err == nil || !strings.Contains(err.Error(), "record of container web-1 has format 2") {
		t.Errorf("record: %v", err)
	}
}
