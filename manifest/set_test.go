package manifest_test

import (
	"reflect"
	"slices"
	"testing"

	"reconciler/manifest"
)

const fleetNodes = `apiVersion: reconciler/v1
kind: Node
metadata: {name: n1, labels: {zone: north}}
spec: {defaults: {logs: {maxSize: 5Mi}, env: {FROM: default, GONE: x}, backoffLimit: 3, image: default/image}}
---
apiVersion: reconciler/v1
kind: Node
metadata: {name: s1, labels: {zone: south}}
`

func TestMerge(t *testing.T) {
	files := map[string]string{
		"nodes.yaml": fleetNodes,
		"web.yaml": container("web", `
  capture: {paths: [/bin/sh]}
  args: [a, b]
  env: {FROM: spec, KEPT: x, TOKEN: {secret: web, key: a}, GONE: x}
  logs: {maxFiles: 9}
  mounts: [{path: /data, volume: data}]
  overrides:
    - {nodeSelector: {zone: [north, west]}, spec: {env: {GONE: null, FROM: first, TOKEN: {config: web, key: k}}, args: [c]}}
    - {nodeSelector: {zone: south}, spec: {image: web:2, mounts: null, stopSignal: SIGHUP}}
    - {spec: {env: {FROM: last}}}
`) + "---\napiVersion: reconciler/v1\nkind: Config\nmetadata: {name: web}\ndata: {k: v, unused: w}\n" +
			"---\napiVersion: reconciler/v1\nkind: Secret\nmetadata: {name: web}\nspec: {fromDirectory: /etc/s}\n",
	}
	north := mustLoad(t, files, manifest.Node{Name: "n1"}).Workloads[0]
	s := north.Spec
	if s.Image != "" || s.Capture == nil || !slices.Equal(s.Args, []string{"c"}) || s.Logs.MaxSize.String() != "5Mi" || *s.Logs.MaxFiles != 9 || s.BackoffLimit != nil {
		t.Errorf("north: %+v", s)
	}
	wantEnv := map[string]manifest.EnvValue{"FROM": {Value: "last"}, "KEPT": {Value: "x"}, "TOKEN": {Config: "web", Key: "k"}}
	if !reflect.DeepEqual(s.Env, wantEnv) {
		t.Errorf("env: %+v", s.Env)
	}
	if want := map[string]manifest.ConfigData{"web": {"k": []byte("v")}}; !reflect.DeepEqual(north.Configs, want) {
		t.Errorf("only the keys that are used may be in: %v", north.Configs)
	}
	south := mustLoad(t, files, manifest.Node{Name: "s1"}).Workloads[0]
	if s := south.Spec; s.Image != "web:2" || s.Capture != nil || s.Mounts != nil || s.StopSignal != "SIGHUP" || s.Env["TOKEN"].Secret != "web" {
		t.Errorf("south: %+v", s)
	}
	sets, err := manifest.LoadAll(tree(files), manifest.Revision{Commit: "c0ffee"}, manifest.Node{})
	if err != nil || len(sets) != 2 || !reflect.DeepEqual(sets[0].Workloads[0], north) || !reflect.DeepEqual(sets[1].Workloads[0], south) {
		t.Errorf("LoadAll differs from Load: %+v, %v", sets, err)
	}
}

func TestNodeOfTheSet(t *testing.T) {
	files := map[string]string{"nodes.yaml": fleetNodes, "web.yaml": container("web", "  image: a\n")}
	set := mustLoad(t, files, manifest.Node{Name: "s1", Labels: map[string]string{"zone": "flag"}})
	if set.Node.Labels["zone"] != "south" || !set.NodeKnown || set.Node.Source.String() != "nodes.yaml:6:1" {
		t.Errorf("known: %+v", set.Node)
	}
	set = mustLoad(t, files, manifest.Node{Name: "stranger", Labels: map[string]string{"zone": "flag"}})
	if set.NodeKnown || len(set.Workloads) != 0 || set.Node.Name != "stranger" {
		t.Errorf("unknown: %+v", set)
	}
	delete(files, "nodes.yaml")
	set = mustLoad(t, files, manifest.Node{Name: "stranger", Labels: map[string]string{"zone": "flag"}})
	if !set.NodeKnown || len(set.Workloads) != 1 || set.Node.Labels["zone"] != "flag" {
		t.Errorf("without Node manifests: %+v", set)
	}
}

