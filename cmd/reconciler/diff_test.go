package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"reconciler/reconcile/fleet"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/source/sourcetest"
)

const webManifest = `apiVersion: reconciler/v1
kind: Container
metadata: {name: web}
spec:
  nodeSelector: {role: edge}
  image: registry.example.com/web:%s
  network: none
`

func nodeManifest(name, role string) string {
	return fmt.Sprintf("apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: %s, labels: {role: %s}}\n", name, role)
}

// fleetRepo makes a repository with edges and core nodes.
func fleetRepo(t *testing.T, edges, cores int) *sourcetest.Repo {
	t.Helper()
	repo := sourcetest.NewRepo(t)
	files := sourcetest.Files{
		"web.yaml": fmt.Sprintf(webManifest, "1"),
		"all.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: everywhere}\nspec: {image: registry.example.com/all:1, network: none}\n",
	}
	for i := range edges {
		files[fmt.Sprintf("nodes/edge-%03d.yaml", i)] = nodeManifest(fmt.Sprintf("edge-%03d", i), "edge")
	}
	for i := range cores {
		files[fmt.Sprintf("nodes/core-%03d.yaml", i)] = nodeManifest(fmt.Sprintf("core-%03d", i), "core")
	}
	repo.Commit("first", files)
	return repo
}

func diffOf(t *testing.T, repo *sourcetest.Repo, commits string, args ...string) (fleet.Diff, result) {
	t.Helper()
	r := cli(t, nil, append([]string{"diff", commits, "--repo", repo.Work, "-o", "json"}, args...)...)
	var report fleet.Diff
	if r.code != 2 {
		if err := json.Unmarshal([]byte(r.out), &report); err != nil {
			t.Fatalf("status %d, no JSON: %v\n%s%s", r.code, err, r.out, r.err)
		}
	}
	return report, r
}

func TestDiffGroupsEqualNodes(t *testing.T) {
	repo := fleetRepo(t, 380, 20)
	repo.Commit("web 2", sourcetest.Files{"web.yaml": fmt.Sprintf(webManifest, "2")})
	report, r := diffOf(t, repo, "HEAD~1..HEAD", "--all-nodes")
	if r.code != 1 || len(report.Nodes) != 400 || len(report.Changes) != 1 || len(report.Blocked) != 0 {
		t.Fatalf("status %d: %d nodes, %d changes, blocked %+v", r.code, len(report.Nodes), len(report.Changes), report.Blocked)
	}
	c := report.Changes[0]
	if c.Name.Name != "web" || c.Op != plan.OpReplace || len(c.Nodes) != 380 || c.Of != 380 {
		t.Errorf("%s %s on %d of %d", c.Name, c.Op, len(c.Nodes), c.Of)
	}
	if len(c.Changes) != 1 || c.Changes[0].Field != "spec.image" {
		t.Errorf("changes %+v", c.Changes)
	}
	r = cli(t, nil, "diff", "HEAD~1..HEAD", "--repo", repo.Work, "-o", "markdown")
	if r.code != 1 || !strings.Contains(r.out, "| `web` | replaced on 380 of 380 |") || !strings.Contains(r.out, "on 400 nodes") {
		t.Errorf("markdown, status %d:\n%s%s", r.code, r.out, r.err)
	}
	r = cli(t, nil, "diff", "HEAD~1", "--repo", repo.Work)
	if r.code != 1 || !strings.Contains(r.out, "web replaced on 380 of 380") {
		t.Errorf("table, status %d:\n%s%s", r.code, r.out, r.err)
	}
}

func TestDiffOfSomeNodes(t *testing.T) {
	repo := fleetRepo(t, 3, 1)
	// Only the third edge gets another label: there, and there alone, web goes; nothing remains but everywhere.
	repo.Commit("a node leaves the edge", sourcetest.Files{"nodes/edge-002.yaml": nodeManifest("edge-002", "core")})
	report, r := diffOf(t, repo, "HEAD~1..HEAD")
	if r.code != 1 || len(report.Changes) != 1 || report.Changes[0].Op != plan.OpRemove || report.Changes[0].Nodes[0] != "edge-002" || report.Changes[0].Of != 3 {
		t.Errorf("status %d: %+v", r.code, report.Changes)
	}
	if report, r = diffOf(t, repo, "HEAD~1..HEAD", "--node", "edge-001"); r.code != 0 || len(report.Nodes) != 1 {
		t.Errorf("a node that does not change: status %d: %+v", r.code, report)
	}
	if _, r = diffOf(t, repo, "HEAD~1..HEAD", "--node", "edge-999"); r.code != 2 || !strings.Contains(r.err, "edge-999") {
		t.Errorf("a node that is not there: status %d\n%s", r.code, r.err)
	}
}

