package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"gopkg.in/yaml.v3"

	"reconciler/manifest"
	"reconciler/reconcile/source/sourcetest"
)

// inPlace is one change that is taken over without touching the process.
type inPlace struct {
	name string
	// meta and spec are lines of the container's metadata and spec; those of the case before are gone again.
	meta, spec string
	config     string // the content of its Config; what it was where empty
	// effect looks at what the change does, where that can be seen. The process is known to be the same.
	effect func(c *inPlaceCase)
}

type inPlaceCase struct {
	*server
	t    *testing.T
	port int       // of this server, that is free
	logs *follower // of the container
}

// limit looks at a limit from inside, by the file of cgroup v1 or of v2.
func limit(v1, v2, want string) func(c *inPlaceCase) {
	return func(c *inPlaceCase) {
		out := c.must("exec", "web", "--", "/bin/busybox", "sh", "-c", fmt.Sprintf("cat /sys/fs/cgroup/%s 2>/dev/null || cat /sys/fs/cgroup/%s", v1, v2))
		if !strings.HasPrefix(out, want) {
			c.t.Errorf("the limit is %q, want %s", out, want)
		}
	}
}

// probe is a probe of each sort that does well, with every field that it has.
func probe(field, action, more string) inPlace {
	return inPlace{name: field + " " + action, spec: fmt.Sprintf("%s: {%s, initialDelaySeconds: 1, periodSeconds: 1, timeoutSeconds: 30, "+
		"failureThreshold: 100%s}", field, action, more)}
}

func inPlaceChanges(port int) []inPlace {
	const (
		run    = "exec: {command: [/bin/busybox, 'true']}"
		page   = "httpGet: {path: /index.html, port: http, host: web, scheme: HTTP, httpHeaders: [{name: X-A, value: b}]}"
		socket = "tcpSocket: {port: 8080, host: 127.0.0.1}"
	)
	changes := []inPlace{
		{name: "labels and annotations", meta: "labels: {app: web}, annotations: {owner: us}"},
		{name: "platform", spec: "platform: {architectures: [amd64, arm64], kernel: '>= 4.0'}"},
		{name: "imagePullPolicy", spec: "imagePullPolicy: Never"},
		{name: "requests", spec: "resources: {requests: {cpu: 1m, memory: 1Mi}}"},
		{name: "cpu", spec: "resources: {limits: {cpu: 500m}}", effect: limit("cpu/cpu.cfs_quota_us", "cpu.max", "50000")},
		{name: "memory", spec: "resources: {limits: {memory: 256Mi}}", effect: limit("memory/memory.limit_in_bytes", "memory.max", "268435456")},
		{name: "pids", spec: "resources: {limits: {pids: 123}}", effect: limit("pids/pids.max", "pids.max", "123")},
		{name: "bandwidth", spec: "resources: {limits: {ingress: 50M, egress: 60M}}"},
		{
			name: "ports",
			spec: fmt.Sprintf("ports: [{name: http, containerPort: 8080}, {name: more, containerPort: 8080, hostPort: %d, protocol: TCP, hostIP: 127.0.0.1, allow: [127.0.0.0/8]}]", port),
			effect: func(c *inPlaceCase) {
				if got, err := get(c.t, c.port); err != nil || got != "a page\n" {
					c.t.Errorf("the port answers %q, %v", got, err)
				}
			},
		},
		{
			name: "allow",
			spec: fmt.Sprintf("ports: [{name: http, containerPort: 8080}, {name: more, containerPort: 8080, hostPort: %d, protocol: TCP, hostIP: 127.0.0.1, allow: [127.0.0.1, 10.0.0.0/8]}]", port),
		},
		{name: "logs", spec: "logs: {maxSize: 16Ki, maxFiles: 2}", effect: shortLogs},
		{name: "restart policy", spec: "restartPolicy: OnFailure"},
		{name: "backoff", spec: "restartBackoff: {initial: 1s, max: 2s}"},
		{name: "dependsOn", spec: "dependsOn: [{name: db, condition: Started}]"},
		{name: "strategy", spec: "strategy: {type: StartFirst, minReadySeconds: 1, progressDeadlineSeconds: 30, rollback: false}"},
		{name: "onChange", spec: "mounts: [{path: /etc/web, config: web, onChange: none}, {path: /run/secrets, secret: web, onChange: {signal: SIGUSR2}}]"},
		{name: "content without a signal", config: "two", spec: "mounts: [{path: /etc/web, config: web, onChange: none}, {path: /run/secrets, secret: web, onChange: {signal: SIGUSR2}}]", effect: func(c *inPlaceCase) {
			if out := c.must("exec", "web", "--", "/bin/busybox", "cat", "/etc/web/app.conf"); out != "two\n" {
				c.t.Errorf("the file holds %q", out)
			}
		}},
		{name: "content with a signal", config: "three", effect: func(c *inPlaceCase) { c.logs.await("hangup three") }},
		{name: "content of a Secret", meta: "labels: {secret: new}", effect: func(c *inPlaceCase) {
			sourcetest.WriteTree(c.t, c.secret, sourcetest.Files{"web/token": "another"})
			c.logs.await("user another")
		}},
		{name: "lifecycle", spec: "lifecycle: {postStart: {" + run + "}, preStop: {" + run + "}}"},
		{name: "lifecycle by http", spec: "lifecycle: {postStart: {" + page + "}, preStop: {" + page + "}}"},
	}
	for _, field := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
		more := ", terminationGracePeriodSeconds: 2"
		if field == "readinessProbe" {
			more = ", successThreshold: 2"
		}
		changes = append(changes, probe(field, run, more), probe(field, page, more), probe(field, socket, more))
	}
	// The last: how it is stopped is seen when it is.
	return append(changes, inPlace{
		name: "grace period and stop signal", spec: "{terminationGracePeriodSeconds: 50, stopSignal: SIGUSR1}",
		effect: func(c *inPlaceCase) {
			c.must("restart", "web")
			c.logs.await("stopped by USR1")
		},
	})
}

