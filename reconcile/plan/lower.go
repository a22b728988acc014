package plan

import (
	"fmt"
	"io/fs"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Lower returns what w means to a runtime, with this release's defaults. It needs nothing but w, so that a workload
// that was kept means the same without its commit. Revision, the pinned image and SecretDigests are left empty.
func Lower(w manifest.Workload) (runtime.Spec, error) {
	origin, err := w.Encode()
	if err != nil {
		return runtime.Spec{}, fmt.Errorf("keep the manifest of %s: %w", w.Name.Short(), err)
	}
	s := manifest.DefaultedFor(w.Kind, w.Spec)
	env, err := resolveEnv(w, s)
	if err != nil {
		return runtime.Spec{}, err
	}
	out := runtime.Spec{
		Name:         runtimeName(w.Name),
		Origin:       origin,
		OriginDigest: w.Digest,
		Command:      env.expandAll(s.Command),
		Args:         env.expandAll(s.Args),
		WorkingDir:   s.WorkingDir,
		Env:          env.vars,
		EnvFrom:      env.sources,
		Hostname:     s.Hostname,
		Init:         value(s.Init),
		ShmSize:      int64(value(s.ShmSize)),
		StopSignal:   s.StopSignal,
		StopGrace:    time.Duration(value(s.TerminationGracePeriodSeconds)) * time.Second,
	}
	if env.err != nil {
		return runtime.Spec{}, env.err
	}
	if out.Hostname == "" {
		out.Hostname = w.Name.Name
	}
	lowerRoot(&out, s)
	lowerLimits(&out, s)
	lowerDevices(&out, s)
	if err = lowerNetwork(&out, s); err != nil {
		return runtime.Spec{}, err
	}
	if out.Mounts, err = lowerMounts(w, s.Mounts); err != nil {
		return runtime.Spec{}, fmt.Errorf("spec.%w", err)
	}
	if out.InitContainers, err = lowerInits(w, s); err != nil {
		return runtime.Spec{}, err
	}
	lowerScript(&out, s.Script)
	out.Security = lowerSecurity(s.SecurityContext)
	return out, nil
}

// scriptPath is where a Job finds its script.
const scriptPath = "/run/reconciler/script"

// lowerScript has the script run: by itself, or by the command, which gets it as its last argument.
func lowerScript(out *runtime.Spec, script *manifest.Script) {
	if script == nil {
		return
	}
	const name = "script"
	out.Mounts = append(out.Mounts, runtime.Mount{Path: scriptPath, ReadOnly: true, Files: &runtime.Files{
		Name: name, Key: name, Mode: 0o555, Content: map[string][]byte{name: script.Code()},
	}})
	out.Command = append(slices.Clip(out.Command), scriptPath)
}

func runtimeName(n manifest.Name) runtime.Name {
	return runtime.Name{Namespace: n.Namespace, Name: n.Name}
}

// value returns what p points at, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// valueOr returns what p points at, or def.
func valueOr[T any](p *T, def T) T {
	if p == nil {
		return def
	}
	return *p
}

func lowerRoot(out *runtime.Spec, s manifest.Spec) {
	if s.Image != "" {
		out.Image = &runtime.Image{Ref: s.Image, PullPolicy: runtime.PullPolicy(s.ImagePullPolicy)}
	}
	if s.Capture == nil {
		return
	}
	for _, p := range s.Capture.Paths {
		out.Capture = append(out.Capture, runtime.Path{From: p.From, To: p.To})
	}
}

func lowerLimits(out *runtime.Spec, s manifest.Spec) {
	if s.Resources != nil && s.Resources.Limits != nil {
		l := s.Resources.Limits
		out.Limits = runtime.Resources{
			CPUMillis: int64(value(l.CPU)),
			Memory:    int64(value(l.Memory)),
			Pids:      value(l.Pids),
			Disk:      int64(value(l.Disk)),
			Ingress:   int64(value(l.Ingress)),
			Egress:    int64(value(l.Egress)),
		}
	}
	if s.Logs != nil {
		out.Logs = runtime.Logs{MaxSize: int64(value(s.Logs.MaxSize)), MaxFiles: int(value(s.Logs.MaxFiles))}
	}
}

func lowerDevices(out *runtime.Spec, s manifest.Spec) {
	for _, d := range s.Devices {
		out.Devices = append(out.Devices, runtime.Device{Path: d.Path, Permissions: d.Permissions})
	}
	out.Ulimits, out.Sysctls = s.Ulimits, s.Sysctls
}

func lowerMounts(w manifest.Workload, mounts []manifest.Mount) ([]runtime.Mount, error) {
	var out []runtime.Mount
	for i, m := range mounts {
		to := runtime.Mount{Path: m.Path, ReadOnly: value(m.ReadOnly)}
		mode := fs.FileMode(value(m.Mode))
		switch {
		case m.Volume != nil:
			to.Volume = &runtime.Volume{Name: m.Volume.Name, Shared: value(m.Shared), Size: int64(value(m.Volume.Size))}
		case m.Config != "":
			content, err := configFiles(w, m.Config, m.Key)
			if err != nil {
				return nil, fmt.Errorf("mounts[%d]: %w", i, err)
			}
			to.ReadOnly = true
			to.Files = &runtime.Files{Name: m.Config, Key: m.Key, Mode: mode, Content: content, Signal: value(m.OnChange).Signal}
		case m.Secret != "":
			from, ok := w.Secrets[m.Secret]
			if !ok {
				return nil, fmt.Errorf("mounts[%d]: no Secret %s", i, m.Secret)
			}
			to.ReadOnly = true
			to.Secret = &runtime.Secret{Name: m.Secret, Directory: from.FromDirectory, Key: m.Key, Mode: mode, Signal: value(m.OnChange).Signal}
		case m.HostPath != "":
			to.HostPath = m.HostPath
		case m.Tmpfs != nil:
			to.Tmpfs = &runtime.Tmpfs{Size: int64(*m.Tmpfs)}
		default:
			return nil, fmt.Errorf("mounts[%d]: says nothing to mount", i)
		}
		out = append(out, to)
	}
	return out, nil
}

// configFiles returns the files of a Config, or the one with key where key is not empty.
func configFiles(w manifest.Workload, config, key string) (map[string][]byte, error) {
	data, ok := w.Configs[config]
	if !ok {
		return nil, fmt.Errorf("no Config %s", config)
	}
	if key == "" {
		return data, nil
	}
	content, ok := data[key]
	if !ok {
		return nil, fmt.Errorf("no key %s in Config %s", key, config)
	}
	return map[string][]byte{key: content}, nil
}

// lowerUser tells a number from a name, which only the image knows.
func lowerUser(u manifest.UserRef) (id *int64, name string) {
	if id, ok := u.ID(); ok {
		return &id, ""
	}
	return nil, string(u)
}

func lowerSecurity(s *manifest.SecurityContext) runtime.Security {
	if s == nil {
		return runtime.Security{}
	}
	out := runtime.Security{
		HostUsers:                s.HostUsers,
		SupplementalGroups:       s.SupplementalGroups,
		Privileged:               value(s.Privileged),
		ReadOnlyRoot:             value(s.ReadOnlyRootFilesystem),
		AllowPrivilegeEscalation: value(s.AllowPrivilegeEscalation),
	}
	out.User, out.UserName = lowerUser(s.RunAsUser)
	out.Group, out.GroupName = lowerUser(s.RunAsGroup)
	if c := s.Capabilities; c != nil {
		out.CapAdd, out.CapDrop = c.Add, c.Drop
	}
	if p := s.AppArmorProfile; p != nil {
		switch p.Type {
		case manifest.ProfileUnconfined:
			out.AppArmor = runtime.AppArmorUnconfined
		case manifest.ProfileLocalhost:
			out.AppArmor = p.LocalhostProfile
		}
	}
	if p := s.SeccompProfile; p != nil {
		switch p.Type {
		case manifest.ProfileUnconfined:
			out.SeccompUnconfined = true
		case "", manifest.ProfileRuntimeDefault:
		case manifest.ProfileLocalhost:
			out.SeccompProfile = p.Content
		}
	}
	return out
}
