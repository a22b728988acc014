package linux

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
	"reconciler/runtime/image"
)

func ociProcess(in specInput) (*specs.Process, error) {
	args := command(in.Spec, in.Image.Config)
	if len(args) == 0 {
		return nil, errNoCommand
	}
	if in.Init != "" {
		args = append([]string{initInside, "--"}, args...)
	}
	caps, err := capabilities(in.Spec.Security, in.User.UID, in.Host.Caps)
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		Args:            args,
		Cwd:             workingDir(in.Spec, in.Image.Config),
		Env:             environment(in.Spec, in.Image.Config, in.User.Home),
		User:            ociUser(in.User, in.Spec.Security.SupplementalGroups),
		Capabilities:    caps,
		NoNewPrivileges: !in.Spec.Security.AllowPrivilegeEscalation,
		OOMScoreAdj:     new(oomScoreAdj),
		Rlimits:         rlimits(in.Spec.Ulimits),
		ApparmorProfile: in.AppArmor,
	}, nil
}

// rlimits are the resource limits, by name so that the same spec makes the same file.
func rlimits(ulimits map[string]int64) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, name := range slices.Sorted(maps.Keys(ulimits)) {
		// -1 is the kernel's RLIM_INFINITY too.
		n := uint64(ulimits[name])
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: n, Hard: n})
	}
	return out
}

var errNoCommand = errors.New("the image has no ENTRYPOINT and no CMD, and the spec no command")

// command is what process 1 is, by Kubernetes' rule: a command of the spec replaces ENTRYPOINT and drops CMD, args
// replace CMD.
func command(spec runtime.Spec, cfg image.Config) []string {
	if len(spec.Command) > 0 {
		return slices.Concat(spec.Command, spec.Args)
	}
	if len(spec.Args) > 0 {
		return slices.Concat(cfg.Entrypoint, spec.Args)
	}
	return slices.Concat(cfg.Entrypoint, cfg.Cmd)
}

func workingDir(spec runtime.Spec, cfg image.Config) string {
	switch {
	case spec.WorkingDir != "":
		return spec.WorkingDir
	case strings.HasPrefix(cfg.WorkingDir, "/"):
		return cfg.WorkingDir
	case cfg.WorkingDir != "":
		return "/" + cfg.WorkingDir
	}
	return "/"
}

// environment is the image's, with PATH, HOME and HOSTNAME where it has none, and then the spec's. Each name stands once.
func environment(spec runtime.Spec, cfg image.Config, home string) []string {
	var env []string
	at := map[string]int{}
	set := func(name, value string) {
		if i, ok := at[name]; ok {
			env[i] = name + "=" + value
			return
		}
		at[name] = len(env)
		env = append(env, name+"="+value)
	}
	set("PATH", image.DefaultPath)
	set("HOSTNAME", spec.Hostname)
	if home == "" {
		home = "/"
	}
	set("HOME", home)
	for _, kv := range cfg.Env {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			set(name, value)
		}
	}
	for _, v := range spec.Env {
		if v.Secret != nil {
			set(v.Name, placeholder(*v.Secret))
		} else {
			set(v.Name, v.Value)
		}
	}
	return env
}

// placeholder stands for a secret in what is kept on disk.
func placeholder(k runtime.SecretKey) string { return "secret:" + k.Directory + "/" + k.Key }

// withSecrets returns spec with the values of secrets in its environment, by the variable's name. What it returns must
// never reach a disk.
func withSecrets(spec *specs.Spec, values map[string]string) *specs.Spec {
	if len(values) == 0 {
		return spec
	}
	filled, process := *spec, *spec.Process
	process.Env = slices.Clone(process.Env)
	for i, kv := range process.Env {
		name, _, _ := strings.Cut(kv, "=")
		if value, ok := values[name]; ok {
			process.Env[i] = name + "=" + value
		}
	}
	filled.Process = &process
	return &filled
}

// userSpec is what the image is asked for to learn who process 1 is.
func userSpec(sec runtime.Security, cfg image.Config) string {
	user, group, hasGroup := strings.Cut(cfg.User, ":")
	if own := idOrName(sec.User, sec.UserName); own != "" {
		// A user of the spec's goes with that user's group, not with the one of another.
		user, hasGroup = own, false
	}
	if own := idOrName(sec.Group, sec.GroupName); own != "" {
		group, hasGroup = own, true
	}
	if hasGroup {
		return user + ":" + group
	}
	return user
}

func idOrName(id *int64, name string) string {
	if id != nil {
		return strconv.FormatInt(*id, 10)
	}
	return name
}

func ociUser(u image.User, supplemental []int64) specs.User {
	groups := map[uint32]bool{}
	for _, g := range u.Groups {
		groups[uint32(g)] = true
	}
	for _, g := range supplemental {
		groups[uint32(g)] = true
	}
	return specs.User{UID: uint32(u.UID), GID: uint32(u.GID), AdditionalGids: slices.Sorted(maps.Keys(groups))}
}

// defaultCapabilities are Docker's fourteen without three: MKNOD (device nodes are of no use inside), NET_RAW (forged
// packets; ping works without, see the sysctls) and AUDIT_WRITE (the host's audit log). They are Podman's default too.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE",
		"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	}
}

// capabilities are the default ones, or all of them, less what is dropped, and then what is added. have are those that this server can
// give. An ordinary user keeps none but those the spec adds by name: without that an added one would be of no effect,
// since no_new_privs disarms the file capabilities that would bring it back (Podman does the same).
func capabilities(sec runtime.Security, uid int, have []string) (*specs.LinuxCapabilities, error) {
	bounding := map[string]bool{}
	for _, c := range defaultCapabilities() {
		bounding[c] = slices.Contains(have, c)
	}
	if sec.Privileged {
		for _, c := range have {
			bounding[c] = true
		}
	}
	for _, c := range sec.CapDrop {
		if strings.EqualFold(c, "ALL") {
			clear(bounding)
		}
		bounding[capName(c)] = false
	}
	named := []string{}
	for _, c := range sec.CapAdd {
		if strings.EqualFold(c, "ALL") {
			for _, c := range have {
				bounding[c] = !dropped(sec, c)
			}
			continue
		}
		name := capName(c)
		if !slices.Contains(have, name) {
			return nil, fmt.Errorf("capability %s: this server cannot give it", c)
		}
		bounding[name] = true
		named = append(named, name)
	}
	var set []string
	for c, in := range bounding {
		if in {
			set = append(set, c)
		}
	}
	slices.Sort(set)
	if uid == 0 {
		return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}, nil
	}
	slices.Sort(named)
	named = slices.Compact(named)
	return &specs.LinuxCapabilities{Bounding: set, Effective: named, Permitted: named, Inheritable: named, Ambient: named}, nil
}

// dropped says that a capability was dropped by its own name, so that "all but this one" can be said.
func dropped(sec runtime.Security, name string) bool {
	return slices.ContainsFunc(sec.CapDrop, func(c string) bool { return capName(c) == name })
}

// capName is the kernel's name of a capability that users write with or without CAP_.
func capName(c string) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(c), "CAP_")
}
