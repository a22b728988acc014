package plan_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"gopkg.in/yaml.v3"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

var update = flag.Bool("update", false, "write the plans that Compute gives into testdata")

// now is the present in every case.
var now = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// golden is input.yaml of a case: what an Input holds besides the sets. Times are ages: 5s is five seconds ago.
type golden struct {
	Node       string
	Labels     map[string]string
	Observed   []seen
	History    map[string]past
	InFlight   map[string]flight `yaml:"inFlight"`
	Images     map[string]string
	Secrets    map[string]string
	Facts      plan.Facts
	Policy     *policy
	Approved   []string
	Allow      []string
	Ancestry   plan.Ancestry
	KeptNode   string `yaml:"keptNode"`
	NodeUnsure bool   `yaml:"nodeUnknown"`
}

// seen is one container: made from the workload of that name in a set ("was", "accepted", "desired").
type seen struct {
	ID, Name, From, State, Image, Reason, Message string
	Pinned                                        string // Spec.Image.Digest
	Origin                                        string // in place of a set's
	Foreign                                       bool
	Age, Ended, Ran                               time.Duration
	Exit                                          *int
	OOM, Stopped, Aside                           bool // Aside: it does not serve
	Secrets                                       map[string]string
	Starts                                        int
	Shares                                        *runtime.StartOf
}

type past struct {
	Good, Tried                  string // containers
	Of, Error, Reason, Hint      string // Of: the set whose workload failed, or "removal"
	Failures, Crashes            int
	Permanent, Restart           bool
	Failed, Next                 time.Duration // Next is in the future
	FailedInFuture, NextIsFarOff time.Duration
}

type flight struct {
	Op plan.Op
	Of string // the set whose workload it brings about; empty: a removal
}

type policy struct {
	MaxRemove                              int `yaml:"maxRemove"`
	AllowCapture, AllowHostPath, AllowSecr []string
	AllowDevice                            []string
	Reserve                                plan.Amounts
}

func TestComputeGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/compute/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := readInput(t, archive)
			got := render(plan.Compute(in))
			if want := section(archive, "plan"); got != want && !*update {
				t.Errorf("plan is\n%s\nwant\n%s", got, want)
			}
			if *update {
				setSection(archive, "plan", got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func section(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func setSection(a *txtar.Archive, name, data string) {
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(data)
			return
		}
	}
	a.Files = append(a.Files, txtar.File{Name: name, Data: []byte(data)})
}

func commit(set string) string { return strings.Repeat(fmt.Sprintf("%x", set[0]), 20) }

// load loads the manifests below set/ of a case; nil where there are none.
func load(t *testing.T, a *txtar.Archive, set string, g golden) *manifest.Set {
	t.Helper()
	tree := fstest.MapFS{}
	for _, f := range a.Files {
		if name, ok := strings.CutPrefix(f.Name, set+"/"); ok {
			tree[name] = &fstest.MapFile{Data: f.Data}
		}
	}
	if len(tree) == 0 {
		return nil
	}
	rev := manifest.Revision{Commit: commit(set)}
	if set == "desired" {
		rev.Allow = g.Allow
	}
	out, err := manifest.Load(tree, rev, manifest.Node{Name: g.Node, Labels: g.Labels})
	if err != nil {
		t.Fatalf("%s: %v", set, err)
	}
	return &out
}

func readInput(t *testing.T, a *txtar.Archive) plan.Input {
	t.Helper()
	g := golden{Node: "n1"}
	dec := yaml.NewDecoder(strings.NewReader(section(a, "input.yaml")))
	dec.KnownFields(true)
	if err := dec.Decode(&g); err != nil && section(a, "input.yaml") != "" {
		t.Fatalf("input.yaml: %v", err)
	}
	sets := map[string]*manifest.Set{}
	for _, name := range []string{"desired", "accepted", "was"} {
		sets[name] = load(t, a, name, g)
	}
	in := plan.Input{
		Accepted: sets["accepted"], ImageDigests: g.Images, SecretDigests: g.Secrets, Facts: g.Facts,
		Policy: plan.Policy{MaxRemove: 50}, Ancestry: g.Ancestry, KeptNode: g.KeptNode, Now: now,
		History: map[manifest.Name]plan.History{}, InFlight: map[manifest.Name]plan.InFlight{}, Approved: map[string]bool{},
	}
	if sets["desired"] != nil {
		in.Desired = *sets["desired"]
	} else {
		in.Desired = manifest.Set{Revision: manifest.Revision{Commit: commit("desired"), Allow: g.Allow}, Node: manifest.Node{Name: g.Node}, NodeKnown: !g.NodeUnsure}
	}
	if g.Policy != nil {
		in.Policy = plan.Policy{MaxRemove: g.Policy.MaxRemove, AllowCapture: g.Policy.AllowCapture, AllowHostPath: g.Policy.AllowHostPath, AllowSecretPath: g.Policy.AllowSecr, AllowDevice: g.Policy.AllowDevice, Reserve: g.Policy.Reserve}
	}
	for _, set := range g.Approved {
		in.Approved[commit(set)] = true
	}
	for _, s := range g.Observed {
		in.Observed = append(in.Observed, observe(t, sets, s))
	}
	for name, p := range g.History {
		in.History[named(name)] = remember(t, sets, name, p)
	}
	for _, s := range g.Observed { // of a name that has one container that one proved itself, but where the case says other
		alone := 0
		for _, o := range g.Observed {
			if o.Name == s.Name {
				alone++
			}
		}
		if h := in.History[named(s.Name)]; alone == 1 && h.Good == "" && !s.Foreign {
			h.Good = runtime.ID(s.ID)
			in.History[named(s.Name)] = h
		}
	}
	for name, f := range g.InFlight {
		flight := plan.InFlight{Op: f.Op}
		if f.Of != "" {
			of := find(t, sets, f.Of, name)
			flight.Digest, flight.Requests = of.Digest, plan.RequestedBy(of)
		}
		in.InFlight[named(name)] = flight
	}
	return in
}

func named(s string) manifest.Name {
	n, err := manifest.ParseName(s, manifest.DefaultNamespace)
	if err != nil {
		panic(err)
	}
	return n
}

func find(t *testing.T, sets map[string]*manifest.Set, set, name string) manifest.Workload {
	t.Helper()
	if sets[set] != nil {
		for _, w := range sets[set].Workloads {
			if w.Name == named(name) {
				return w
			}
		}
	}
	t.Fatalf("no %s in %s", name, set)
	return manifest.Workload{}
}

func observe(t *testing.T, sets map[string]*manifest.Set, s seen) runtime.Status {
	t.Helper()
	n := named(s.Name)
	out := runtime.Status{
		ID: runtime.ID(s.ID), State: runtime.State(s.State), CreatedAt: now.Add(-s.Age), ExitCode: s.Exit, OOMKilled: s.OOM,
		Stopped: s.Stopped, Ran: s.Ran, Starts: s.Starts, Shares: s.Shares, ImageDigest: s.Image, Reason: s.Reason, Message: s.Message,
		Serving: !s.Aside,
		Spec:    runtime.Spec{Name: runtime.Name{Namespace: n.Namespace, Name: n.Name}, StopGrace: 10 * time.Second},
	}
	if s.Foreign {
		return out
	}
	if out.State == runtime.StateExited {
		out.FinishedAt = now.Add(-s.Ended)
	}
	if s.Origin != "" {
		out.Spec.Origin, out.Spec.OriginDigest = []byte(s.Origin), "sha256:old"
		return out
	}
	spec, err := plan.Lower(find(t, sets, s.From, s.Name))
	if err != nil {
		t.Fatal(err)
	}
	spec.SecretDigests = s.Secrets
	if s.Pinned != "" {
		spec.Image.Digest = s.Pinned
	}
	out.Spec = spec
	return out
}

func remember(t *testing.T, sets map[string]*manifest.Set, name string, p past) plan.History {
	t.Helper()
	h := plan.History{
		Failures: p.Failures, Crashes: p.Crashes, Permanent: p.Permanent, Restart: p.Restart,
		Error: p.Error, Hint: p.Hint, Reason: p.Reason, Good: runtime.ID(p.Good), FailedID: runtime.ID(p.Tried),
	}
	if p.Of != "" && p.Of != "removal" {
		h.Digest = find(t, sets, p.Of, name).Digest
	}
	if p.Failures > 0 {
		h.LastFailure = now.Add(-p.Failed + p.FailedInFuture)
	}
	if next := p.Next + p.NextIsFarOff; next != 0 {
		h.NextTry = now.Add(next)
	}
	return h
}

// render writes a plan for people. The ID stands for itself elsewhere.
func render(p plan.Plan) string {
	var b bytes.Buffer
	if p.Blocked != nil {
		fmt.Fprintf(&b, "blocked %s: %s\n", p.Blocked.Reason, p.Blocked.Message)
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "%s %s: %s\n", s.Op, s.Name.Short(), s.Reason)
		if s.ID != "" {
			fmt.Fprintf(&b, "  container %s\n", s.ID)
		}
		if s.Spec.Image != nil && s.Spec.Image.Digest != "" && s.Op != plan.OpRemove {
			fmt.Fprintf(&b, "  image %s\n", s.Spec.Image.Digest)
		}
		if s.Beside {
			fmt.Fprintf(&b, "  beside %s\n", s.Good)
		}
		if s.Start {
			fmt.Fprintf(&b, "  starts it\n")
		}
		for _, r := range s.Stop {
			fmt.Fprintf(&b, "  stops %s, grace %v\n", r.ID, r.Grace)
		}
		for _, r := range s.Remove {
			drain := ""
			if r.Drain {
				drain = ", drained"
			}
			fmt.Fprintf(&b, "  takes away %s, grace %v%s\n", r.ID, r.Grace, drain)
		}
		for _, c := range s.Changes {
			fmt.Fprintf(&b, "  %s (%s): %q -> %q\n", c.Field, c.Class, c.From, c.To)
		}
		for _, a := range s.After {
			fmt.Fprintf(&b, "  after %s\n", a.Short())
		}
	}
	for _, proof := range p.Proven {
		fmt.Fprintf(&b, "proven %s: %s\n", proof.Name.Short(), proof.ID)
	}
	for _, f := range p.Failed {
		fmt.Fprintf(&b, "failed %s: %s: %s\n", f.Name.Short(), f.ID, f.Message)
	}
	for _, n := range p.Unready {
		fmt.Fprintf(&b, "unready %s\n", n.Short())
	}
	for _, n := range p.Cancel {
		fmt.Fprintf(&b, "cancel %s\n", n.Short())
	}
	for _, h := range p.Held {
		fmt.Fprintf(&b, "held %s: %s: %s\n", h.Name.Short(), h.Reason, h.Message)
		if !h.Until.IsZero() {
			fmt.Fprintf(&b, "  until +%v\n", h.Until.Sub(now))
		}
	}
	if !p.Wake.IsZero() {
		fmt.Fprintf(&b, "wake +%v\n", p.Wake.Sub(now))
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}
