package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"reconciler/runtime/supervisor"
)

// versionReport is what version -o json says.
type versionReport struct {
	Version      string             `json:"version"`
	Revision     string             `json:"revision,omitempty"` // the commit it was built from, where the build knew
	Go           string             `json:"go"`
	Platform     string             `json:"platform"`
	Libcontainer string             `json:"libcontainer"`
	Supervisors  []supervisorReport `json:"supervisors"`
}

// supervisorReport is one supervisor that runs.
type supervisorReport struct {
	Instance   string    `json:"instance"`
	RunDir     string    `json:"runDir"`
	Pid        int       `json:"pid"`
	Binary     string    `json:"binary"`
	Protocol   int       `json:"protocol"`
	StartedAt  time.Time `json:"startedAt"`
	Containers int       `json:"containers"`
	Running    int       `json:"running"`
	Error      string    `json:"error,omitempty"` // why it does not say what it keeps
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "version",
		Short:       "Print this program's version, and the supervisors that run and what they keep",
		Example:     "  reconciler version -o json",
		Args:        argsError(cobra.NoArgs),
		Annotations: map[string]string{exitAnnotation: "0"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			report := a.versionReport(cmd.Context())
			return a.print(report, func() error {
				a.outf("reconciler %s (%s, %s, libcontainer %s)\n", report.Version, report.Go, report.Platform, report.Libcontainer)
				for _, s := range report.Supervisors {
					keeps := fmt.Sprintf("keeps %s (%d running)", count(s.Containers, "container"), s.Running)
					if s.Error != "" {
						keeps = s.Error
					}
					a.outf("supervisor of %s: pid %d, %s, up %s, %s\n", s.Instance, s.Pid, s.Binary, age(time.Now(), s.StartedAt), keeps)
					if release() != "" && s.Binary != release() {
						a.outf("  another release: the agent of this one upgrades it in place when it starts\n")
					}
				}
				return nil
			})
		},
	}
}

func (a *app) versionReport(ctx context.Context) versionReport {
	r := versionReport{
		Version: version, Go: goruntime.Version(), Platform: goruntime.GOOS + "/" + goruntime.GOARCH,
		Libcontainer: "unknown", Supervisors: []supervisorReport{},
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				r.Revision = s.Value
			}
		}
		for _, m := range info.Deps {
			if m.Path == "github.com/opencontainers/runc" {
				r.Libcontainer = strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	if os.Geteuid() != 0 {
		return r // the sockets belong to root
	}
	for _, cfg := range a.instances() {
		if s, ok := askSupervisor(ctx, cfg); ok {
			r.Supervisors = append(r.Supervisors, s)
		}
	}
	return r
}

// builtAt returns the time of the commit that this program was built from; zero where the build did not know.
func builtAt() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			at, err := time.Parse(time.RFC3339, s.Value)
			if err == nil {
				return at
			}
		}
	}
	return time.Time{}
}

// instances returns where supervisors may run: this instance's directories, and those that others have by default.
func (a *app) instances() []supervisor.Config {
	list := []supervisor.Config{{StateDir: a.set.stateDir, RunDir: a.set.runDir, Instance: a.set.instance}}
	dirs, _ := filepath.Glob("/run/reconciler*") // the pattern is well formed
	for _, dir := range dirs {
		name := defaultInstance
		if suffix := strings.TrimPrefix(dir, "/run/reconciler"); suffix != "" {
			name = strings.TrimPrefix(suffix, "-")
		}
		known := slices.ContainsFunc(list, func(c supervisor.Config) bool { return c.RunDir == dir })
		if instanceName(name) && !known {
			list = append(list, supervisor.Config{RunDir: dir, Instance: name})
		}
	}
	return list
}

// askSupervisor returns what the supervisor of an instance says; false where none answers soon.
func askSupervisor(ctx context.Context, cfg supervisor.Config) (supervisorReport, bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	v, err := supervisor.AskVersion(ctx, cfg)
	if err != nil {
		return supervisorReport{}, false
	}
	r := supervisorReport{
		Instance: cfg.Instance, RunDir: cfg.RunDir, Pid: v.Pid, Binary: v.Binary, Protocol: v.Protocol, StartedAt: v.StartedAt,
	}
	client, err := supervisor.Dial(ctx, cfg)
	if err != nil {
		r.Error = err.Error()
		return r, true
	}
	list, err := client.List(ctx)
	if err != nil {
		r.Error = err.Error()
	}
	r.Containers = len(list)
	for _, c := range list {
		if c.Running {
			r.Running++
		}
	}
	return r, true
}