// shortLogs writes more than may be kept, and looks at what is kept.
func shortLogs(c *inPlaceCase) {
	c.must("exec", "web", "--", "/bin/busybox", "sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i of many that are not kept; i=$((i+1)); done >/proc/1/fd/1; echo end of many >/proc/1/fd/1")
	c.logs.await("end of many")
	kept, err := filepath.Glob(filepath.Join(c.state(), "containers", "web-*", "stdout.*"))
	if err != nil || len(kept) != 2 {
		c.t.Errorf("kept are %v, %v, want two files", kept, err)
	}
	for _, path := range kept {
		if st, err := os.Stat(path); err != nil || st.Size() > 16<<10 {
			c.t.Errorf("%s: %v, %v: larger than 16Ki", path, st.Size(), err)
		}
	}
}

const inPlaceScript = `
trap 'echo hangup $(cat /etc/web/app.conf)' HUP
trap 'echo user $(cat /run/secrets/token)' USR2
trap 'echo stopped by USR1; exit 0' USR1
trap 'exit 0' TERM
echo a page >/index.html
/bin/busybox httpd -p 8080 -h /
echo up
sleep 100000 & while :; do wait; done`

// files returns the repository of a case.
func (p inPlace) files(t *testing.T, secrets string) sourcetest.Files {
	t.Helper()
	spec := map[string]any{
		"capture": map[string]any{"paths": []string{"/bin/busybox"}}, "command": []string{"/bin/busybox", "sh", "-c"},
		"args": []string{inPlaceScript}, "init": true, "network": "bridge", "terminationGracePeriodSeconds": 5,
		"ports": []any{map[string]any{"name": "http", "containerPort": 8080}},
		"mounts": []any{
			map[string]any{"path": "/etc/web", "config": "web", "onChange": map[string]any{"signal": "SIGHUP"}},
			map[string]any{"path": "/run/secrets", "secret": "web", "onChange": map[string]any{"signal": "SIGUSR2"}},
		},
	}
	var more map[string]any
	if err := yaml.Unmarshal([]byte(p.spec), &more); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	maps.Copy(spec, more)
	text, err := json.Marshal(spec) // which is YAML too
	if err != nil {
		t.Fatal(err)
	}
	meta := "name: web"
	if p.meta != "" {
		meta += ", " + p.meta
	}
	content := p.config
	if content == "" {
		content = "one"
	}
	return sourcetest.Files{
		"web.yaml": fmt.Sprintf("apiVersion: reconciler/v1\nkind: Container\nmetadata: {%s}\nspec: %s\n", meta, text),
		"more.yaml": busybox("db", forever) + fmt.Sprintf("---\napiVersion: reconciler/v1\nkind: Config\nmetadata: {name: web}\ndata: {app.conf: \"%s\\n\"}\n"+
			"---\napiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: web}\nspec: {fromDirectory: %s/web}\n", content, secrets),
	}
}

