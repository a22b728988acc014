package plan

import (
	"fmt"
	"maps"
	"slices"

	"reconciler/manifest"
	"reconciler/runtime"
)

// lowerInits returns what the init containers of s, the defaulted spec of w, mean to a runtime.
func lowerInits(w manifest.Workload, s manifest.Spec) ([]runtime.InitContainer, error) {
	var out []runtime.InitContainer
	for i, ic := range s.InitContainers {
		to, err := lowerInit(w, s, ic)
		if err != nil {
			return nil, fmt.Errorf("spec.initContainers[%d]: %w", i, err)
		}
		out = append(out, to)
	}
	return out, nil
}

func lowerInit(w manifest.Workload, s manifest.Spec, ic manifest.InitContainer) (runtime.InitContainer, error) {
	// It has the container's variables too, and its own win over them.
	vars := make(map[string]manifest.EnvValue, len(s.Env)+len(ic.Env))
	maps.Copy(vars, s.Env)
	maps.Copy(vars, ic.Env)
	s.Env, s.EnvFrom = vars, slices.Concat(s.EnvFrom, ic.EnvFrom)
	env, err := resolveEnv(w, s)
	if err != nil {
		return runtime.InitContainer{}, err
	}
	out := runtime.InitContainer{
		Name: ic.Name, Command: env.expandAll(ic.Command), Args: env.expandAll(ic.Args), WorkingDir: ic.WorkingDir,
		Env: env.vars, EnvFrom: env.sources,
	}
	if env.err != nil {
		return runtime.InitContainer{}, env.err
	}
	if ic.Image != "" {
		out.Image = &runtime.Image{Ref: ic.Image, PullPolicy: runtime.PullPolicy(ic.ImagePullPolicy)}
	}
	if out.Mounts, err = lowerMounts(w, ic.Mounts); err != nil {
		return runtime.InitContainer{}, err
	}
	if ic.SecurityContext != nil {
		security := lowerSecurity(ic.SecurityContext)
		security.HostUsers = value(s.SecurityContext).HostUsers
		out.Security = &security
	}
	return out, nil
}
