package main

import (
	"strings"
	"syscall"
	"testing"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// bridged makes a container of busybox that is on the bridge.
func bridged(text string) string { return strings.Replace(text, "network: none", "network: bridge", 1) }

// inside runs a script in a container.
func (s *server) inside(name, script string) {
	s.t.Helper()
	s.must("exec", name, "--", "/bin/busybox", "sh", "-c", script)
}

// TestProbes runs every kind of probe and hook on real containers: what starts slowly, what becomes ready and unready, what
// does not live any more, what is left when the agent is killed.
func TestProbes(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{
		// Answers once it is told to begin, is ready while there is a file.
		"web.yaml": bridged(busybox("web", `mkdir -p /srv/cgi-bin; echo ok > /srv/live; while [ ! -e /begin ]; do sleep 0.1; done
busybox httpd -p 8080 -h /srv; while true; do sleep 3600; done`,
			"mounts: [{path: /srv, tmpfs: 1Mi}]",
			"ports: [{name: http, containerPort: 8080}]",
			"startupProbe: {tcpSocket: {port: http}, periodSeconds: 1, failureThreshold: 600, timeoutSeconds: 20}",
			"readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20}",
			"livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 20}",
			"strategy: {progressDeadlineSeconds: 600}",
			`lifecycle: {preStop: {exec: {command: [/bin/busybox, sh, -c, "echo draining > /proc/1/fd/1"]}}}`)),
		// Lives while there is a file, which its hook makes.
		"job.yaml": busybox("worker", forever,
			`livenessProbe: {exec: {command: [/bin/busybox, test, -e, /tmp/alive]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 20}`,
			`lifecycle: {postStart: {exec: {command: [/bin/busybox, touch, /tmp/alive]}}}`,
			"mounts: [{path: /tmp, tmpfs: 1Mi}]"),
	})
	agent := s.start("--repo", repo.Bare, "--node", "n1")
	s.awaitEvent([]string{"web"}, "Done")

	web := s.rows()["web"]
	if web.Ready || web.State != "Running" || web.Health != report.Progressing {
		t.Fatalf("before it answers: %+v", web)
	}
	s.inside("web", "touch /begin")
	s.awaitEvent([]string{"web"}, "Unhealthy", "readinessProbe failed", "status 404")
	if r := s.rows()["web"]; r.Ready || r.Restarts != 0 {
		t.Errorf("answers, and is not ready: %+v", r)
	}
	s.inside("web", "echo yes > /srv/ready")
	s.awaitEvent([]string{"web"}, "Ready", "after its start")
	s.must("sync", "--timeout", patience)
	web = s.rows()["web"]
	worker := s.rows()["worker"]
	if !web.Ready || web.Health != report.Healthy || web.Restarts != 0 || !worker.Ready || worker.Restarts != 0 {
		t.Fatalf("ready: %+v\n%+v", web, worker)
	}
	if out := s.must("describe", "web"); !strings.Contains(out, "ready:         yes") {
		t.Errorf("describe:\n%s", out)
	}

	// The next agent goes on from what this one knew.
	agent.stop(syscall.SIGKILL)
	if r := s.rows()["web"]; !r.Ready {
		t.Errorf("without an agent: %+v", r)
	}
	s.start("--repo", repo.Bare, "--node", "n1")
	s.must("sync", "--timeout", patience)
	if r := s.rows()["web"]; !r.Ready || r.Pid != web.Pid {
		t.Errorf("with the next agent: %+v", r)
	}

	events := s.follow("events", "-f", "worker")
	s.inside("worker", "rm /tmp/alive")
	events.await("Unhealthy", "livenessProbe failed: exit code 1")
	events.await("restart", "livenessProbe failed")
	events.await("Done")
	again := s.rows()["worker"]
	if again.ID != worker.ID || again.Restarts != 1 || again.Pid == worker.Pid || again.Pid == 0 {
		t.Errorf("after its liveness probe failed: %+v, was %+v", again, worker)
	}

	s.must("restart", "web")
	s.awaitEvent([]string{"web"}, "a restart was asked for")
	s.awaitEvent([]string{"web"}, "Done", "restart took")
	if out := s.must("logs", "web", "--previous"); !strings.Contains(out, "draining") {
		t.Errorf("the preStop hook was not run before the restart:\n%s", out)
	}
}
