package manifest

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

func (c *checker) devices(s *Spec) {
	seen := make(map[string]int)
	for i, d := range s.Devices {
		switch clean := path.Clean(d.Path); {
		case !c.absolute(at("devices", i, "path"), d.Path):
		case !strings.HasPrefix(clean, "/dev/"):
			c.problem(at("devices", i, "path"), "want a path below /dev, not %s", quote(d.Path))
		case ownDevice(clean):
			c.problem(at("devices", i, "path"), "every container has a %s of its own", quote(clean))
		default:
			if before, ok := seen[clean]; ok {
				c.problem(at("devices", i, "path"), "%s stands twice: also at %s", quote(clean), c.field(at("devices", before)))
			}
			seen[clean] = i
		}
		if strings.Trim(d.Permissions, "rwm") != "" {
			c.problem(at("devices", i, "permissions"), "want letters of rwm, not %s", quote(d.Permissions))
		}
	}
}

// ownDevice reports whether every container has a device, or what else it is, of its own.
func ownDevice(clean string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(clean, "/dev/"), "/")
	return slices.Contains([]string{
		"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
		"tty", "urandom", "zero",
	}, name)
}

func (c *checker) ulimits(s *Spec) {
	for name, n := range s.Ulimits {
		if !slices.Contains(ulimits(), name) {
			c.problem(at("ulimits", name), "want one of %s%s", strings.Join(ulimits(), ", "), c.d.didYouMean(name, ulimits()))
		}
		if n < -1 {
			c.problem(at("ulimits", name), "want at least 0, or -1 for no limit, not %d", n)
		}
	}
}

func ulimits() []string {
	return []string{
		"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
		"rttime", "sigpending", "stack",
	}
}

// sysctls wants parameters of a namespace that is the container's own, and writes their names with dots.
func (c *checker) sysctls(s *Spec) {
	named := make(map[string]string, len(s.Sysctls))
	for _, name := range sortedKeys(s.Sysctls) {
		dotted, p := strings.ReplaceAll(name, "/", "."), at("sysctls", name)
		switch value := s.Sysctls[name]; {
		case slices.Contains(strings.Split(dotted, "."), ""): // as in net/../kernel/panic
			c.problem(p, "want the name of a kernel parameter such as net.core.somaxconn")
		case strings.HasPrefix(dotted, "net.") && (s.Network == NetworkHost || strings.HasPrefix(string(s.Network), NetworkContainer)):
			c.problem(p, "belongs to the network, which is not the container's own with network: %s", s.Network)
		case !strings.HasPrefix(dotted, "net.") && !strings.HasPrefix(dotted, "fs.mqueue.") && !slices.Contains(ipcSysctls(), dotted):
			c.problem(p, "is a parameter of the whole server: want one of %s, or one below fs.mqueue. or net.",
				strings.Join(ipcSysctls(), ", "))
		case value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }):
			c.problem(p, "want a value of one line, not %s", quote(value))
		}
		if _, twice := named[dotted]; twice {
			c.problem(p, "%s stands twice, with dots and with slashes", dotted)
		}
		named[dotted] = s.Sysctls[name]
	}
	if s.Sysctls != nil {
		s.Sysctls = named
	}
}

// ipcSysctls are the parameters of an IPC namespace that are not below fs.mqueue.
func ipcSysctls() []string {
	return []string{
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shm_rmid_forced", "kernel.shmall",
		"kernel.shmmax", "kernel.shmmni",
	}
}

func (c *checker) security(s *Spec, sc *SecurityContext, p place) {
	if sc.Privileged != nil && *sc.Privileged {
		c.privileged(s, sc, p)
	}
	c.user(p.to("runAsUser"), sc.RunAsUser)
	c.user(p.to("runAsGroup"), sc.RunAsGroup)
	for i, id := range sc.SupplementalGroups {
		c.id(p.to("supplementalGroups", i), id)
	}
	if sc.Capabilities != nil {
		c.capabilities(p.to("capabilities", "drop"), sc.Capabilities.Drop)
		c.capabilities(p.to("capabilities", "add"), sc.Capabilities.Add)
	}
	if sp := sc.SeccompProfile; sp != nil {
		c.seccomp(p.to("seccompProfile"), sp)
	}
	if ap := sc.AppArmorProfile; ap != nil {
		c.appArmor(p.to("appArmorProfile"), *ap)
	}
}

// privileged refuses what a container cannot be that is confined by nothing.
func (c *checker) privileged(s *Spec, sc *SecurityContext, p place) {
	for _, o := range []struct {
		name    string
		clashes bool
	}{
		{"hostUsers", sc.HostUsers != nil && !*sc.HostUsers},
		{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation},
		{"appArmorProfile", sc.AppArmorProfile != nil && sc.AppArmorProfile.Type != ProfileUnconfined},
		{"seccompProfile", sc.SeccompProfile != nil && sc.SeccompProfile.Type != ProfileUnconfined},
	} {
		if o.clashes {
			c.problem(p.to(o.name), "does not go with privileged: true, which lifts it")
		}
	}
	if strings.HasPrefix(string(s.Network), NetworkContainer) {
		c.problem(p.to("privileged"), "does not go with network: %s, whose user ids it would have", printable(string(s.Network)))
	}
}

func (c *checker) appArmor(p place, ap AppArmorProfile) {
	name := p.to("localhostProfile")
	switch {
	case ap.Type == "" && !c.has(p.to("type")):
		c.problem(p.to("type"), "is missing: want one of %s", strings.Join(ap.Type.words(), ", "))
	case ap.Type != ProfileLocalhost && ap.LocalhostProfile != "":
		c.problem(name, "goes with type Localhost only")
	case ap.Type == ProfileLocalhost && ap.LocalhostProfile == "":
		c.problem(name, "is missing: want the name of a profile that is loaded on the server")
	case len(ap.LocalhostProfile) > 255 || strings.ContainsFunc(ap.LocalhostProfile, func(r rune) bool { return r <= ' ' || r > '~' }):
		c.problem(name, "want the name of a profile without spaces, not %s", quote(ap.LocalhostProfile))
	}
}

// id wants a user or group id; the largest 32-bit number means "no id" to the kernel.
func (c *checker) id(p place, n int64) {
	if n < 0 || n >= 1<<32-1 {
		c.problem(p, "want a number from 0 to %s, not %d", strconv.Itoa(1<<32-2), n)
	}
}

// capabilities checks names and takes the prefix CAP_ off.
func (c *checker) capabilities(p place, names []string) {
	for i, name := range names {
		short := strings.TrimPrefix(name, "CAP_")
		if known := capabilities(); short != "ALL" && !slices.Contains(known, short) {
			known = append(known, "ALL")
			c.problem(p.to(i), "%s is no capability of Linux%s", quote(name), c.d.didYouMean(short, known))
			continue
		}
		names[i] = short
	}
}
