package reconcile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/reconcile/report"
)

// What happens while the disk is full is in the journal when it is not full any more, once and in order.
func TestFullDiskLosesNoRecord(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k,mode=700"); err != nil {
		t.Skipf("a small disk needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir)
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		before, err := w.agent.Records()
		if err != nil {
			t.Fatal(err)
		}
		fill := filepath.Join(dir, "fill")
		if err = os.WriteFile(fill, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		const rounds = 40 // more than fit into what the journal's last block has left
		for range rounds {
			if err = errors.Join(w.agent.Suspend(t.Context()), w.agent.Resume(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		if s := w.status(); !strings.Contains(strings.Join(s.Warnings, ";"), "cannot write journal") {
			t.Errorf("warnings %q", s.Warnings)
		}
		if err = os.Remove(fill); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		if s := w.status(); len(s.Warnings) != 0 || s.Sync != report.Synced {
			t.Errorf("status %+v", s)
		}
		records, err := w.agent.Records()
		if err != nil || len(records) != len(before)+2*rounds {
			t.Fatalf("%d records, %d before, %v", len(records), len(before), err)
		}
		for i, r := range records[len(before):] {
			if want := []string{"Suspended", "Resumed"}[i%2]; r.Reason != want {
				t.Fatalf("record %d is %s, want %s", i, r.Reason, want)
			}
		}
	})
}
