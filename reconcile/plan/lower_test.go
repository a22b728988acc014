package plan_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// loaded returns the one workload of manifests, which may refer to the Config c and the Secret s.
func loaded(t *testing.T, manifests string) manifest.Workload {
	t.Helper()
	const more = `
---
apiVersion: reconciler/v1
kind: Config
metadata: {name: c}
data: {A: from c, B: from c, app.conf: "workers = 4\n", "1st": x}
---
apiVersion: reconciler/v1
kind: Secret
metadata: {name: s}
spec: {fromDirectory: /etc/secrets/s}
`
	set, err := manifest.Load(fstest.MapFS{
		"app.yaml":     {Data: []byte("apiVersion: reconciler/v1\nkind: Container\n" + manifests + more)},
		"profile.json": {Data: []byte(`{"defaultAction": "SCMP_ACT_ALLOW"}`)},
	},
		manifest.Revision{Commit: "aa"}, manifest.Node{Name: "n1", Labels: map[string]string{"zone": "north"}})
	if err != nil {
		t.Fatal(err)
	}
	return set.Workloads[0]
}

// TestLower shows what each field of a manifest comes to, as the JSON of the part of the spec that has it.
func TestLower(t *testing.T) {
	cases := []struct{ name, spec, field, want string }{
		{"image", `image: web:1`, "image", `{"ref":"web:1","pullPolicy":"IfNotPresent"}`},
		{"latest is looked up always", `image: web`, "image", `{"ref":"web","pullPolicy":"Always"}`},
		{"capture", `capture: {paths: [/usr/bin/sh, {from: /etc/a, to: /b}]}`, "capture", `[{"from":"/usr/bin/sh","to":"/usr/bin/sh"},{"from":"/etc/a","to":"/b"}]`},
		{"host name is the name", `image: w:1`, "hostname", `"web"`},
		{"host name", `{image: w:1, hostname: other}`, "hostname", `"other"`},
		{"network", `image: w:1`, "network", `"bridge"`},
		{"no network", `{image: w:1, network: none}`, "network", `"none"`},
		{"host network", `{image: w:1, network: host, securityContext: {hostUsers: true}}`, "network", `"host"`},
		{
			"published ports", `{image: w:1, ports: [{name: http, containerPort: 8080, hostPort: 80}, {name: metrics, containerPort: 9090}, {containerPort: 53, hostPort: 53, protocol: UDP, hostIP: "::ffff:10.0.0.1", allow: [10.1.2.3/8, 192.168.0.1, "fd00::1"]}]}`, "ports",
			`[{"name":"http","hostPort":80,"containerPort":8080,"protocol":"TCP"},{"hostIP":"10.0.0.1","hostPort":53,"containerPort":53,"protocol":"UDP","allow":["10.0.0.0/8","192.168.0.1/32","fd00::1/128"]}]`,
		},
		{"ports of the server itself", `{image: w:1, network: host, securityContext: {hostUsers: true}, ports: [{containerPort: 80, hostPort: 80}]}`, "ports", `null`},
		{"names", `{image: w:1, dns: {nameservers: [1.1.1.1], search: [example.com], options: ["ndots:2"]}}`, "dns", `{"nameservers":["1.1.1.1"],"search":["example.com"],"options":["ndots:2"]}`},
		{"hosts", `{image: w:1, extraHosts: {printer: 10.1.2.3}}`, "extraHosts", `{"printer":"10.1.2.3"}`},
		{
			"limits", `{image: w:1, resources: {requests: {cpu: 1m}, limits: {cpu: 250m, memory: 64Mi, pids: 20, disk: 1Gi, ingress: 10M, egress: 8k}}}`, "limits",
			`{"cpuMillis":250,"memory":67108864,"pids":20,"disk":1073741824,"ingress":10000000,"egress":8000}`,
		},
		{"logs", `image: w:1`, "logs", `{"maxSize":10485760,"maxFiles":3}`},
		{"grace", `image: w:1`, "stopGrace", fmt.Sprint(int64(10 * time.Second))},
		{"no grace", `{image: w:1, terminationGracePeriodSeconds: 0}`, "stopGrace", `0`},
		{"init", `{image: w:1, init: true}`, "init", `true`},
		{
			"mounts", `{image: w:1, mounts: [{path: /d, volume: data}, {path: /e, volume: {name: both, size: 1Gi}, shared: true, readOnly: true}, {path: /h, hostPath: /srv, readOnly: true}, {path: /t, tmpfs: 1Mi}]}`, "mounts",
			`[{"path":"/d","volume":{"name":"data"}},{"path":"/e","readOnly":true,"volume":{"name":"both","shared":true,"size":1073741824}},{"path":"/h","readOnly":true,"hostPath":"/srv"},{"path":"/t","tmpfs":{"size":1048576}}]`,
		},
		{
			"one key of a Config", `{image: w:1, mounts: [{path: /x, config: c, key: app.conf, mode: "0600"}]}`, "mounts",
			`[{"path":"/x","readOnly":true,"files":{"name":"c","key":"app.conf","mode":384,"content":{"app.conf":"d29ya2VycyA9IDQK"}}}]`,
		},
		{
			"init containers", `{image: w:1, command: [web], env: {A: "1", B: "$(A)"}, envFrom: [{secret: s}], mounts: [{path: /t, tmpfs: 1Mi}], securityContext: {hostUsers: false, runAsUser: 5}, initContainers: [` +
				`{name: one, args: ["$(B)"]}, {name: two, image: "tool:1", command: [t], workingDir: /w, env: {A: "2", C: "$(B)"}, envFrom: [{config: c}], mounts: [{path: /u, tmpfs: 1Mi}], securityContext: {runAsUser: 7}}]}`, "initContainers",
			`[{"name":"one","args":["1"],"env":[{"name":"A","value":"1"},{"name":"B","value":"1"}],"envFrom":[{"secretDirectory":"/etc/secrets/s"}]},` +
				`{"name":"two","image":{"ref":"tool:1","pullPolicy":"IfNotPresent"},"command":["t"],"workingDir":"/w",` +
				`"env":[{"name":"A","value":"2"},{"name":"B","value":"2"},{"name":"C","value":"2"},{"name":"app.conf","value":"workers = 4\n"}],"envFrom":[{"secretDirectory":"/etc/secrets/s"}],` +
				`"mounts":[{"path":"/u","tmpfs":{"size":1048576}}],"security":{"hostUsers":false,"user":7}}]`,
		},
		{
			"signals", `{image: w:1, mounts: [{path: /x, config: c, onChange: {signal: SIGHUP}}, {path: /y, secret: s, onChange: {signal: SIGUSR1}}, {path: /z, secret: s, onChange: none}]}`, "mounts",
			`[{"path":"/x","readOnly":true,"files":{"name":"c","mode":420,"content":{"1st":"eA==","A":"ZnJvbSBj","B":"ZnJvbSBj","app.conf":"d29ya2VycyA9IDQK"},"signal":"SIGHUP"}},` +
				`{"path":"/y","readOnly":true,"secret":{"name":"s","directory":"/etc/secrets/s","mode":420,"signal":"SIGUSR1"}},` +
				`{"path":"/z","readOnly":true,"secret":{"name":"s","directory":"/etc/secrets/s","mode":420}}]`,
		},
		{
			"secret", `{image: w:1, mounts: [{path: /x, secret: s}, {path: /y, secret: s, key: k}]}`, "mounts",
			`[{"path":"/x","readOnly":true,"secret":{"name":"s","directory":"/etc/secrets/s","mode":420}},{"path":"/y","readOnly":true,"secret":{"name":"s","directory":"/etc/secrets/s","key":"k","mode":420}}]`,
		},
		{
			"security", `{image: w:1, securityContext: {runAsUser: 0, runAsGroup: 5, supplementalGroups: [20], readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [CHOWN]}, seccompProfile: {type: Unconfined}}}`, "security",
			`{"user":0,"group":5,"supplementalGroups":[20],"readOnlyRoot":true,"capAdd":["CHOWN"],"capDrop":["ALL"],"seccompUnconfined":true}`,
		},
		{
			"seccomp profile of the repository", `{image: w:1, securityContext: {seccompProfile: {type: Localhost, localhostProfile: profile.json}}}`, "security",
			`{"seccompProfile":"eyJkZWZhdWx0QWN0aW9uIjogIlNDTVBfQUNUX0FMTE9XIn0="}`,
		},
		{"devices", `{image: w:1, devices: [{path: /dev/fuse}, {path: /dev/kvm, permissions: r}]}`, "devices", `[{"path":"/dev/fuse","permissions":"rw"},{"path":"/dev/kvm","permissions":"r"}]`},
		{"ulimits", `{image: w:1, ulimits: {nofile: 4096, memlock: -1}}`, "ulimits", `{"nofile":4096,"memlock":-1}`},
		{"sysctls", `{image: w:1, sysctls: {net/core/somaxconn: 1024}}`, "sysctls", `{"net.core.somaxconn":"1024"}`},
		{"privileged", `{image: w:1, securityContext: {privileged: true}}`, "security", `{"privileged":true,"allowPrivilegeEscalation":true,"seccompUnconfined":true,"appArmor":"unconfined"}`},
		{"AppArmor profile", `{image: w:1, securityContext: {appArmorProfile: {type: Localhost, localhostProfile: web}}}`, "security", `{"appArmor":"web"}`},
		{"no AppArmor profile", `{image: w:1, securityContext: {appArmorProfile: {type: Unconfined}}}`, "security", `{"appArmor":"unconfined"}`},
		{"AppArmor of the server", `{image: w:1, securityContext: {appArmorProfile: {type: RuntimeDefault}}}`, "security", `{}`},
		{"names of users", `{image: w:1, securityContext: {runAsUser: web, runAsGroup: "5"}}`, "security", `{"userName":"web","group":5}`},
		{"no security", `image: w:1`, "security", `{}`},
		{
			"env of every sort", `{image: w:1, env: {P: 8080, N: {node: name}, Z: {label: zone}, T: {secret: s, key: k}, C: {config: c, key: A}}}`, "env",
			`[{"name":"C","value":"from c"},{"name":"N","value":"n1"},{"name":"P","value":"8080"},{"name":"T","secret":{"directory":"/etc/secrets/s","key":"k"}},{"name":"Z","value":"north"}]`,
		},
		{
			"references", `{image: w:1, env: {A: "$(B)/$(D)", B: "b-$(ZONE)", ZONE: {label: zone}, PATH: "$(PATH):/x", E: "$$(A)"}}`, "env",
			`[{"name":"A","value":"b-north/$(D)"},{"name":"B","value":"b-north"},{"name":"E","value":"$(A)"},{"name":"PATH","value":"$(PATH):/x"},{"name":"ZONE","value":"north"}]`,
		},
		{"command", `{image: w:1, command: [a, "$(N)", "$$(N)", "$(date)"], env: {N: "1"}}`, "command", `["a","1","$(N)","$(date)"]`},
		{"args", `{image: w:1, args: ["$(A)"], envFrom: [{config: c}]}`, "args", `["from c"]`},
		{
			"whole Config, overruled by env", `{image: w:1, envFrom: [{config: c}], env: {B: mine}}`, "env",
			`[{"name":"A","value":"from c"},{"name":"B","value":"mine"},{"name":"app.conf","value":"workers = 4\n"}]`,
		},
		{"whole Secret before a Config", `{image: w:1, envFrom: [{secret: s}, {config: c}]}`, "envFrom", `[{"secretDirectory":"/etc/secrets/s"}]`},
		{
			"whole Secret after a Config wins over it", `{image: w:1, envFrom: [{config: c}, {secret: s}]}`, "envFrom",
			`[{"values":{"A":"from c","B":"from c","app.conf":"workers = 4\n"}},{"secretDirectory":"/etc/secrets/s"}]`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			indented := strings.TrimSpace(c.spec)
			if !strings.HasPrefix(indented, "{") {
				indented = "{" + indented + "}"
			}
			spec, err := plan.Lower(loaded(t, "metadata: {name: web}\nspec: "+indented))
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(b, &fields); err != nil {
				t.Fatal(err)
			}
			var got, want any
			if err := json.Unmarshal(orNull(fields[c.field]), &got); err != nil {
				t.Fatalf("%s: %v in %s", c.field, err, b)
			}
			if err := json.Unmarshal([]byte(c.want), &want); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s is\n%s\nwant\n%s", c.field, fields[c.field], c.want)
			}
		})
	}
}