func TestDiffSeesTheGuards(t *testing.T) {
	repo := fleetRepo(t, 2, 0)
	repo.Commit("oops", sourcetest.Files{"web.yaml": sourcetest.Removed, "all.yaml": sourcetest.Removed})
	report, r := diffOf(t, repo, "HEAD~1..HEAD")
	if r.code != 1 || len(report.Blocked) != 1 || report.Blocked[0].Reason != "Emptying" || len(report.Blocked[0].Nodes) != 2 {
		t.Fatalf("status %d: %+v", r.code, report.Blocked)
	}
	if len(report.Changes) != 2 || report.Changes[0].Op != plan.OpRemove {
		t.Errorf("what it would do once approved: %+v", report.Changes)
	}
	repo.Commit("allowed\n\nReconciler-Allow: remove", nil)
	if report, _ = diffOf(t, repo, "HEAD~2..HEAD"); len(report.Blocked) != 0 {
		t.Errorf("allowed by the commit, and still: %+v", report.Blocked)
	}
	repo.Commit("a node is forgotten", sourcetest.Files{"web.yaml": fmt.Sprintf(webManifest, "1"), "nodes/edge-001.yaml": sourcetest.Removed})
	report, _ = diffOf(t, repo, "HEAD~3..HEAD", "--node", "edge-001")
	if len(report.Blocked) != 1 || report.Blocked[0].Reason != "UnknownNode" {
		t.Errorf("a node without its manifest: %+v", report)
	}
}

func TestDiffWithoutNodes(t *testing.T) {
	repo := sourcetest.NewRepo(t)
	repo.Commit("first", sourcetest.Files{"web.yaml": fmt.Sprintf(webManifest, "1")})
	repo.Commit("second", sourcetest.Files{"web.yaml": fmt.Sprintf(webManifest, "2")})
	if _, r := diffOf(t, repo, "HEAD~1..HEAD", "--label", "role=edge"); r.code != 1 {
		t.Errorf("with its label: status %d %s", r.code, r.err)
	}
	if _, r := diffOf(t, repo, "HEAD~1..HEAD"); r.code != 0 {
		t.Errorf("without: status %d %s", r.code, r.err)
	}
	if _, r := diffOf(t, repo, "HEAD..HEAD", "--label", "role=edge"); r.code != 0 {
		t.Errorf("a commit and itself: status %d %s", r.code, r.err)
	}
}

func TestDiffErrors(t *testing.T) {
	repo := fleetRepo(t, 1, 0)
	repo.Commit("broken", sourcetest.Files{"web.yaml": "apiVersion: reconciler/v1\nkind: Container\nmetadata: {name: web}\nspec: {immage: x}\n"})
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"broken head":    {[]string{"diff", "HEAD~1..HEAD", "--repo", repo.Work}, "web.yaml:4:"},
		"unknown commit": {[]string{"diff", "nowhere..HEAD", "--repo", repo.Work}, "nowhere"},
		"no repository":  {[]string{"diff", "a..b", "--repo", t.TempDir()}, "repository"},
	} {
		r := cli(t, nil, tt.args...)
		if r.code != 2 || r.out != "" || !strings.Contains(r.err, tt.want) {
			t.Errorf("%s: status %d, stdout %q\n%s", name, r.code, r.out, r.err)
		}
	}
}

// What a manifest says must not become markup, a mention or a link in a pull request.
func TestMarkdownIsEscaped(t *testing.T) {
	got := escapeMarkdown("<img src=x> | `a` [b](c) @all *d*\nnew")
	for _, bad := range []string{"<img", " | ", " `a", " [b](", "@all", "*d*"} {
		if strings.Contains(strings.ReplaceAll(got, `\*d\*`, ""), bad) {
			t.Errorf("%q is in %q", bad, got)
		}
	}
}