// web reads the container of a case as the agent does.
func web(files sourcetest.Files) (manifest.Workload, error) {
	tree := fstest.MapFS{}
	for name, content := range files {
		tree[name] = &fstest.MapFile{Data: []byte(content)}
	}
	set, err := manifest.Load(tree, manifest.Revision{Commit: "aa"}, manifest.Node{Name: "n1"})
	if err != nil {
		return manifest.Workload{}, err
	}
	for _, w := range set.Workloads {
		if w.Name.Name == "web" {
			return w, nil
		}
	}
	return manifest.Workload{}, os.ErrNotExist
}

// Everything that a change is taken over of without touching the process, field by field, on a real container.
func TestChangesThatKeepTheProcess(t *testing.T) {
	s := newServer(t)
	sourcetest.WriteTree(t, s.secret, sourcetest.Files{"web/token": "token"})
	first := inPlace{}.files(t, s.secret)
	repo := repository(t, first)
	before, err := web(first)
	if err != nil {
		t.Fatal(err)
	}
	s.start("--repo", repo.Bare)
	s.must("sync", "--timeout", patience)
	c := &inPlaceCase{server: s, t: t, port: freePort(t), logs: s.follow("logs", "-f", "web")}
	c.logs.await("up")
	then := s.rows()["web"]
	changed := map[string]bool{}
	for _, change := range inPlaceChanges(c.port) {
		files := change.files(t, s.secret)
		now, err := web(files)
		if err != nil {
			t.Fatalf("%s: %v", change.name, err)
		}
		for _, field := range manifest.Diff(before, now) {
			if field.Class != manifest.ClassTakeOver && field.Class != manifest.ClassLimits {
				t.Errorf("%s: a change of %s is of class %s", change.name, field.Field, field.Class)
			}
			changed[plainField(field.Field)] = true
		}
		before = now
		repo.CommitPush(change.name, files)
		s.must("sync", "--timeout", patience)
		row := s.rows()["web"]
		if row.Pid != then.Pid || row.Restarts != 0 || row.StartedAt == nil || !row.StartedAt.Equal(*then.StartedAt) || row.Revision != repo.Head() {
			t.Fatalf("%s: the process was touched, or the change not taken over (%s):\n%+v, was\n%+v", change.name, repo.Head(), row, then)
		}
		if change.effect != nil {
			change.effect(c)
		}
	}
	changed["readinessProbe.terminationGracePeriodSeconds"] = true                                   // which no manifest may have
	changed["startupProbe.successThreshold"], changed["livenessProbe.successThreshold"] = true, true // or only the default
	for _, field := range fieldsInPlace() {
		if !covered(changed, field) {
			t.Errorf("no case changes spec.%s, which keeps the process: add it to inPlaceChanges", field)
		}
	}
}

// plainField is the path of a changed field in the spec, without the items of lists.
func plainField(field string) string {
	return strings.TrimPrefix(regexp.MustCompile(`\[[^\]]*\]`).ReplaceAllString(field, ""), "spec.")
}

// covered says whether a field, or what it is a part of, is among those that changed.
func covered(changed map[string]bool, field string) bool {
	for at := field; at != ""; at = at[:max(strings.LastIndexByte(at, '.'), 0)] {
		if changed[at] {
			return true
		}
	}
	return false
}

// fieldsInPlace are the fields of a Container's spec whose change keeps the process.
func fieldsInPlace() []string {
	classes := manifest.Classes()
	var found []string
	var walk func(typ reflect.Type, path string, class manifest.Class)
	walk = func(typ reflect.Type, path string, class manifest.Class) {
		if own, ok := classes[path]; ok {
			class = own
		}
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		inner := false
		if typ.Kind() == reflect.Struct {
			for f := range typ.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if name == "" || name == "-" { // those of Jobs are embedded
					continue
				}
				inner = true
				walk(f.Type, strings.TrimPrefix(path+"."+name, "."), class)
			}
		}
		if !inner && (class == manifest.ClassTakeOver || class == manifest.ClassLimits) {
			found = append(found, path)
		}
	}
	walk(reflect.TypeFor[manifest.Spec](), "", "")
	return found
}
