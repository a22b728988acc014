package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"reconciler/runtime/atomicfile"
)

func newInstall(a *app) *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Write a systemd unit and a commented configuration for the agent",
		Long: `Writes a systemd unit that runs this program's agent, and /etc/reconciler/agent.yaml with every flag of the agent: those given here
are set, the others are comments with their defaults. A configuration that is there is never touched; the unit is written anew,
so that a newer release may bring a better one. Nothing is started. Containers outlive the service when it stops, fails or is
upgraded.`,
		Example: `  reconciler install --repo https://git.example.com/fleet.git --git-token-file /etc/reconciler/token
  systemctl daemon-reload && systemctl enable --now reconciler`,
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0 all is written, 1 not"},
	}
	a.set.addAll(cmd.Flags())
	cmd.Flags().StringVar(&root, "root", "/", "write below this `DIR`, such as that of an image that is being built")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runInstall(cmd, root) }
	return cmd
}

func (a *app) runInstall(cmd *cobra.Command, root string) error {
	if a.set.config != "" {
		return withHint(errors.New("install --config: it writes that file itself"), "give the flags that are to stand in it")
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	files := serviceFiles(a.set.instance)
	config, unit := filepath.Join(root, files.config), filepath.Join(root, files.unit)
	if err = checkUnit(unit); err != nil {
		return err
	}
	configured, err := writeNewConfig(config, configFile(cmd, a.set.instance))
	if err != nil {
		return err
	}
	if !configured && changedFlags(cmd) {
		return withHint(fmt.Errorf("install: %s is there already, and is not touched", config), "set the flags in it, or move it away")
	}
	if err = os.MkdirAll(filepath.Dir(unit), 0o755); err != nil {
		return err
	}
	if err = atomicfile.Write(unit, []byte(unitFile(binary, a.set.instance, files.config)), 0o644); err != nil {
		return err
	}
	if configured {
		a.outln("wrote " + config)
	} else {
		a.outln("kept " + config)
	}
	a.outln("wrote " + unit)
	if a.set.repo == "" && configured {
		a.outf("%s set repo: in %s first\n", a.paint(a.out, cyan, "next:"), config)
	}
	a.outf("%s systemctl daemon-reload && systemctl enable --now %s\n", a.paint(a.out, cyan, "next:"), files.service)
	return nil
}

// serviceNames are where the service of an instance is kept.
type serviceNames struct{ service, unit, config string }

func serviceFiles(instance string) serviceNames {
	n := serviceNames{service: "reconciler", config: "/etc/reconciler/agent.yaml"}
	if instance != defaultInstance {
		n = serviceNames{service: "reconciler-" + instance, config: "/etc/reconciler/" + instance + ".yaml"}
	}
	n.unit = "/etc/systemd/system/" + n.service + ".service"
	return n
}

// unitMark is the first line of a unit that install wrote, and may write again.
const unitMark = "# Written by `reconciler install`, which writes it anew: put changes into a drop-in, with `systemctl edit`."

// checkUnit refuses to take the place of a unit that somebody else wrote.
func checkUnit(path string) error {
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !bytes.HasPrefix(content, []byte(unitMark)):
		return withHint(fmt.Errorf("install: %s was not written by install, and is not touched", path), "move it away")
	}
	return nil
}

// unitFile is the systemd unit that runs binary's agent. What is not in it matters as much as what is; systemd.kill(5) and
// systemd.exec(5) say why.
func unitFile(binary, instance, config string) string {
	args := ""
	if instance != defaultInstance {
		args = " --instance " + instance
	}
	return unitMark + `
[Unit]
Description=Keeps this server's containers the way a Git repository says
# These may empty the packet filter when they start. No network is waited for: what ran comes back without one.
After=nftables.service firewalld.service ufw.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=` + quoteUnit(binary) + ` agent` + args + ` --config ` + config + `
Restart=always
RestartSec=1
# Only the agent ends with the service. The supervisor and the containers live in cgroups of their own and go on.
KillMode=process
# Nothing here may give the agent a mount namespace of its own (PrivateTmp, ProtectSystem, ReadOnlyPaths and the like), or
# mounts would not be seen by the next one; and no Delegate, which would keep cgroups below the unit.

[Install]
WantedBy=multi-user.target
`
}

// quoteUnit writes a path so that systemd takes it as one word with nothing in it expanded.
func quoteUnit(path string) string {
	path = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`).Replace(path)
	if strings.ContainsAny(path, " \t'\"") {
		return `"` + path + `"`
	}
	return path
}

// writeNewConfig writes the configuration, unless one is there. It reports whether it did.
func writeNewConfig(path, content string) (bool, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // it may name credentials
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Close()); err != nil {
		return false, errors.Join(err, os.Remove(path))
	}
	return true, nil
}
