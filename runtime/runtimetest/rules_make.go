package runtimetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"reconciler/runtime"
)

func show(code *int) string {
	if code == nil {
		return "unknown"
	}
	return strconv.Itoa(*code)
}

func (s *suite) prepare() {
	spec := s.Forever(name("web"))
	first, err := s.Runtime.Prepare(s.ctx(), spec, runtime.Inputs{})
	s.must("prepare", err)
	second, err := s.Runtime.Prepare(s.ctx(), spec, runtime.Inputs{})
	s.must("prepare again", err)
	if first.ImageDigest == "" || first.ImageDigest != second.ImageDigest {
		s.Errorf("image digests of two preparations are %q and %q, want the same", first.ImageDigest, second.ImageDigest)
	}
	if list := s.list(); len(list) != 0 {
		s.Errorf("prepare made %d containers", len(list))
	}
	id, err := s.Runtime.Create(s.ctx(), spec)
	s.must("create", err)
	if got := s.status(id).ImageDigest; got != first.ImageDigest {
		s.Errorf("image digest is %q, was prepared as %q", got, first.ImageDigest)
	}
}

func (s *suite) prepareRefuses() {
	if len(s.Impossible) == 0 {
		s.Skip("this runtime takes every spec")
	}
	for what, spec := range s.Impossible {
		_, err := s.Runtime.Prepare(s.ctx(), spec, runtime.Inputs{})
		if err == nil {
			s.Errorf("%s: prepared", what)
			continue
		}
		s.isError(what, err)
		if !runtime.IsPermanent(err) {
			s.Errorf("%s: %v: is not permanent", what, err)
		}
	}
	if list := s.list(); len(list) != 0 {
		s.Errorf("refused specs left %d containers", len(list))
	}
}

func (s *suite) create() {
	c := s.status(s.created(s.Forever(name("web"))))
	if c.State != runtime.StateCreated || c.Pid != 0 || c.Starts != 0 || c.ExitCode != nil {
		s.Errorf("created container is %s with pid %d, %d starts, exit code %s", c.State, c.Pid, c.Starts, show(c.ExitCode))
	}
	if c.CreatedAt.IsZero() || !c.StartedAt.IsZero() || !c.FinishedAt.IsZero() {
		s.Errorf("created at %v, started at %v, finished at %v", c.CreatedAt, c.StartedAt, c.FinishedAt)
	}
}

func (s *suite) specComesBack() {
	spec := s.Forever(name("web"))
	spec.Origin = json.RawMessage(`{"kind":"Container","spec":{"x":"<&>"}}`)
	spec.OriginDigest, spec.Revision = "sha256:aa", "0123abcd"
	spec.SecretDigests = map[string]string{"/etc/secrets/web": "hmac:1"}
	spec.Env = []runtime.EnvVar{{Name: "A", Value: "1"}}
	got := s.status(s.created(spec)).Spec
	if want := encode(s, spec); encode(s, got) != want {
		s.Errorf("spec came back as\n%s\nwant\n%s", encode(s, got), want)
	}
}

// encode compacts the JSON of v, so that an Origin that was indented on its way is still the same.
func encode(s *suite, v any) string {
	b, err := json.Marshal(v)
	s.must("encode", err)
	return string(b)
}

func (s *suite) start() {
	c := s.status(s.started(s.Forever(name("web"))))
	if c.State != runtime.StateRunning || c.Pid <= 0 || c.Starts != 1 || c.ExitCode != nil || c.Stopped {
		s.Errorf("started container is %s with pid %d, %d starts, exit code %s, stopped %v", c.State, c.Pid, c.Starts, show(c.ExitCode), c.Stopped)
	}
	if c.StartedAt.IsZero() || !c.FinishedAt.IsZero() || c.Ran < 0 {
		s.Errorf("started at %v, finished at %v, ran %v", c.StartedAt, c.FinishedAt, c.Ran)
	}
	if c.Hostname == "" {
		s.Error("no host name")
	}
}

func (s *suite) startRunning() {
	id := s.started(s.Forever(name("web")))
	before := s.status(id)
	s.must("start again", s.Runtime.Start(s.ctx(), id))
	after := s.status(id)
	if before.Pid != after.Pid || after.Starts != 1 || !before.StartedAt.Equal(after.StartedAt) {
		s.Errorf("start of what runs: pid %d -> %d, %d starts", before.Pid, after.Pid, after.Starts)
	}
}

func (s *suite) update() {
	spec := s.Forever(name("web"))
	spec.OriginDigest = "sha256:old"
	id := s.started(spec)
	before := s.status(id)
	spec.OriginDigest, spec.Revision = "sha256:new", "4567"
	spec.Limits.Pids = 64
	s.must("update", s.Runtime.Update(s.ctx(), id, spec))
	after := s.status(id)
	if after.Pid != before.Pid || after.Starts != 1 || after.State != runtime.StateRunning {
		s.Errorf("update: pid %d -> %d, %d starts, %s", before.Pid, after.Pid, after.Starts, after.State)
	}
	if encode(s, after.Spec) != encode(s, spec) {
		s.Errorf("after update the spec is %s", encode(s, after.Spec))
	}
}

