package main

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// Whatever is done to the history that a populated node follows: nothing is removed or touched, status says Blocked and
// what to do, and once the history is as it was the node goes on.
func TestHistoryThatChangesRemovesNothing(t *testing.T) {
	s := newServer(t)
	files := sourcetest.Files{"fleet/a.yaml": busybox("a", forever), "fleet/b.yaml": busybox("b", forever)}
	repo := repository(t, files)
	first := repo.Head()
	repo.CommitPush("second", sourcetest.Files{"fleet/note": "2"})
	web := sourcetest.GitHTTP(t, repo.Root, sourcetest.HTTPOptions{})
	s.start("--repo", web.Repo("fleet.git"), "--path", "fleet")
	s.must("sync", "--timeout", patience)
	pids := func() map[string]int {
		got := map[string]int{}
		for name, row := range s.rows() {
			got[name] = row.Pid
		}
		return got
	}
	before := pids()
	// others makes a commit of another history, which would change all that runs.
	beginnings := 0
	others := func(files sourcetest.Files) {
		beginnings++
		repo.Git("checkout", "--quiet", "--orphan", fmt.Sprint("fresh-", beginnings))
		repo.Git("rm", "-rq", "--cached", ".")
		repo.Git("clean", "-fdq")
		repo.Commit("another beginning", files)
	}
	changed := sourcetest.Files{"fleet/a.yaml": busybox("a", "echo other; "+forever), "fleet/b.yaml": busybox("b", "echo other; "+forever)}
	for _, tt := range []struct {
		name, reason string
		change       func()
		want         string // in what status says to do
	}{
		{"moved back", "MovedBranch", func() { repo.Git("reset", "--quiet", "--hard", first); repo.Push() }, "reconciler approve"},
		{"force-pushed", "MovedBranch", func() {
			repo.Git("reset", "--quiet", "--hard", first)
			repo.CommitPush("sideways", changed)
		}, "reconciler approve"},
		{"force-pushed and collected", "MovedBranch", func() {
			others(changed)
			repo.Push()
			repo.InBare("reflog", "expire", "--expire=now", "--all")
			repo.InBare("gc", "--quiet", "--prune=now")
		}, "reconciler approve"},
		{"branch deleted", "BranchNotFound", func() {
			repo.Git("push", "--quiet", "origin", "HEAD:refs/heads/aside")
			repo.InBare("update-ref", "-d", "refs/heads/main")
		}, "name one of them with --branch"},
		{"branch deleted and made again", "MovedBranch", func() {
			repo.InBare("update-ref", "-d", "refs/heads/main")
			others(changed)
			repo.Push()
		}, "reconciler approve"},
		{"repository emptied", "EmptyRepository", func() {
			for ref := range strings.FieldsSeq(repo.InBare("for-each-ref", "--format=%(refname)")) {
				repo.InBare("update-ref", "-d", ref)
			}
		}, "push a first commit"},
		{"all files removed", "Emptying", func() {
			removed := maps.Clone(files)
			for name := range removed {
				removed[name] = sourcetest.Removed
			}
			repo.CommitPush("empty", removed)
		}, "reconciler approve"},
		{"path moved", "PathNotFound", func() {
			repo.Git("mv", "fleet", "nodes")
			repo.CommitPush("moved", nil)
		}, "at its top are nodes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			good := repo.Head()
			tt.change()
			if r := s.do("sync", "--timeout", patience); r.code != 3 || !strings.Contains(r.err, tt.reason) || !strings.Contains(r.err, tt.want) {
				t.Errorf("sync: status %d, want 3, %s and %q\n%s%s", r.code, tt.reason, tt.want, r.out, r.err)
			}
			st := s.status()
			if st.Sync != report.Blocked || st.Reason != tt.reason || !strings.Contains(st.Message, tt.want) || st.NextFetch == nil {
				t.Errorf("status: %+v, want %s and %q", st, tt.reason, tt.want)
			}
			if st.Accepted == nil || st.Accepted.Commit != good {
				t.Errorf("in force: %+v, want %s", st.Accepted, good)
			}
			if after := pids(); !maps.Equal(before, after) {
				t.Errorf("what ran was touched: %v, was %v", after, before)
			}
			repo.Git("checkout", "--quiet", "--force", "-B", "main", good)
			repo.Git("clean", "-fdq")
			repo.Push()
			s.must("sync", "--timeout", patience)
			if after := pids(); !maps.Equal(before, after) {
				t.Errorf("what ran was touched when the history was as before: %v, was %v", after, before)
			}
		})
	}
}
