package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
	"reconciler/reconcile/source"
	"reconciler/runtime"
	"reconciler/runtime/calm"
	"reconciler/runtime/linux"
	"reconciler/runtime/network"
	"reconciler/runtime/supervisor"
)

func newAgent(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Follow the repository and keep this server's containers, until told to stop",
		Long: `Follows the repository and keeps this server's containers as it says, until SIGINT or SIGTERM. Containers keep running
when it stops, and the next agent finds them. A repository or directory on this machine is watched: a push is seen at
once. Others are looked at every --interval.`,
		Example: `  reconciler agent --repo https://git.example.com/fleet.git --git-token-file /etc/reconciler/token
  reconciler agent --repo git@git.example.com:fleet.git --git-ssh-key /etc/reconciler/key --git-known-hosts /etc/reconciler/hosts
  reconciler agent --config /etc/reconciler/agent.yaml`,
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 told to stop, 1 could not start or go on"},
	}
	a.set.addAll(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runAgent(cmd.Context()) }
	return cmd
}

func (a *app) runAgent(ctx context.Context) error {
	if err := needRoot("agent"); err != nil {
		return err
	}
	log, err := a.logger()
	if err != nil {
		return err
	}
	if err = a.checkListen(); err != nil {
		return err
	}
	agent, err := a.newAgent("agent", log)
	if err != nil {
		return err
	}
	if err = calm.Monitor(); err != nil {
		log.Debug("the monitor thread wakes as often as it likes", "err", err)
	}
	log.Info("agent starts", "version", version, "node", a.set.node, "instance", a.set.instance, "state", a.set.stateDir)
	return a.serve(ctx, agent, log)
}

// newAgent wires an agent by the flags. It starts nothing.
func (a *app) newAgent(verb string, log *slog.Logger) (*reconcile.Agent, error) {
	src, err := a.openSource(verb, log)
	if err != nil {
		return nil, err
	}
	policy, err := a.policy()
	if err != nil {
		return nil, err
	}
	unavailable, err := percent("--max-unavailable", a.set.maxUnavailable)
	if err != nil {
		return nil, err
	}
	for _, d := range []struct {
		flag  string
		every time.Duration
	}{{"--interval", a.set.interval}, {"--image-interval", a.set.imageInterval}} {
		if d.every <= 0 {
			return nil, withHint(fmt.Errorf("%s %v: want more than nothing", d.flag, d.every), "write a duration, such as 30s; a repository on this machine is watched besides")
		}
	}
	if a.set.imageGCLow > a.set.imageGCHigh || a.set.imageGCLow < 0 || a.set.imageGCHigh > 100 {
		return nil, fmt.Errorf("--image-gc-low %d, --image-gc-high %d: want 0 <= low <= high <= 100", a.set.imageGCLow, a.set.imageGCHigh)
	}
	rt, err := a.openRuntime(verb, log)
	if err != nil {
		return nil, err
	}
	return reconcile.New(reconcile.Config{
		Node: a.set.node, Instance: a.set.instance, StateDir: a.set.stateDir,
		Source: src, SourceInfo: a.sourceInfo(src), Load: a.loader(),
		UnknownCommit: unknownCommit, HintOf: source.Hint, Gone: source.Gone,
		Runtime: rt, Facts: facts(rt), Policy: policy, Resolve: rt.Resolve,
		Collect: func(ctx context.Context, keep []string) error {
			gone, err := rt.CollectImages(ctx, keep, a.set.imageGCHigh, a.set.imageGCLow)
			if len(gone.Images) > 0 {
				log.Info("unused images removed", "images", len(gone.Images), "bytes", gone.Bytes)
			}
			return err
		},
		Expect: rt.Expect,
		TakenPorts: func(ctx context.Context) ([]plan.TakenPort, error) {
			taken, err := rt.TakenPorts(ctx)
			return takenPorts(taken), err
		},
		Output:   func(ctx context.Context, id runtime.ID) (string, error) { return endOfOutput(ctx, rt, id) },
		BuiltAt:  builtAt(),
		Interval: a.set.interval, NextPoll: src.NextPoll, ImageInterval: a.set.imageInterval,
		MaxUnavailable: unavailable, Logger: log,
	})
}