func (s *suite) updateFiles() {
	spec := s.Forever(name("web"))
	files := func(content string) []runtime.Mount {
		return []runtime.Mount{{Path: "/etc/web", ReadOnly: true, Files: &runtime.Files{
			Name: "web", Content: map[string][]byte{"app.conf": []byte(content)}, Signal: "SIGWINCH", // which ends nothing
		}}}
	}
	spec.Mounts = files("1")
	id := s.ready(spec)
	before := s.status(id)
	for range 2 { // again, as after an agent that died in the middle
		spec.Mounts = files("2")
		s.must("update", s.Runtime.Update(s.ctx(), id, spec))
	}
	after := s.status(id)
	if after.Pid != before.Pid || after.Starts != 1 || after.State != runtime.StateRunning {
		s.Errorf("update: pid %d -> %d, %d starts, %s", before.Pid, after.Pid, after.Starts, after.State)
	}
	if encode(s, after.Spec) != encode(s, spec) {
		s.Errorf("after update the spec is %s", encode(s, after.Spec))
	}
}

func (s *suite) updateStopped() {
	spec := s.Exits(name("web"), 0)
	id := s.created(spec)
	spec.Revision = "while created"
	s.must("update of created", s.Runtime.Update(s.ctx(), id, spec))
	if got := s.status(id); got.Spec.Revision != "while created" || got.State != runtime.StateCreated {
		s.Errorf("update of a created container: %s at revision %q", got.State, got.Spec.Revision)
	}
	s.must("start", s.Runtime.Start(s.ctx(), id))
	s.untilExited(id)
	spec.Revision = "while exited"
	s.must("update of exited", s.Runtime.Update(s.ctx(), id, spec))
	if got := s.status(id); got.Spec.Revision != "while exited" || got.State != runtime.StateExited || got.Starts != 1 {
		s.Errorf("update of an exited container: %s at revision %q, %d starts", got.State, got.Spec.Revision, got.Starts)
	}
}

func (s *suite) listOrder() {
	var want []runtime.ID
	b1 := s.created(s.Forever(name("b")))
	x := s.created(s.Forever(runtime.Name{Namespace: "shop", Name: "a"}))
	a := s.created(s.Forever(name("a")))
	b2 := s.created(s.Forever(name("b")))
	early := s.created(s.Forever(runtime.Name{Namespace: "aaa", Name: "z"}))
	want = append(want, early, a, b1, b2, x)
	var got []runtime.ID
	for _, c := range s.list() {
		got = append(got, c.ID)
	}
	if !slices.Equal(got, want) {
		s.Errorf("list is %v, want aaa/z, default/a, both default/b by age, shop/a: %v", got, want)
	}
}

func (s *suite) sameName() {
	first := s.started(s.Forever(name("web")))
	second := s.started(s.Forever(name("web")))
	a, b := s.status(first), s.status(second)
	if a.State != runtime.StateRunning || b.State != runtime.StateRunning || a.Pid == b.Pid {
		s.Errorf("two containers of one name: %s with pid %d, %s with pid %d", a.State, a.Pid, b.State, b.Pid)
	}
	s.must("remove the first", s.Runtime.Remove(s.ctx(), first))
	if c := s.status(second); c.Pid != b.Pid || c.State != runtime.StateRunning {
		s.Errorf("after the first was removed the second is %s with pid %d, was %d", c.State, c.Pid, b.Pid)
	}
}

func (s *suite) identities() {
	seen := map[runtime.ID]bool{}
	for range 3 {
		id := s.created(s.Forever(name("web")))
		if seen[id] || id == "" {
			s.Errorf("identity %q was used before", id)
		}
		if strings.ContainsAny(string(id), "/\x00") || strings.HasPrefix(string(id), ".") {
			s.Errorf("identity %q is not safe as a file name", id)
		}
		seen[id] = true
		s.must("remove", s.Runtime.Remove(s.ctx(), id))
	}
}

// isError fails unless err is an *runtime.Error that says what was tried and why it failed.
func (s *suite) isError(what string, err error) {
	s.Helper()
	var e *runtime.Error
	switch {
	case err == nil:
		s.Errorf("%s: no error", what)
	case !errors.As(err, &e):
		s.Errorf("%s: %v is a %s, want a *runtime.Error", what, err, reflect.TypeOf(err))
	case e.Op == "" || e.Err == nil:
		s.Errorf("%s: error %s says not what was tried or why it failed", what, fmt.Sprintf("%+v", *e))
	}
}