func TestNodeEnv(t *testing.T) {
	files := map[string]string{"web.yaml": container("web", "  image: a\n  env: {N: {node: name}, Z: {label: zone}}\n")}
	load := func(name, zone string) manifest.Workload {
		return mustLoad(t, files, manifest.Node{Name: name, Labels: map[string]string{"zone": zone, "other": zone}}).Workloads[0]
	}
	w := load("n1", "north")
	if want := map[string]string{"name": "n1", "label:zone": "north"}; !reflect.DeepEqual(w.NodeEnv, want) {
		t.Errorf("got %v", w.NodeEnv)
	}
	if w.Digest == load("n1", "south").Digest || w.Digest == load("n2", "north").Digest {
		t.Error("another node's name or label must be another digest")
	}
}

func TestDigest(t *testing.T) {
	load := func(spec, before, config string) manifest.Workload {
		return mustLoad(t, map[string]string{
			"a.yaml": before + container("web", spec),
			"c.yaml": "apiVersion: reconciler/v1\nkind: Config\nmetadata: {name: c}\n" + config,
		}, manifest.Node{Name: "n"}).Workloads[0]
	}
	const spec = "  image: a\n  shmSize: 1Gi\n  mounts: [{path: /c, config: c}]\n"
	const data = "data: {k: v}\n"
	w := load(spec, "", data)
	same := map[string]manifest.Workload{
		"place in the file":         load(spec, "# moved\n\n", data),
		"another way to say it":     load("  shmSize: 1024Mi\n  mounts: [{config: c, path: /c}]\n  image: \"a\"\n", "", data),
		"selection that still fits": load(spec+"  nodeSelector: {}\n", "", data),
	}
	for what, o := range same {
		if o.Digest != w.Digest || len(manifest.Diff(w, o)) != 0 {
			t.Errorf("%s: another digest, %+v", what, manifest.Diff(w, o))
		}
	}
	for what, o := range map[string]manifest.Workload{
		"config content": load(spec, "", "data: {k: w}\n"),
		"config key":     load(spec, "", "data: {k: v, l: v}\n"),
		"image":          load("  image: b\n  shmSize: 1Gi\n  mounts: [{path: /c, config: c}]\n", "", data),
	} {
		if o.Digest == w.Digest || manifest.Strongest(manifest.Diff(w, o)) != manifest.ClassReplace {
			t.Errorf("%s: the same digest or class: %+v", what, manifest.Diff(w, o))
		}
	}
}

// A new release must not see a change where there is none: what was made from this manifest has this digest for good.
func TestDigestIsForGood(t *testing.T) {
	w := mustLoad(t, map[string]string{"web.yaml": `apiVersion: reconciler/v1
kind: Container
metadata: {name: web, namespace: shop, labels: {app: web}, annotations: {owner: shop}}
spec:
  image: web:1.4
  command: [/usr/bin/web]
  args: [--name, $(NODE)]
  env: {PORT: 8080, NODE: {node: name}, ZONE: {label: zone}, TOKEN: {secret: s, key: token}, MODE: {config: c, key: mode}}
  resources: {limits: {cpu: 500m, memory: 64Mi}}
  mounts:
    - {path: /data, volume: data}
    - {path: /etc/web, config: c, mode: "0640"}
    - {path: /tmp, tmpfs: 8Mi}
  restartBackoff: {initial: 1s}
  dependsOn: [{name: db, condition: Started}]
  securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}}
---
apiVersion: reconciler/v1
kind: Container
metadata: {name: db, namespace: shop}
spec: {image: db}
---
apiVersion: reconciler/v1
kind: Config
metadata: {name: c, namespace: shop}
data: {mode: fast}
---
apiVersion: reconciler/v1
kind: Secret
metadata: {name: s, namespace: shop}
spec: {fromDirectory: /etc/s}
`}, manifest.Node{Name: "n1", Labels: map[string]string{"zone": "north"}}).Workloads[1]
	if want := "sha256:3b0513a79e930f8423da0f2c9d6f8161a37b5a5d1c6310761c5c7098e8079901"; w.Digest != want {
		t.Errorf("got %s, want %s", w.Digest, want)
	}
}

func TestStorageKeepsEverything(t *testing.T) {
	set := mustLoad(t, map[string]string{"web.yaml": container("web", `
  image: a
  env: {A: "", B: {node: name}, C: x}
  dependsOn: [db, {name: db2, condition: Started}]
  mounts: [{path: /c, config: c, mode: "0600", onChange: restart}, {path: /t, tmpfs: 64Mi}]
  restartBackoff: {initial: 90s, max: 1h}
  resources: {limits: {cpu: 250m, memory: 64Mi, pids: 5}}
  securityContext: {runAsUser: web, runAsGroup: 5, seccompProfile: {type: Localhost, localhostProfile: p.json}}
---
apiVersion: reconciler/v1
kind: Config
metadata: {name: c}
data: {k: v}
---
`) + container("db", "  image: a\n") + "---\n" + container("db2", "  capture: {paths: [/a, {from: /b, to: /c}]}\n"), "p.json": `{"defaultAction": "SCMP_ACT_ALLOW"}`}, manifest.Node{Name: "n"})
	for _, w := range set.Workloads {
		b, err := w.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := manifest.DecodeWorkload(b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, w) {
			t.Errorf("got\n%+v\nwant\n%+v", got, w)
		}
	}
}

