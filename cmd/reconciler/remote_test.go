package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// put writes a file of the server, for root alone.
func (s *server) put(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// A repository behind https with a certificate of its own and a token, which is rotated while the agent runs.
func TestRepositoryOverHTTPS(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	web := sourcetest.GitHTTP(t, repo.Root, sourcetest.HTTPOptions{TLS: true, User: "agent", Password: "t0ken-canary"})
	url := web.Repo("fleet.git")
	token := s.put("token", "agent:t0ken-canary\n")
	wrong := s.put("wrong", "agent:guess\n")
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"unknown certificate", []string{"--git-token-file", token}, []string{url, "certificate", "hint: "}},
		{"no token", []string{"--git-ca-file", web.CAFile}, []string{url, "hint: "}},
		{"wrong token", []string{"--git-ca-file", web.CAFile, "--git-token-file", wrong}, []string{url, "hint: "}},
		{"no such token file", []string{"--git-ca-file", web.CAFile, "--git-token-file", s.dir + "/none"}, []string{s.dir + "/none", "no such file"}},
		{"no such certificate file", []string{"--git-ca-file", s.dir + "/none", "--git-token-file", token}, []string{s.dir + "/none", "no such file"}},
	} {
		r := s.do(append([]string{"sync", "--repo", url, "--timeout", "20s"}, tt.args...)...)
		if r.code != 1 {
			t.Errorf("%s: status %d\n%s", tt.name, r.code, r.err)
		}
		for _, want := range tt.want {
			if !strings.Contains(r.err, want) {
				t.Errorf("%s: no %q in:\n%s", tt.name, want, r.err)
			}
		}
	}
	agent := s.start("--repo", url, "--git-ca-file", web.CAFile, "--git-token-file", token)
	s.must("sync", "--timeout", patience)
	pid := s.rows()["a"].Pid
	// The token is read at each use: a wrong one is told of and disturbs nothing, the right one helps without a restart.
	s.put("token", "agent:gone\n")
	if r := s.do("sync", "--timeout", "20s"); r.code != 1 || !strings.Contains(r.err, url) {
		t.Errorf("sync with a token that is no more: status %d\n%s", r.code, r.err)
	}
	if a := s.rows()["a"]; a.Pid != pid {
		t.Errorf("what ran was touched: %+v", a)
	}
	s.put("token", "agent:t0ken-canary\n")
	repo.CommitPush("second", sourcetest.Files{"a.yaml": busybox("a", "echo second; "+forever)})
	s.must("sync", "--timeout", patience)
	if a := s.rows()["a"]; a.Revision != repo.Head() {
		t.Errorf("not at the pushed commit: %+v", a)
	}
	s.leaksNoSecret("t0ken-canary")
	agent.stop(syscall.SIGTERM)
	if strings.Contains(agent.log.String(), "t0ken-canary") {
		t.Error("the log tells the token")
	}
}

// Over TCP everybody who may connect may look; to change something takes the token.
func TestListenOverTCP(t *testing.T) {
	s := newServer(t)
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	for _, tt := range []struct{ args, want string }{
		{"--listen nonsense", "write ADDRESS:PORT"},
		{"--listen 127.0.0.1:0 --listen-token-file /no/such/file", "/no/such/file: no such file"},
		{"--listen 127.0.0.1:0 --listen-token-file /dev/null", "it is empty"},
		{"--listen-token-file /dev/null", "name the address with --listen"},
		{"--listen 192.0.2.1:7070", "--listen 192.0.2.1:7070: "},
	} {
		if r := s.do(append([]string{"agent", "--repo", repo.Bare}, strings.Fields(tt.args)...)...); r.code != 1 || !strings.Contains(r.err, tt.want) {
			t.Errorf("agent %s: status %d\n%s", tt.args, r.code, r.err)
		}
	}
	call := func(url, method, path, token string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = answer.Body.Close() }()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	listening := func(a *agent) string {
		t.Helper()
		found := regexp.MustCompile(`msg=listening address=(\S+)`).FindStringSubmatch(a.log.String())
		if found == nil {
			t.Fatalf("the agent does not say where it listens:\n%s", a.log)
		}
		return "http://" + found[1]
	}
	first := s.start("--repo", repo.Bare, "--listen", "127.0.0.1:0")
	s.must("sync", "--timeout", patience)
	url := listening(first)
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ok", "/metrics": `reconciler_app_info{`, "/v1/status": `"Synced"`, "/v1/ps": `"Running"`, "/v1/history": repo.Head(),
	} {
		if code, body := call(url, http.MethodGet, path, ""); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d, want %q in:\n%s", path, code, want, body)
		}
	}
	if code, body := call(url, http.MethodPost, "/v1/suspend", "guess"); code != http.StatusForbidden || !strings.Contains(body, "nothing can be changed over TCP") {
		t.Errorf("POST without a token file: %d %s", code, body)
	}
	first.stop(syscall.SIGTERM)

	second := s.start("--repo", repo.Bare, "--listen", "127.0.0.1:0", "--listen-token-file", s.put("token", "secret\n"))
	s.must("sync", "--timeout", patience)
	url = listening(second)
	for _, token := range []string{"", "guess"} {
		if code, body := call(url, http.MethodPost, "/v1/suspend", token); code != http.StatusUnauthorized || strings.Contains(body, "secret") {
			t.Errorf("POST with the token %q: %d %s", token, code, body)
		}
	}
	if st := s.status(); st.Sync != report.Synced {
		t.Errorf("a stranger suspended it: %+v", st)
	}
	if code, body := call(url, http.MethodPost, "/v1/suspend", "secret"); code != http.StatusOK || !json.Valid([]byte(body)) {
		t.Errorf("POST with the token: %d %s", code, body)
	}
	if st := s.status(); st.Sync != report.Suspended {
		t.Errorf("status: %+v", st)
	}
}

// Without cgroups no container is made: doctor, sync and the agent say what is missing.
func TestWithoutCgroups(t *testing.T) {
	s := newServer(t)
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip("needs unshare, from util-linux")
	}
	repo := repository(t, sourcetest.Files{"a.yaml": busybox("a", forever)})
	// A mount namespace of its own, with something else where the kernel's cgroups were.
	hidden := func(args ...string) result {
		t.Helper()
		script := `mount -t tmpfs none /sys/fs/cgroup && exec "$@"`
		cmd := exec.Command("unshare", append([]string{"-m", "--propagation", "private", "sh", "-c", script, "sh", s.bin}, args...)...)
		cmd.Env = s.env
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	}
	if r := hidden("doctor"); r.code != 1 || !regexp.MustCompile(`cgroup controllers +missing`).MatchString(r.out) || !strings.Contains(r.out+r.err, "hint: cgroup controllers: ") {
		t.Errorf("doctor: status %d\n%s%s", r.code, r.out, r.err)
	}
	r := hidden("sync", "--repo", repo.Bare, "--allow-capture", "/bin", "--timeout", "20s")
	if r.code != 1 || !strings.Contains(r.err, "cgroup") || !strings.Contains(r.err, "hint: ") {
		t.Errorf("sync: status %d\n%s%s", r.code, r.out, r.err)
	}
}
