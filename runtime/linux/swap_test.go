package linux_test

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// lines follows the output of a container and returns what waits for its next line.
func (e *env) lines(id runtime.ID) func() string {
	e.Helper()
	return e.follow(func(ctx context.Context, opts supervisor.LogOptions) iter.Seq2[supervisor.LogEntry, error] {
		return e.Logs(ctx, id, opts)
	})
}

func (e *env) follow(logs func(context.Context, supervisor.LogOptions) iter.Seq2[supervisor.LogEntry, error]) func() string {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.Context()), time.Minute)
	found := make(chan string)
	go func() {
		defer close(found)
		for entry, err := range logs(ctx, supervisor.LogOptions{Follow: true}) {
			if err != nil {
				return
			}
			select {
			case found <- string(entry.Line):
			case <-ctx.Done():
				return
			}
		}
	}()
	e.Cleanup(func() {
		cancel()
		for range found { // until nobody reads any more
		}
	})
	return func() string {
		e.Helper()
		line, ok := <-found
		if !ok {
			e.Fatal("no more output within a minute")
		}
		return line
	}
}

// wantLines fails unless the next lines are those.
func (e *env) wantLines(next func() string, wants ...string) {
	e.Helper()
	for _, want := range wants {
		if got := next(); got != want {
			e.Fatalf("the next line is %q, want %q", got, want)
		}
	}
}

// signalled is a container whose process says what its files hold when it starts, and at each of two signals.
func (e *env) signalled() runtime.Spec {
	e.write("secret/web/token", "old")
	spec := e.sh("web", `
		trap 'echo hup $(cat /etc/web/*)' HUP; trap 'echo usr1 $(cat /run/secrets/token)' USR1
		echo start $(cat /etc/web/*) $(cat /run/secrets/token)
		sleep 1000 & while :; do wait; done`)
	spec.Mounts = []runtime.Mount{
		{Path: "/etc/web", Files: &runtime.Files{Name: "web", Signal: "SIGHUP"}},
		{Path: "/run/quiet", Files: &runtime.Files{Name: "quiet"}},
		{Path: "/run/secrets", Secret: &runtime.Secret{Name: "web", Directory: e.dir + "/secret/web", Signal: "SIGUSR1"}},
	}
	return e.withContent(spec, "one", "1")
}

// withContent is spec with another content of its files, one of whose names changes too, and another digest of its secret.
func (e *env) withContent(spec runtime.Spec, content, digest string) runtime.Spec {
	spec.Mounts = slices.Clone(spec.Mounts)
	for i, m := range spec.Mounts[:2] {
		files := *m.Files
		files.Content = map[string][]byte{"a-" + content: []byte(content), "b": []byte(content)}
		spec.Mounts[i].Files = &files
	}
	spec.SecretDigests = map[string]string{e.dir + "/secret/web": digest}
	return spec
}

func TestContentIsSwappedThenSignalled(t *testing.T) {
	for what, network := range map[string]runtime.Network{"own user ids": runtime.NetworkNone, "the server's user ids": runtime.NetworkHost} {
		t.Run(what, func(t *testing.T) {
			e := newEnv(t)
			spec := e.signalled()
			spec.Network = network
			e.swapAndLook(spec)
		})
	}
}

func (e *env) swapAndLook(spec runtime.Spec) {
	id := e.start(spec)
	next := e.lines(id)
	e.wantLines(next, "start oneone old")
	before := e.status(id)
	update := func(content, digest string) {
		e.Helper()
		now := e.withContent(spec, content, digest)
		if err := e.Update(e.Context(), id, now); err != nil {
			e.Fatal(err)
		}
		spec = now
	}
	update("two", "1")
	e.wantLines(next, "hup twotwo")
	if out, _ := e.exec(id, "sh", "-c", "cat /run/quiet/*; ls /etc/web /run/quiet; ls -ln /etc/web/..data/; echo x >/etc/web/b || echo read-only"); !strings.Contains(out, "twotwo") ||
		strings.Contains(out, "a-one") || strings.Count(out, " 0        0 ") != 2 || !strings.Contains(out, "read-only") {
		e.Errorf("inside there is:\n%s", out)
	}
	// A Secret is read again when its digest is another, and only then.
	e.write("secret/web/token", canary)
	update("three", "1")
	e.wantLines(next, "hup threethree")
	update("three", "2")
	e.wantLines(next, "usr1 "+canary)
	e.onlyInMemory(canary)
	// Nothing is signalled that did not change: the next line is that of the next change.
	update("three", "2")
	update("four", "2")
	e.wantLines(next, "hup fourfour")
	after := e.status(id)
	if after.Pid != before.Pid || after.Starts != 1 || !after.StartedAt.Equal(before.StartedAt) {
		e.Errorf("before %+v, after %+v", before, after)
	}
	// Later starts have what is there now.
	if err := e.Stop(e.Context(), id, 0); err != nil {
		e.Fatal(err)
	}
	update("five", "2")
	if err := e.Start(e.Context(), id); err != nil {
		e.Fatal(err)
	}
	e.wantLines(next, "start fivefive "+canary)
}

// onlyInMemory fails where a file of the instance holds a secret, but those in memory and what the server's own are.
func (e *env) onlyInMemory(secret string) {
	e.Helper()
	for _, top := range []string{e.cfg.StateDir, e.cfg.RunDir} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case path == e.cfg.RunDir+"/containers":
				return fs.SkipDir
			case !d.Type().IsRegular() || strings.HasPrefix(d.Name(), "stdout."): // which its process prints for this test
				return nil
			}
			data, err := os.ReadFile(path)
			if strings.Contains(string(data), secret) {
				e.Errorf("%s holds the secret", path)
			}
			return err
		})
		if err != nil {
			e.Error(err)
		}
	}
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = mounts.Close() }()
	for scanner := bufio.NewScanner(mounts); scanner.Scan(); {
		if fields := strings.Fields(scanner.Text()); fields[1] == e.cfg.RunDir+"/containers" {
			if fields[2] != "ramfs" && !strings.Contains(fields[3], "noswap") {
				e.Errorf("what secrets are kept in may be swapped: %v", fields)
			}
			return
		}
	}
	e.Error("no file system in memory for secrets")
}

// Whoever sees the old spec after an Update was cut short asks again: the files are those of the new one, and the signal
// came at least once.
func TestSwapThatWasCutShortIsDoneAgain(t *testing.T) {
	e := newEnv(t)
	spec := e.signalled()
	id := e.start(spec)
	next := e.lines(id)
	e.wantLines(next, "start oneone old")
	record := filepath.Join(e.cfg.StateDir, "containers", string(id), "spec.json")
	old, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := os.WriteFile(record, old, 0o600); err != nil { // as if the agent died before it wrote another
			t.Fatal(err)
		}
		if err := e.Update(t.Context(), id, e.withContent(spec, "two", "1")); err != nil {
			t.Fatal(err)
		}
		e.wantLines(next, "hup twotwo")
	}
}
