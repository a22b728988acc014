package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Refuse says why this server cannot run w (Incompatible) or may not (NotAllowed); an empty reason: it can and may.
func Refuse(w manifest.Workload, f Facts, p Policy) (reason, message string) {
	if message = incompatible(w.Spec.Platform, f); message != "" {
		return runtime.ReasonIncompatible, message
	}
	if message = notAllowed(w, p); message != "" {
		return runtime.ReasonNotAllowed, message
	}
	return "", ""
}

func incompatible(want *manifest.Platform, f Facts) string {
	if want == nil {
		return ""
	}
	if len(want.Architectures) > 0 && f.Architecture != "" &&
		!slices.Contains(want.Architectures, f.Architecture) &&
		!slices.Contains(want.Architectures, f.Architecture+"/"+f.Variant) {
		return fmt.Sprintf("is for %s, this server is %s", strings.Join(want.Architectures, " or "), f.Architecture)
	}
	if want.Kernel == "" || f.Kernel == "" {
		return ""
	}
	switch ok, err := manifest.KernelSatisfies(want.Kernel, f.Kernel); {
	case err != nil:
		return err.Error()
	case !ok:
		return fmt.Sprintf("wants a kernel %s, this server has %s", want.Kernel, f.Kernel)
	}
	return ""
}

func notAllowed(w manifest.Workload, p Policy) string {
	if w.Spec.Capture != nil {
		for _, from := range w.Spec.Capture.Paths {
			if !below(p.AllowCapture, from.From) {
				return denied("captures "+from.From, "--allow-capture "+from.From)
			}
		}
	}
	mounts := w.Spec.Mounts
	for _, ic := range w.Spec.InitContainers {
		mounts = append(slices.Clip(mounts), ic.Mounts...)
	}
	for _, m := range mounts {
		if m.HostPath != "" && !below(p.AllowHostPath, m.HostPath) {
			return denied("mounts "+m.HostPath+" of the server", "--allow-host-path "+m.HostPath)
		}
	}
	for _, name := range sortedKeys(w.Secrets) {
		if dir := w.Secrets[name].FromDirectory; !below(p.AllowSecretPath, dir) {
			return denied("uses Secret "+name+" from "+dir, "--allow-secret-path "+dir)
		}
	}
	for _, d := range w.Spec.Devices {
		if !below(p.AllowDevice, d.Path) {
			return denied("uses the device "+d.Path, "--allow-device "+d.Path)
		}
	}
	if c := w.Spec.SecurityContext; c != nil && value(c.Privileged) && !p.AllowPrivileged {
		return denied("is privileged", "--allow-privileged")
	}
	return ""
}

func denied(what, flag string) string {
	return fmt.Sprintf("%s, which this server does not allow: start the agent with %s, or leave it out", what, flag)
}

// below reports whether p is one of the directories or inside of one.
func below(dirs []string, p string) bool {
	p = path.Clean(p)
	for _, dir := range dirs {
		dir = path.Clean(dir)
		if dir == "/" || p == dir || strings.HasPrefix(p, dir+"/") {
			return path.IsAbs(p)
		}
	}
	return false
}
