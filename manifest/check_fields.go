package manifest

import (
	"cmp"
	"net/netip"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

func (c *checker) network(s *Spec) {
	switch n := s.Network; {
	case n == "", n == NetworkBridge, n == NetworkNone:
	case n == NetworkHost:
		if sc := valueOf(s.SecurityContext); !valueOf(sc.HostUsers) && !valueOf(sc.Privileged) {
			c.problem(at("network"), "host needs securityContext.hostUsers: true, since the server's network belongs to the server's users")
		}
	case strings.HasPrefix(string(n), NetworkContainer):
		c.label(at("network"), strings.TrimPrefix(string(n), NetworkContainer))
	default:
		known := []string{string(NetworkBridge), string(NetworkHost), string(NetworkNone)}
		c.problem(at("network"), "want one of %s or container:NAME, not %s%s", strings.Join(known, ", "), quote(string(n)), c.d.didYouMean(string(n), known))
	}
	c.ports(s.Ports)
	if s.DNS != nil {
		for i, a := range s.DNS.Nameservers {
			c.address(at("dns", "nameservers", i), a)
		}
		for i, domain := range s.DNS.Search {
			if !validSubdomain(domain) {
				c.problem(at("dns", "search", i), "want a domain, not %s", quote(domain))
			}
		}
		for i, option := range s.DNS.Options {
			if option == "" || strings.ContainsFunc(option, func(r rune) bool { return r <= ' ' || r > '~' }) {
				c.problem(at("dns", "options", i), "want an option such as ndots:2, not %s", quote(option))
			}
		}
	}
	for name, a := range s.ExtraHosts {
		if !validSubdomain(name) {
			c.problem(at("extraHosts", name), "want a host name, not %s", quote(name))
		}
		c.address(at("extraHosts", name), a)
	}
}

func (c *checker) address(p place, s string) {
	if _, err := netip.ParseAddr(s); err != nil {
		c.problem(p, "want an IP address, not %s", quote(s))
	}
}

func (c *checker) ports(ports []Port) {
	type hostPort struct {
		ip, protocol string
		port         int64
	}
	type inside struct {
		protocol string
		port     int64
	}
	names, published, listening := make(map[string]bool), make(map[hostPort]bool), make(map[inside]int)
	for i, port := range ports {
		p := at("ports", i)
		if port.ContainerPort == 0 && !c.has(p.to("containerPort")) {
			c.problem(p.to("containerPort"), "is missing")
		} else {
			c.port(p.to("containerPort"), port.ContainerPort)
		}
		if port.Name != "" {
			c.label(p.to("name"), port.Name)
			if names[port.Name] {
				c.problem(p.to("name"), "%s stands twice", quote(port.Name))
			}
			names[port.Name] = true
		}
		if port.HostIP != "" {
			c.address(p.to("hostIP"), port.HostIP)
		}
		for j, network := range port.Allow {
			if _, err := netip.ParsePrefix(network); err != nil {
				if _, err := netip.ParseAddr(network); err != nil {
					c.problem(p.to("allow", j), "want a network such as 10.0.0.0/8, not %s", quote(network))
				}
			}
		}
		protocol := cmp.Or(string(port.Protocol), string(ProtocolTCP))
		if port.HostPort == nil {
			if before, ok := listening[inside{protocol, port.ContainerPort}]; ok && port.ContainerPort != 0 {
				c.problem(p, "the port %d/%s stands twice: also at ports[%d]", port.ContainerPort, protocol, before)
			}
			listening[inside{protocol, port.ContainerPort}] = i
			continue
		}
		c.port(p.to("hostPort"), *port.HostPort)
		key := hostPort{cmp.Or(port.HostIP, "0.0.0.0"), protocol, *port.HostPort}
		if published[key] {
			c.problem(p.to("hostPort"), "the port %d/%s is published twice", *port.HostPort, protocol)
		}
		published[key] = true
	}
}

func (c *checker) port(p place, n int64) {
	if n < 1 || n > 65535 {
		c.problem(p, "want a port from 1 to 65535, not %d", n)
	}
}

// minMemory is the least that runc can start a process with; below it the start itself is killed.
const minMemory = 6 << 20

func (c *checker) resources(s *Spec) {
	if r := s.Resources; r != nil {
		if r.Limits != nil {
			c.limits(r.Limits)
		}
		if r.Requests != nil {
			c.requests(r.Requests, r.Limits)
		}
	}
	if s.Logs != nil {
		if m := s.Logs.MaxSize; m != nil && *m < 4096 {
			c.problem(at("logs", "maxSize"), "want at least 4Ki, not %s", m)
		}
		c.atLeast(at("logs", "maxFiles"), s.Logs.MaxFiles, 1)
		if n := s.Logs.MaxFiles; n != nil && *n > 1000 {
			c.problem(at("logs", "maxFiles"), "want at most 1000, not %d", *n)
		}
	}
	c.positive(at("shmSize"), s.ShmSize)
}

func (c *checker) limits(l *Limits) {
	if l.CPU != nil && *l.CPU < 10 {
		c.problem(at("resources", "limits", "cpu"), "want at least 10m, not %s: the kernel's scheduler knows nothing smaller", l.CPU)
	}
	if l.Memory != nil && *l.Memory < minMemory {
		c.problem(at("resources", "limits", "memory"), "want at least %s, not %s: no container starts with less", Bytes(minMemory), l.Memory)
	}
	c.atLeast(at("resources", "limits", "pids"), l.Pids, 1)
	c.leastDisk(at("resources", "limits", "disk"), l.Disk, minDisk)
	for name, rate := range map[string]*BitRate{"ingress": l.Ingress, "egress": l.Egress} {
		if rate != nil && *rate < 8000 {
			c.problem(at("resources", "limits", name), "want at least 8k bits a second, not %s", rate)
		}
	}
}

func (c *checker) requests(r *Requests, l *Limits) {
	if l == nil {
		l = &Limits{}
	}
	if r.CPU != nil && l.CPU != nil && *r.CPU > *l.CPU {
		c.problem(at("resources", "requests", "cpu"), "%s is more than the limit of %s", r.CPU, l.CPU)
	}
	if r.Memory != nil && l.Memory != nil && *r.Memory > *l.Memory {
		c.problem(at("resources", "requests", "memory"), "%s is more than the limit of %s", r.Memory, l.Memory)
	}
}

func (c *checker) positive(p place, b *Bytes) {
	if b != nil && *b <= 0 {
		c.problem(p, "want more than %s", b)
	}
}

func (c *checker) atLeast(p place, n *int64, least int64) {
	if n != nil && *n < least {
		c.problem(p, "want at least %d, not %d", least, *n)
	}
}

func (c *checker) mounts(mounts []Mount, where place) {
	seen := make(map[string]int)
	for i := range mounts {
		m, p := &mounts[i], where.to(i)
		if c.absolute(p.to("path"), m.Path) {
			clean := path.Clean(m.Path)
			if reserved(clean) {
				c.problem(p.to("path"), "nothing can be mounted at %s: it belongs to the container itself", quote(clean))
			}
			if before, ok := seen[clean]; ok {
				c.problem(p.to("path"), "%s is mounted twice: also at %s", quote(clean), c.field(where.to(before)))
			}
			seen[clean] = i
		}
		c.mountSource(m, p)
		c.mountOptions(m, p)
	}
}

// reserved reports whether a path belongs to the container itself: its root, and the kernel's file systems.
func reserved(clean string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(clean, "/"), "/")
	return slices.Contains([]string{"", "proc", "sys", "dev"}, first)
}

