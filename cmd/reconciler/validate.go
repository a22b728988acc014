package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile/fleet"
)

// validated is what validate -o json says of one PATH.
type validated struct {
	Path     string             `json:"path"`
	Nodes    []validatedNode    `json:"nodes"`
	Warnings []manifest.Problem `json:"warnings"`
}

type validatedNode struct {
	Name      string   `json:"name"`
	Workloads []string `json:"workloads"`
}

// empty reports whether nothing would run anywhere, as in the wrong directory.
func (v validated) empty() bool {
	return !slices.ContainsFunc(v.Nodes, func(n validatedNode) bool { return len(n.Workloads) > 0 })
}

func newValidate(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "validate PATH…",
		Short: "Check manifests for every Node, with no server, no root and no network",
		Long: `Checks the manifests of a repository, for every Node that it has, exactly as an agent would. PATH is the directory
that --path of the agent names, or one file of it. Relative paths in manifests may lead to the whole repository
that PATH is in.`,
		Example:     "  reconciler validate .\n  reconciler validate fleet/web.yaml -o json",
		Args:        argsError(cobra.MinimumNArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 all manifests are valid, 1 some are not"},
	}
	a.set.addNode(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runValidate(cmd.Context(), args) }
	return cmd
}

func (a *app) runValidate(_ context.Context, paths []string) error {
	var all []manifest.Problem
	results := []validated{}
	for _, path := range paths {
		v, problems, err := a.validate(path)
		if err != nil {
			return err
		}
		all = append(all, problems...)
		results = append(results, v)
	}
	if len(all) > 0 {
		return gathered(all)
	}
	return a.print(results, func() error {
		for _, v := range results {
			for _, w := range v.Warnings {
				a.errf("%s %s\n", a.paint(a.err, yellow, "warning:"), w.Error())
			}
			if v.empty() {
				a.errf("%s %s: no manifests for any node here\n", a.paint(a.err, yellow, "warning:"), v.Path)
			}
			a.outf("%s: valid for %s\n", v.Path, count(len(v.Nodes), "node"))
			if a.set.output != "wide" {
				continue
			}
			for _, n := range v.Nodes {
				a.outf("  %s: %s\n", n.Name, firstOf(strings.Join(n.Workloads, ", "), "nothing"))
			}
		}
		return nil
	})
}

// validate checks what is at path: a directory of manifests, or one file of it.
func (a *app) validate(path string) (validated, []manifest.Problem, error) {
	dir, only := path, ""
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return validated{}, nil, withHint(fmt.Errorf("validate %s: %w", path, unwrapPath(err)), "name the directory with the manifests")
	case !info.IsDir() && !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(path)):
		return validated{}, nil, withHint(fmt.Errorf("validate %s: not a manifest", path), "manifests are *.yaml and *.yml; name one, or the directory with them")
	case !info.IsDir():
		dir, only = filepath.Dir(path), filepath.Base(path)
	}
	top, inside, err := repositoryOf(dir)
	if err != nil {
		return validated{}, nil, fmt.Errorf("validate %s: %w", path, err)
	}
	root, err := os.OpenRoot(top) // symbolic links that leave the repository lead nowhere
	if err != nil {
		return validated{}, nil, fmt.Errorf("validate %s: %w", path, unwrapPath(err))
	}
	defer func() { _ = root.Close() }()
	// The problems' files are shown as the user would name them from here.
	show := func(p manifest.Problem) manifest.Problem {
		if rel, relErr := filepath.Rel(inside, p.Position.File); relErr == nil {
			p.Position.File = filepath.Join(dir, rel)
		}
		return p
	}
	repo := fleet.Repository{Path: filepath.ToSlash(inside), Fallback: manifest.Node{Name: a.set.node, Labels: a.set.labels}}
	commit, problems, err := repo.Load(root.FS(), manifest.Revision{})
	if err != nil {
		return validated{}, nil, err
	}
	if only != "" {
		file := filepath.ToSlash(filepath.Join(inside, only))
		problems = slices.DeleteFunc(problems, func(p manifest.Problem) bool { return p.Position.File != file })
	}
	result := validated{Path: path, Nodes: []validatedNode{}, Warnings: []manifest.Problem{}}
	for _, set := range commit.Sets {
		n := validatedNode{Name: set.Node.Name, Workloads: []string{}}
		for _, w := range set.Workloads {
			n.Workloads = append(n.Workloads, w.Name.Short())
		}
		result.Nodes = append(result.Nodes, n)
		for _, w := range set.Warnings {
			if w = show(w); !slices.Contains(result.Warnings, w) {
				result.Warnings = append(result.Warnings, w)
			}
		}
	}
	for i := range problems {
		problems[i] = show(problems[i])
	}
	return result, problems, nil
}

// repositoryOf returns the top of the Git work tree that dir is in, and dir inside it; dir and "." where it is in none.
func repositoryOf(dir string) (top, inside string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return "", "", unwrapPath(err)
	}
	for top = abs; ; top = filepath.Dir(top) {
		if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
			inside, err = filepath.Rel(top, abs)
			return top, inside, err
		}
		if top == filepath.Dir(top) {
			return abs, ".", nil
		}
	}
}

// unwrapPath returns why a file could not be used, without naming it again.
func unwrapPath(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
