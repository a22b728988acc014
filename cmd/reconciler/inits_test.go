package main

import (
	"strings"
	"testing"

	"reconciler/reconcile/plan"
	"reconciler/reconcile/source/sourcetest"
)

// An init container that fails keeps its container from starting, says why, and what it wrote; a fix starts it.
func TestInitContainers(t *testing.T) {
	s := newServer(t)
	inits := func(code string) sourcetest.Files {
		return sourcetest.Files{"web.yaml": busybox("web", forever, "env: {WHO: web}", `initContainers:
    - {name: greet, command: [/bin/busybox, sh, -c, 'echo "hello $WHO"']}
    - {name: migrate, command: [/bin/busybox, sh, -c], args: ['echo no such table >&2; exit `+code+`']}`)}
	}
	repo := repository(t, inits("3"))
	s.start("--repo", repo.Bare)
	if r := s.do("sync", "--timeout", patience); r.code == 0 || !strings.Contains(r.out+r.err, "init container migrate") {
		t.Errorf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
	web := s.rows()["web"]
	if web.Pid != 0 || web.Reason != plan.ReasonCrashLoop || !strings.Contains(web.Message, "it exited with code 3") ||
		!strings.Contains(web.Message, "reconciler logs default/web --init migrate") {
		t.Errorf("ps: %+v", web)
	}
	if out := s.must("logs", "web", "--init", "greet"); !strings.HasPrefix(out, "hello web\n") {
		t.Errorf("logs --init greet: %q", out)
	}
	if r := s.do("logs", "web", "--init", "migrate"); r.code != 0 || !strings.HasPrefix(r.err, "no such table\n") {
		t.Errorf("logs --init migrate: status %d, %q %q", r.code, r.out, r.err)
	}
	s.mustFail(t, []badLine{{"logs web --init nobody", []string{`no init container "nobody"`}}})
	repo.CommitPush("mended", inits("0"))
	s.must("sync", "--timeout", patience)
	if web = s.rows()["web"]; web.State != "Running" || web.Reason != "" {
		t.Errorf("ps: %+v", web)
	}
}
