package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile/fleet"
	"reconciler/reconcile/source"
)

type diffOptions struct {
	allNodes bool
	repo     string
	path     string
	node     string
	labels   map[string]string
}

func newDiff(a *app) *cobra.Command {
	var opts diffOptions
	cmd := &cobra.Command{
		Use:   "diff BASE..HEAD",
		Short: "Say what a range of commits would change on nodes, from manifests alone",
		Long: `Says what a range of commits would change on the nodes of the repository: each node as it is after BASE, then HEAD
applied to it, by the same decisions as an agent's. It needs a clone and nothing else: no server, no root, no
network. What an agent knows besides (failures, images that moved, what its administrator allows) is not in it.

BASE and HEAD are commits, branches, tags or HEAD~3; BASE alone means BASE..HEAD. Nodes that change alike are told
together. Without --node it is about all nodes.`,
		Example: `  reconciler diff main..my-branch --all-nodes
  reconciler diff origin/main..HEAD -o markdown
  reconciler diff HEAD~1 --node edge-17 -o json`,
		Args:        argsError(cobra.ExactArgs(1)),
		Annotations: map[string]string{exitAnnotation: "0 nothing would change, 1 something would, 2 error", failAnnotation: "2", markdownAnnotation: "yes"},
	}
	cmd.Flags().BoolVar(&opts.allNodes, "all-nodes", false, "for every Node of the repository (the default without --node)")
	cmd.Flags().StringVar(&opts.repo, "repo", ".", "`DIR` of a clone, or in its work tree")
	cmd.Flags().StringVar(&opts.path, "path", ".", "the `DIR` in the repository with the manifests")
	cmd.Flags().StringVar(&opts.node, "node", "", "only for the node of this `NAME`")
	cmd.Flags().StringToStringVar(&opts.labels, "label", nil, "label `KEY=VALUE` of the node, where the repository has no Node manifests (may be repeated)")
	cmd.Flags().Lookup("label").DefValue = "" // help would show an empty list as the default
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if opts.allNodes && opts.node != "" {
			return errors.New("diff: --node and --all-nodes exclude each other")
		}
		return a.runDiff(cmd.Context(), args[0], opts)
	}
	return cmd
}

func (a *app) runDiff(ctx context.Context, commits string, opts diffOptions) error {
	base, head, err := splitRange(commits)
	if err != nil {
		return err
	}
	src, err := source.OpenLocal(opts.repo)
	if err != nil {
		return err
	}
	repo := fleet.Repository{
		Path:     filepath.ToSlash(filepath.Clean(opts.path)),
		Fallback: manifest.Node{Name: firstOf(opts.node, fleet.AnyNode), Labels: opts.labels},
	}
	before, err := loadCommit(ctx, repo, src, base)
	if err != nil {
		return err
	}
	after, err := loadCommit(ctx, repo, src, head)
	if err != nil {
		return err
	}
	report, err := repo.Diff(before, after, opts.node)
	if err != nil {
		return fmt.Errorf("diff: %w", err)
	}
	if err := a.printDiff(report); err != nil {
		return err
	}
	if len(report.Changes) > 0 || len(report.Blocked) > 0 {
		return exitStatus(1)
	}
	return nil
}

// splitRange reads BASE..HEAD.
func splitRange(text string) (base, head string, err error) {
	if strings.Contains(text, "...") {
		before, after, _ := strings.Cut(text, "...")
		return "", "", withHint(fmt.Errorf("diff %s: three dots mean the commit that both come from, which is not looked for", text),
			"name it: reconciler diff $(git merge-base %s %s)..%s", firstOf(before, "HEAD"), firstOf(after, "HEAD"), firstOf(after, "HEAD"))
	}
	base, head, _ = strings.Cut(text, "..")
	base, head = firstOf(base, "HEAD"), firstOf(head, "HEAD")
	return base, head, nil
}

// commits is what diff needs of a source.
type commits interface {
	Resolve(ctx context.Context, rev string) (manifest.Revision, error)
	Tree(ctx context.Context, commit string) (fs.FS, error)
}

// loadCommit reads the manifests of a commit.
func loadCommit(ctx context.Context, repo fleet.Repository, src commits, commit string) (fleet.Commit, error) {
	rev, err := src.Resolve(ctx, commit)
	if unknownCommit(err) {
		return fleet.Commit{}, withHint(err, "`git log --oneline --all` lists what the clone has; a shallow one gets the rest with `git fetch --unshallow`")
	}
	if err != nil {
		return fleet.Commit{}, err
	}
	tree, err := src.Tree(ctx, rev.Commit)
	if err != nil {
		return fleet.Commit{}, err
	}
	loaded, problems, err := repo.Load(tree, rev)
	if err != nil {
		return fleet.Commit{}, fmt.Errorf("%s: %w", commit, err)
	}
	if len(problems) > 0 {
		return fleet.Commit{}, withHint(gathered(problems), "commit %s (%s) cannot be applied: `reconciler validate` checks before a commit", shortCommit(rev.Commit), commit)
	}
	return loaded, nil
}
