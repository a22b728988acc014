package linux

import (
	"errors"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
)

// checkPrivileges says whether a container may have the devices and the privileges that it asks for.
func (r *Runtime) checkPrivileges(spec runtime.Spec) error {
	if spec.Security.Privileged && !r.cfg.AllowPrivileged {
		return &runtime.Error{
			Op: "make " + spec.Name.String() + " privileged", Err: errors.New("this server does not allow it"),
			Reason: runtime.ReasonNotAllowed, Permanent: true, Hint: "start the agent with --allow-privileged",
		}
	}
	if err := r.checkAppArmorProfile(spec); err != nil {
		return err
	}
	return r.roots.CheckDevices(spec.Devices)
}

// giveDevices binds the container's devices and lets its cgroup use them.
func giveDevices(spec *specs.Spec, in specInput) {
	for _, d := range in.Root.Devices {
		spec.Mounts = append(spec.Mounts, bind(d.Source, d.Path, "nosuid", "noexec"))
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: new(d.Major), Minor: new(d.Minor), Access: d.Permissions,
		})
	}
	for _, d := range in.AllDevices {
		if slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == d.Path }) {
			continue
		}
		mode := d.Mode
		spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
			Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: new(d.UID), GID: new(d.GID),
		})
	}
}

// unconfine takes away what keeps root inside from the kernel's files and from devices.
func unconfine(spec *specs.Spec) {
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for i, m := range spec.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
}
