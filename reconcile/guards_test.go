package reconcile

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
)

func TestGuardBlocksUntilApproved(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.push(containers("", "a", "b", "c", "d"))
		w.start()
		defer w.stop()
		w.wantRunning("a", "b", "c", "d")
		bad := w.push(containers("", "a"))
		s := w.status()
		if s.Sync != report.Blocked || s.Reason != "Emptying" {
			t.Fatalf("status %+v", s)
		}
		w.rt.Kill(w.idOf("b"))
		w.wantRunning("a", "b", "c", "d")
		r, err := w.agent.Sync(t.Context())
		if err != nil || r.Outcome != SyncBlocked {
			t.Fatalf("sync %+v, %v", r, err)
		}
		p, err := w.agent.Plan(t.Context())
		if err != nil || p.Blocked == nil || len(p.Steps) != 3 || p.Steps[0].Op != "remove" {
			t.Errorf("plan %+v, %v", p, err)
		}
		if _, err := w.agent.Approve(t.Context(), "nonsense"); err == nil {
			t.Error("nonsense approved")
		}
		// Restarted, it is still blocked, and says so once in history.
		w.stop()
		w.start()
		if s := w.status(); s.Sync != report.Blocked {
			t.Errorf("after a restart: %+v", s)
		}
		if _, err := w.agent.Approve(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		w.wantRunning("a")
		if h := w.history(); len(h) != 2 || h[0].Result != journal.ResultApplied {
			t.Errorf("history %+v", h)
		}
	})
}

func TestMovedBranchIsBlocked(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		first := w.push(containers("", "web"))
		w.push(containers("  env: {A: b}\n", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		id := w.idOf("web")
		w.src.push(first, containers("  env: {A: other}\n", "web"))
		if s := w.status(); s.Sync != report.Blocked || s.Reason != "MovedBranch" {
			t.Fatalf("status %+v", s)
		}
		if w.idOf("web") != id {
			t.Error("web was touched")
		}
	})
}

// A server that goes away while history is asked for says nothing about the branch: that is no reason to block.
func TestUnansweredHistoryIsAFailedFetch(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		gone, unknown := errors.New("fetch https://git.example.com/fleet.git: connection reset"), errors.New("unknown commit")
		w.cfg.UnknownCommit = func(err error) bool { return errors.Is(err, unknown) }
		w.push(containers("", "web"))
		w.start()
		defer w.stop()
		w.wantRunning("web")
		w.src.lost = gone
		w.push(containers("", "db", "web"))
		if s := w.status(); s.Sync == report.Blocked || s.LastFetch.OK || s.LastFetch.Error != gone.Error() {
			t.Errorf("status %+v", s)
		}
		w.src.lost = nil
		if r, err := w.agent.Sync(t.Context()); err != nil || r.Outcome != SyncConverged {
			t.Fatalf("sync %+v, %v", r, err)
		}
		w.wantRunning("db", "web")
		w.src.lost = unknown
		w.push(containers("", "db", "mail", "web"))
		if s := w.status(); s.Sync != report.Blocked || s.Reason != "MovedBranch" {
			t.Errorf("status %+v", s)
		}
	})
}

// What comes into force while a look is under way is what the newer commit must follow, not what was in force before.
func TestApprovedWhileLooking(t *testing.T) {
	for name, follows := range map[string]bool{"a commit on top of the approved one": true, "a commit beside it": false} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				first := w.push(containers("", "web"))
				w.start()
				defer w.stop()
				w.wantRunning("web")
				second := w.push(containers("  env: {A: second}\n", "web"))
				w.wantRunning("web")
				moved := w.src.push(first, containers("  env: {A: moved}\n", "web"))
				if s := w.status(); s.Sync != report.Blocked {
					t.Fatalf("status %+v", s)
				}
				answer := make(chan struct{})
				w.src.stall(answer)
				parent := moved
				if !follows {
					parent = second
				}
				last := w.src.push(parent, containers("  env: {A: last}\n", "web"))
				synctest.Wait()
				if _, err := w.agent.Approve(t.Context(), moved); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				w.src.stall(nil)
				close(answer)
				after(2 * time.Second) // what is new proves itself
				s := w.status()
				if follows && (s.Sync != report.Synced || s.Applied.Commit != last) {
					t.Errorf("status %+v", s)
				}
				if !follows && (s.Sync != report.Blocked || s.Accepted.Commit != moved) {
					t.Errorf("status %+v", s)
				}
			})
		})
	}
}
