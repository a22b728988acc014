package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/source"
)

// manifestSizes are the numbers of manifests that load and plan are measured with; the last is the row's.
var manifestSizes = []int{100, 1_000, 10_000} //nolint:gochecknoglobals // a constant, if Go had ones of slices

// manifests measures load and plan as the agent does them, from the objects of a real repository: a process that read
// nothing of it yet, and after a commit that changed one file.
func (b *bench) manifests() error {
	for _, n := range manifestSizes {
		if err := b.manifestsOf(n); err != nil {
			return fmt.Errorf("%d manifests: %w", n, err)
		}
	}
	return nil
}

func (b *bench) manifestsOf(n int) (err error) {
	dir := filepath.Join(b.dir, "manifests")
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r, err := b.newRepository(dir)
	if err != nil {
		return err
	}
	files, containers, err := largest(n)
	if err != nil {
		return err
	}
	if err = r.commitPush(files); err != nil {
		return err
	}
	src, err := source.Open(source.Config{URL: r.bare, StateDir: filepath.Join(dir, "state")})
	if err != nil {
		return err
	}
	loader := manifest.Loader{}
	goruntime.GC()
	cold, err := loadAndPlan(src, loader, containers)
	if err != nil {
		return err
	}
	var one []float64
	for i := range times {
		name := fmt.Sprintf("apps/000/web-%05d.yaml", i)
		if err := r.commitPush(map[string]string{name: files[name] + "\n# changed\n"}); err != nil {
			return err
		}
		took, err := loadAndPlan(src, loader, containers)
		if err != nil {
			return err
		}
		one = append(one, took)
	}
	b.set("scale-load", sized(n), cold)
	b.set("scale-load-one", sized(n), median(one))
	if n == manifestSizes[len(manifestSizes)-1] {
		b.set("load", ours, cold)
		b.set("load-one", ours, median(one))
	}
	return nil
}

// loadAndPlan reads the newest commit and plans to make all of it.
func loadAndPlan(src *source.Source, loader manifest.Loader, want int) (float64, error) {
	rev, err := src.Fetch(context.Background())
	if err != nil {
		return 0, err
	}
	tree, err := src.Tree(context.Background(), rev.Commit)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	set, err := loader.Load(tree, rev, manifest.Node{Name: "n0"})
	if err != nil {
		return 0, err
	}
	p := plan.Compute(plan.Input{Desired: set, Policy: plan.Policy{MaxRemove: 50, AllowSecretPath: []string{"/etc/tokens"}}, Now: began})
	took := time.Since(began)
	if len(p.Steps) != want {
		return 0, fmt.Errorf("%d steps, want %d", len(p.Steps), want)
	}
	return millis(took), nil
}

// largest are n manifests: containers in a file each, and what they share.
func largest(n int) (files map[string]string, containers int, err error) {
	web, err := os.ReadFile("testdata/largest/web.yaml")
	if err != nil {
		return nil, 0, err
	}
	shared, err := os.ReadFile("testdata/largest/shared.yaml")
	if err != nil {
		return nil, 0, err
	}
	files = map[string]string{
		"shared.yaml": string(shared),
		"nodes.yaml":  "apiVersion: reconciler/v1\nkind: Node\nmetadata: {name: n0, labels: {role: edge}}\n",
	}
	containers = n - 3 // a Node, a Config, a Secret
	for i := range containers {
		files[fmt.Sprintf("apps/%03d/web-%05d.yaml", i/100, i)] = strings.ReplaceAll(string(web), "00000", fmt.Sprintf("%05d", i))
	}
	return files, containers, nil
}