func (c *checker) mountSource(m *Mount, p place) {
	sources := 0
	for _, present := range []bool{m.Volume != nil, m.Config != "", m.Secret != "", m.HostPath != "", m.Tmpfs != nil || c.has(p.to("tmpfs"))} {
		if present {
			sources++
		}
	}
	if sources != 1 {
		c.problem(p, "want exactly one of volume, config, secret, hostPath and tmpfs")
		return
	}
	switch {
	case m.Volume != nil:
		c.volume(m, p.to("volume"))
	case m.Config != "":
		c.refer(p.to("config"), reference{kind: refConfig, name: m.Config, key: m.Key})
	case m.Secret != "":
		c.refer(p.to("secret"), reference{kind: refSecret, name: m.Secret, key: m.Key})
	case m.HostPath != "":
		c.absolute(p.to("hostPath"), m.HostPath)
	}
	c.positive(p.to("tmpfs"), m.Tmpfs)
}

func (c *checker) volume(m *Mount, p place) {
	name := p
	if c.find(p).Kind == yaml.MappingNode {
		name = p.to("name")
	}
	c.label(name, m.Volume.Name)
	c.leastDisk(p.to("size"), m.Volume.Size, minVolume)
	if m.Volume.Name != "" {
		c.refer(name, reference{kind: refVolume, name: m.Volume.Name, shared: m.Shared != nil && *m.Shared, size: m.Volume.Size})
	}
}

// The least that a file system of its own is made for: below, what it needs for itself is more than 2 %, and a journal
// does not fit.
const minDisk, minVolume = 4 << 20, 8 << 20

func (c *checker) leastDisk(p place, b *Bytes, least Bytes) {
	if b != nil && *b < least {
		c.problem(p, "want at least %s, not %s", least, b)
	}
}

func (c *checker) mountOptions(m *Mount, p place) {
	files := m.Config != "" || m.Secret != ""
	for _, o := range []struct {
		name    string
		set     bool
		allowed bool
		with    string
	}{
		{"key", m.Key != "", files, "config or secret"},
		{"mode", m.Mode != nil, files, "config or secret"},
		{"onChange", m.OnChange != nil, files, "config or secret"},
		{"shared", m.Shared != nil, m.Volume != nil, "volume"},
		{"readOnly", m.ReadOnly != nil, m.Volume != nil || m.HostPath != "", "volume or hostPath"},
	} {
		if o.set && !o.allowed {
			c.problem(p.to(o.name), "goes with %s only", o.with)
		}
	}
	if m.Key != "" {
		c.fileName(p.to("key"), m.Key)
	}
	if m.OnChange != nil && m.OnChange.Signal != "" {
		c.signal(p.to("onChange", "signal"), m.OnChange.Signal)
	}
}