// orNull is what a field that is left out means.
func orNull(b json.RawMessage) json.RawMessage {
	if b == nil {
		return json.RawMessage("null")
	}
	return b
}

func TestLowerKeepsWhatItWasMadeFrom(t *testing.T) {
	w := loaded(t, "metadata: {name: web, labels: {app: web}}\nspec: {image: w:1, mounts: [{path: /c, config: c}]}")
	spec, err := plan.Lower(w)
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifest.DecodeWorkload(spec.Origin)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, w) || spec.OriginDigest != w.Digest || spec.Name != (runtime.Name{Namespace: "default", Name: "web"}) {
		t.Errorf("origin is %+v, want %+v", got, w)
	}
	again, err := plan.Lower(got)
	if err != nil || !reflect.DeepEqual(again, spec) {
		t.Errorf("lowered from its origin it is %+v (%v), want %+v", again, err, spec)
	}
}

func TestLowerRefuses(t *testing.T) {
	env := func(vars map[string]string) manifest.Spec {
		out := manifest.Spec{Image: "w:1", Env: map[string]manifest.EnvValue{}}
		for k, v := range vars {
			out.Env[k] = manifest.EnvValue{Value: v}
		}
		return out
	}
	secret := env(map[string]string{"URL": "db://u:$(PASSWORD)@h"})
	secret.Env["PASSWORD"] = manifest.EnvValue{Secret: "s", Key: "p"}
	bomb := map[string]string{"V0": strings.Repeat("x", 1000)}
	for i := range 60 {
		bomb[fmt.Sprintf("V%d", i+1)] = fmt.Sprintf("$(V%d)$(V%d)", i, i)
	}
	args := env(map[string]string{"V": strings.Repeat("x", 100_000)})
	args.Args = []string{strings.Repeat("$(V)", 10_000)}
	cases := []struct {
		name string
		spec manifest.Spec
		want string
	}{
		{"circle", env(map[string]string{"A": "$(B)", "B": "$(C)", "C": "$(A)", "D": "$(A)"}), "A, B, C refer to each other in a circle"},
		{"secret in a value", secret, "$(PASSWORD) refers to a Secret's key"},
		{"doubling", env(bomb), "more than 2 MiB"},
		{"large arguments", args, "more than 2 MiB"},
		{"network that is none", manifest.Spec{Image: "w:1", Network: "bridged"}, "spec.network: want bridge"},
		{"port that is none", manifest.Spec{Image: "w:1", Ports: []manifest.Port{{ContainerPort: 80, HostPort: new(int64(65536))}}}, "spec.ports[0]: 65536 is no port"},
		{"address that is none", manifest.Spec{Image: "w:1", Ports: []manifest.Port{{ContainerPort: 80, HostPort: new(int64(80)), HostIP: "x"}}}, "spec.ports[0].hostIP"},
		{"Config that is not there", manifest.Spec{Image: "w:1", Mounts: []manifest.Mount{{Path: "/a"}, {Path: "/x", Config: "gone"}}}, "spec.mounts[0]"},
		{"Secret that is not there", manifest.Spec{Image: "w:1", Mounts: []manifest.Mount{{Path: "/x", Secret: "gone"}}}, "spec.mounts[0]: no Secret gone"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := workload(named("web"), c.spec)
			w.Secrets = map[string]manifest.SecretSource{"s": {FromDirectory: "/etc/s"}}
			_, err := plan.Lower(w)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %.300v, want one about %q", err, c.want)
			}
			world := newWorld(t)
			world.want("c1", w)
			world.in.Policy.AllowSecretPath = []string{"/"}
			p := world.compute()
			if len(p.Steps) != 0 || len(p.Held) != 1 || p.Held[0].Reason != plan.ReasonConfig {
				t.Errorf("plan is %s", render(p))
			}
		})
	}
}
