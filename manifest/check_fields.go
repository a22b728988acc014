package manifest

import (
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

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
	if m.OnChange == nil {
		return
	}
	if m.OnChange.Signal != "" {
		c.signal(p.to("onChange", "signal"), m.OnChange.Signal)
	}
	if m.Key != "" && m.reloads() {
		// What a running container has mounted is this one file for ever, as with Kubernetes' subPath.
		c.problem(p.to("onChange"), "a single file cannot be swapped below a running container: mount all of it at a directory, or leave onChange out")
	}
}