// endOfOutput returns the end of what the last start of a container wrote, its two streams in the order in which it did.
func endOfOutput(ctx context.Context, rt *linux.Runtime, id runtime.ID) (string, error) {
	var tail []byte
	const lines = plan.MaxOutput / 8 // of shorter ones fewer bytes are kept
	for entry, err := range rt.Logs(ctx, id, supervisor.LogOptions{Current: true, Tail: lines}) {
		if err != nil {
			return string(tail), err
		}
		if tail = append(tail, entry.Line...); !entry.Partial {
			tail = append(tail, '\n')
		}
		tail = tail[max(0, len(tail)-plan.MaxOutput):]
	}
	return string(tail), nil
}

// openSource opens the repository that the flags name. It reads nothing of it.
func (a *app) openSource(verb string, log *slog.Logger) (*source.Source, error) {
	if a.set.repo == "" {
		return nil, withHint(fmt.Errorf("%s: no repository given", verb),
			"name it with --repo URL, %s, or `repo:` in the file of --config", envName("repo"))
	}
	return source.Open(source.Config{
		URL: a.set.repo, Branch: a.set.branch, Path: a.set.path, StateDir: a.set.stateDir,
		NodeName: a.set.node, Interval: a.set.interval,
		TokenFile: a.set.gitTokenFile, CAFile: a.set.gitCAFile, SSHKey: a.set.gitSSHKey, KnownHosts: a.set.gitKnownHosts,
		Logger: log,
	})
}

func (a *app) sourceInfo(src *source.Source) report.Source {
	return report.Source{URL: src.RedactedURL(), Branch: a.set.branch, Path: a.set.path}
}

// loader returns what reads what a commit asks of this node: of each but the first, the files that changed.
func (a *app) loader() func(tree fs.FS, rev manifest.Revision) (manifest.Set, error) {
	loader := manifest.Loader{
		Path: filepath.ToSlash(filepath.Clean(a.set.path)), Cache: new(manifest.Cache),
		// Our clone is repaired, or a directory that is being written to is at rest, when it is read again.
		Unreadable: func(err error) bool { return errors.Is(err, source.ErrCorrupt) || errors.Is(err, source.ErrChanged) },
	}
	return func(tree fs.FS, rev manifest.Revision) (manifest.Set, error) {
		return loader.Load(tree, rev, manifest.Node{Name: a.set.node, Labels: a.set.labels})
	}
}

func (a *app) policy() (plan.Policy, error) {
	share, err := percent("--max-remove", a.set.maxRemove)
	if err != nil {
		return plan.Policy{}, err
	}
	reserve, err := reserved(a.set.reserve)
	if err != nil {
		return plan.Policy{}, err
	}
	return plan.Policy{
		MaxRemove: share, AllowCapture: a.set.allowCapture, AllowHostPath: a.set.allowHostPath, AllowSecretPath: a.set.allowSecretPath,
		AllowDevice: a.set.allowDevice, AllowPrivileged: a.set.allowPrivileged,
		Reserve: reserve,
	}, nil
}

func facts(rt *linux.Runtime) plan.Facts {
	f := rt.Facts()
	return plan.Facts{
		Architecture: f.Architecture, Variant: f.Variant, Kernel: f.Kernel, Capacity: plan.Amounts(rt.Capacity()),
	}
}

// takenPorts are those of the network room as a plan wants them. A program that listens on :: has IPv4 too, unless it asked
// for IPv6 alone: nobody can see that from outside.
func takenPorts(taken []network.Taken) []plan.TakenPort {
	out := make([]plan.TakenPort, 0, len(taken))
	for _, t := range taken {
		to := plan.TakenPort{Protocol: t.Protocol, Address: t.At.Addr(), Port: t.At.Port(), By: fmt.Sprintf("%s (%s)", t.By, t.At)}
		if to.Address == netip.IPv6Unspecified() {
			to.Address = netip.Addr{}
		}
		out = append(out, to)
	}
	return out
}

// planAlone looks at the repository and says what an agent with these flags would do now.
func (a *app) planAlone(ctx context.Context) (report.Plan, error) {
	agent, err := a.newAgent("plan", quiet())
	if err != nil {
		return report.Plan{}, err
	}
	return agent.Preview(ctx)
}

func unknownCommit(err error) bool { return errors.Is(err, source.ErrUnknownCommit) }

// keptImages returns the digests that the accepted and the last good commit need, which may not be running now.
func (a *app) keptImages() ([]string, error) {
	if _, err := os.Stat(a.set.stateDir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	kept, err := journal.Read(a.set.stateDir)
	if err != nil {
		return nil, err
	}
	return kept.State.NeededImages(), nil
}