func TestPathsAreRewritten(t *testing.T) {
	files := tree(map[string]string{
		"deploy/app/a.yaml":  container("a", "  image: oci:../../images/web:1.0\n") + "---\n" + container("b", "  image: docker-archive:./web.tar\n"),
		"deploy/app/web.tar": "x", "images/web/oci-layout": "{}",
	})
	set, err := manifest.Loader{Path: "deploy"}.Load(files, manifest.Revision{}, manifest.Node{Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Workloads[0].Spec.Image; got != "oci:images/web:1.0" {
		t.Error(got)
	}
	if got := set.Workloads[1].Spec.Image; got != "docker-archive:deploy/app/web.tar" {
		t.Error(got)
	}
	if got := set.Workloads[0].Source.String(); got != "deploy/app/a.yaml:1:1" {
		t.Error(got)
	}
}

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"plain": "plain", "$(A)": "1", "x$(A)y$(A)": "x1y1", "$(B)": "$(A)", "$$(A)": "$(A)", "$$$(A)": "$1", "$(NONE)": "$(NONE)",
		"$(EMPTY)": "", "$A": "$A", "$": "$", "$(": "$(", "$(A": "$(A", "cost: 5$": "cost: 5$", "$$": "$", "$()": "$()",
	} {
		if got := manifest.Expand(in, lookup); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestKernelSatisfies(t *testing.T) {
	for _, c := range []struct {
		condition, release string
		want               bool
	}{
		{">= 5.10", "6.1.0-28-cloud-amd64", true},
		{">= 5.10", "5.9.16", false},
		{">=5.10,<6.1", "5.15.0-91-generic", true},
		{">= 5.10, < 6.1", "6.1.0", false},
		{"> 5.10", "5.10.7", false},
		{"= 6.1", "6.1.55-rc1", true},
		{"6.1", "6.2.0", false},
		{"!= 6.1.5", "6.1.5", false},
		{"<= 6.1", "6.1.90", true},
		{">= 4.19.100", "4.19.99+deb10", false},
		{">= 6", "10.0-rc1", true},
	} {
		if got, err := manifest.KernelSatisfies(c.condition, c.release); err != nil || got != c.want {
			t.Errorf("%s on %s: got %v, %v", c.condition, c.release, got, err)
		}
	}
	for _, bad := range []string{"", "~> 5", ">= five", ">= 5.x", "5.10 or later", ">= 5.10,", "=> 5"} {
		if _, err := manifest.KernelSatisfies(bad, "6.1.0"); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := manifest.KernelSatisfies(">= 5", "unknown"); err == nil {
		t.Error("a release without numbers was taken")
	}
}

func TestUnits(t *testing.T) {
	for in, want := range map[string]string{
		"64Mi": "64Mi", "1024Mi": "1Gi", "1.5Gi": "1536Mi", "1000": "1000", "1k": "1000", "1e3": "1000", "0": "0", "1G": "1000000000", "0.5": "1",
	} {
		if got, err := manifest.ParseBytes(in); err != nil || got.String() != want {
			t.Errorf("bytes %q: got %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{"250m": "250m", "0.25": "250m", "2": "2", "1e1": "10", "0.0001": "1m", "1.5": "1500m"} {
		if got, err := manifest.ParseMilliCPU(in); err != nil || got.String() != want {
			t.Errorf("cpu %q: got %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{"10M": "10M", "1500k": "1500k", "1G": "1G"} {
		if got, err := manifest.ParseBitRate(in); err != nil || got.String() != want {
			t.Errorf("rate %q: got %s, %v, want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "Mi", "1MiB", "1mi", "-1", "1 Mi", "0x10", "1/2", "1_000", "1e99999999", "64m", "1..2", "ten", "Inf", "1e"} {
		if got, err := manifest.ParseBytes(bad); err == nil {
			t.Errorf("bytes %q was taken as %d", bad, got)
		}
	}
	for in, want := range map[string]string{"5m": "5m", "300s": "5m", "1h": "1h", "90s": "1m30s", "0s": "0s", "1500ms": "1.5s"} {
		if got, err := manifest.ParseDuration(in); err != nil || got.String() != want {
			t.Errorf("duration %q: got %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{"0640": "0640", "640": "0640", "0o777": "0777", "0": "0000"} {
		if got, err := manifest.ParseFileMode(in); err != nil || got.String() != want {
			t.Errorf("mode %q: got %s, %v, want %s", in, got, err, want)
		}
	}
}
