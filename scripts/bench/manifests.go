package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/source"
	"reconciler/runtime"
	"reconciler/runtime/calm"
)

// manifestSizes are the numbers of manifests that load and plan are measured with; the last is the row's.
var manifestSizes = []int{100, 1_000, 10_000} //nolint:gochecknoglobals // a constant, if Go had ones of slices

// manifests measures load and plan as the agent does them, from the objects of a real repository: a process that read
// nothing of it yet and where nothing runs, and then commits that change one file each, where all runs.
func (b *bench) manifests() error {
	for _, n := range manifestSizes {
		for _, share := range []int{1, 100} {
			if err := b.manifestsFor(n, share); err != nil {
				return fmt.Errorf("%d manifests: %w", n, err)
			}
		}
	}
	return nil
}

// loadOnce is the verb of this program that measures one repository, in a process that is as fresh as an agent's.
const loadOnce = "load"

// loaded is what it prints: how long the first commit took in milliseconds, and the median of those that change one file.
type loaded struct{ Cold, One float64 }

// manifestsFor measures n manifests of which one in share is for this node.
func (b *bench) manifestsFor(n, share int) (err error) {
	dir := filepath.Join(b.dir, "manifests")
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	text, _, err := b.do(nil, self, loadOnce, here, dir, strconv.Itoa(n), strconv.Itoa(share))
	if err != nil {
		return err
	}
	var took loaded
	if err = json.Unmarshal([]byte(text), &took); err != nil {
		return err
	}
	key, row := "scale-load", "load"
	if share > 1 {
		key, row = key+"-few", row+"-few"
	}
	b.set(key, sized(n), took.Cold)
	b.set(key+"-one", sized(n), took.One)
	if n == manifestSizes[len(manifestSizes)-1] {
		b.set(row, ours, took.Cold)
		b.set(row+"-one", ours, took.One)
	}
	return nil
}

// runLoad is loadOnce, for a directory of its own; root is that of this project.
func runLoad(root, dir, n, share string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	number, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	one, err := strconv.Atoi(share)
	if err != nil {
		return err
	}
	b := &bench{dir: dir}
	if err = b.makeHome(); err != nil {
		return err
	}
	took, err := b.load(number, one)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

// load measures in this process.
func (b *bench) load(n, share int) (took loaded, err error) {
	r, err := b.newRepository(b.dir)
	if err != nil {
		return loaded{}, err
	}
	files, containers, err := largest(n, share)
	if err != nil {
		return loaded{}, err
	}
	if err = r.commitPush(files); err != nil {
		return loaded{}, err
	}
	src, err := source.Open(source.Config{URL: r.bare, StateDir: filepath.Join(b.dir, "state")})
	if err != nil {
		return loaded{}, err
	}
	p := planner{
		src: src, loader: manifest.Loader{Cache: new(manifest.Cache)}, // as the agent has it
		in: plan.Input{Policy: plan.Policy{MaxRemove: 50, AllowSecretPath: []string{"/etc/tokens"}}, Lowered: new(plan.Lowered)},
	}
	var steps []plan.Step
	if took.Cold, steps, err = p.plan(); err != nil {
		return loaded{}, err
	}
	if len(steps) != containers {
		return loaded{}, fmt.Errorf("%d steps, want %d", len(steps), containers)
	}
	p.carryOut(steps)
	var one []float64
	for i := range times {
		name := fileOf(i % containers * share)
		if err = r.commitPush(map[string]string{name: strings.Replace(files[name], "8080", fmt.Sprint(9000+i), 1)}); err != nil {
			return loaded{}, err
		}
		each, changed, planErr := p.plan()
		if planErr != nil {
			return loaded{}, planErr
		}
		if len(changed) != 1 {
			return loaded{}, fmt.Errorf("%d steps for one change", len(changed))
		}
		one = append(one, each)
		p.carryOut(changed)
	}
	took.One = median(one)
	return took, nil
}

// planner is what of an agent turns a commit into a plan.
type planner struct {
	src    *source.Source
	loader manifest.Loader
	rest   calm.Rester
	in     plan.Input
	ids    int
}

// plan reads the newest commit and says what is to be done for it, and how long that took after it was here.
func (p *planner) plan() (took float64, steps []plan.Step, err error) {
	rev, err := p.src.Fetch(context.Background())
	if err != nil {
		return 0, nil, err
	}
	tree, err := p.src.Tree(context.Background(), rev.Commit)
	if err != nil {
		return 0, nil, err
	}
	p.rest.Worked() // as the agent's runtime, which is told of a new commit
	goruntime.GC()  // what came before is not for this one to clean up
	began := time.Now()
	set, err := p.loader.Load(tree, rev, manifest.Node{Name: "n0"})
	if err != nil {
		return 0, nil, err
	}
	p.in.Desired, p.in.Now = set, began
	steps = plan.Compute(p.in).Steps
	took = millis(time.Since(began))
	p.in.Accepted = &set
	return took, steps, nil
}

// carryOut does as if the steps were done long ago.
func (p *planner) carryOut(steps []plan.Step) {
	if p.in.History == nil {
		p.in.History = map[manifest.Name]plan.History{}
	}
	for _, s := range steps {
		p.ids++
		id := runtime.ID(fmt.Sprint("id", p.ids))
		old := func(o runtime.Status) bool { return o.Spec.Name == s.Spec.Name }
		if s.Op != plan.OpCreate {
			p.in.Observed = slices.DeleteFunc(p.in.Observed, old)
		}
		p.in.Observed = append(p.in.Observed, runtime.Status{
			ID: id, Spec: s.Spec, State: runtime.StateRunning, Pid: p.ids, Starts: 1, Serving: true,
			StartedAt: p.in.Now.Add(-time.Hour), Ran: time.Hour,
		})
		p.in.History[s.Name] = plan.History{Good: id}
	}
}

func fileOf(i int) string { return fmt.Sprintf("apps/%03d/web-%05d.yaml", i/100, i) }

// largest are n manifests: containers in a file each, one in share of them for this node, and what they have in common.
func largest(n, share int) (files map[string]string, containers int, err error) {
	web, err := os.ReadFile("testdata/largest/web.yaml")
	if err != nil {
		return nil, 0, err
	}
	common, err := os.ReadFile("testdata/largest/shared.yaml")
	if err != nil {
		return nil, 0, err
	}
	files = map[string]string{"shared.yaml": string(common)}
	for _, node := range []string{"n0, labels: {role: edge}", "n1, labels: {role: other}"} {
		files["nodes.yaml"] += "---\napiVersion: reconciler/v1\nkind: Node\nmetadata: {name: " + node + "}\n"
	}
	for i := range n - 4 { // two Nodes, a Config, a Secret
		text := strings.ReplaceAll(string(web), "00000", fmt.Sprintf("%05d", i))
		if i%share == 0 {
			containers++
		} else {
			text = strings.Replace(text, "role: [edge, core]", "role: [other]", 1)
		}
		files[fileOf(i)] = text
	}
	return files, containers, nil
}
