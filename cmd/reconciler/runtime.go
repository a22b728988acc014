package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"reconciler/manifest"
	"reconciler/reconcile/report"
	"reconciler/runtime"
	"reconciler/runtime/linux"
)

// self is the command that runs this instance's supervisor. It says all that it needs, so that ps shows which one it is.
func (a *app) self() []string {
	return []string{
		"/proc/self/exe", "supervisor",
		"--state-dir", a.set.stateDir, "--run-dir", a.set.runDir, "--instance", a.set.instance,
	}
}

// release is how a supervisor is told from that of another release. Empty, for a binary whose linker was told nothing: what
// it was built from.
func release() string {
	if version == unknownVersion {
		return ""
	}
	return version
}

// runtimeConfig is how this server's containers are kept, by the flags.
func (a *app) runtimeConfig(log *slog.Logger) (linux.Config, error) {
	mirrors := map[string]string{}
	for _, m := range a.set.registryMirrors {
		host, url, ok := strings.Cut(m, "=")
		if !ok || host == "" || url == "" {
			return linux.Config{}, withHint(fmt.Errorf("--registry-mirror %q: not a mirror", m), "write HOST=URL, such as docker.io=https://mirror.example.com")
		}
		mirrors[host] = url
	}
	cidr, err := bridgeNetwork(a.set.bridgeCIDR)
	if err != nil {
		return linux.Config{}, err
	}
	return linux.Config{
		BridgeCIDR: cidr,
		StateDir:   a.set.stateDir, RunDir: a.set.runDir, Instance: a.set.instance, Self: a.self(), Release: release(),
		AllowCapture: a.set.allowCapture, AllowHostPath: a.set.allowHostPath, AllowSecretPath: a.set.allowSecretPath,
		AllowDevice: a.set.allowDevice, AllowPrivileged: a.set.allowPrivileged,
		AuthFile: a.set.registryAuth, CAFile: a.set.registryCA, Mirrors: mirrors, Logger: log,
	}, nil
}

// bridgeNetwork reads --bridge-cidr; the zero Prefix leaves the choice to the runtime.
func bridgeNetwork(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	cidr, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, withHint(fmt.Errorf("--bridge-cidr %q: not a network", text), "write a private network that this server does not use, such as 10.77.0.0/16")
	}
	return cidr, nil
}

// openRuntime opens this instance's containers for a verb.
func (a *app) openRuntime(verb string, log *slog.Logger) (*linux.Runtime, error) {
	if err := needRoot(verb); err != nil {
		return nil, err
	}
	cfg, err := a.runtimeConfig(log)
	if err != nil {
		return nil, err
	}
	return linux.Open(cfg)
}

// quiet is a log for verbs that print what happens themselves.
func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// namespaceFlag adds -n to a verb that takes a NAME.
func namespaceFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("namespace", "n", manifest.DefaultNamespace, "`NAMESPACE` of a NAME that has none")
}

// find returns the container that a user's NAME means, which may also be an ID, and the others of that name, newest first.
func find(ctx context.Context, rt runtime.Runtime, text, namespace string) (runtime.Status, []runtime.Status, error) {
	list, err := rt.List(ctx)
	if err != nil {
		return runtime.Status{}, nil, err
	}
	if i := slices.IndexFunc(list, func(s runtime.Status) bool { return string(s.ID) == text }); i >= 0 {
		return list[i], nil, nil
	}
	name, err := manifest.ParseName(text, namespace)
	if err != nil {
		return runtime.Status{}, nil, err
	}
	found := report.Instances(list, name)
	if len(found) == 0 {
		var names []string
		for _, other := range list {
			names = append(names, manifest.Name(other.Spec.Name).Short())
		}
		err := fmt.Errorf("%s: %w here", name.Short(), runtime.ErrNotFound)
		if close := nearest(name.Short(), names); close != "" {
			return runtime.Status{}, nil, withHint(err, "did you mean %s?", close)
		}
		return runtime.Status{}, nil, withHint(err, "`reconciler ps -A` lists what is here; -n names another namespace")
	}
	return found[0], found[1:], nil
}

func running(s runtime.Status) bool { return s.State == runtime.StateRunning }
