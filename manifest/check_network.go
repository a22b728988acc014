package manifest

import (
	"cmp"
	"net/netip"
	"strings"
)

func (c *checker) network(s *Spec) {
	network := cmp.Or(s.Network, NetworkBridge)
	other, shares := network.SharedWith()
	switch {
	case network == NetworkBridge, network == NetworkNone:
	case network == NetworkHost:
		if sc := valueOf(s.SecurityContext); !valueOf(sc.HostUsers) && !valueOf(sc.Privileged) {
			c.problem(at("network"), "host needs securityContext.hostUsers: true, since the server's network belongs to the server's users")
		}
	case shares && validLabel(other):
		c.refer(at("network"), reference{kind: refNetwork, name: other})
	case shares:
		c.label(at("network"), other)
	default:
		known := []string{string(NetworkBridge), string(NetworkHost), string(NetworkNone)}
		c.problem(at("network"), "want one of %s or container:NAME, not %s%s", strings.Join(known, ", "), quote(string(network)), c.d.didYouMean(string(network), known))
		return
	}
	c.ports(s.Ports, network)
	if r := s.Resources; r != nil && r.Limits != nil && network != NetworkBridge {
		for name, rate := range map[string]*BitRate{"ingress": r.Limits.Ingress, "egress": r.Limits.Egress} {
			if rate != nil {
				c.problem(at("resources", "limits", name), "goes with network: bridge only: this one has no connection of its own")
			}
		}
	}
	c.names(s)
}

// names checks how names are resolved inside.
func (c *checker) names(s *Spec) {
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
	if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" {
		c.problem(p, "want an IP address, not %s", quote(s))
	}
}

func (c *checker) ports(ports []Port, network Network) {
	type inside struct {
		protocol Protocol
		port     int64
	}
	names, published, listening := make(map[string]bool), make(claims[int]), make(map[inside]int)
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
		if port.HostPort != nil {
			c.published(port, p, network, published)
			continue
		}
		for name, set := range map[string]bool{"hostIP": port.HostIP != "", "allow": port.Allow != nil} {
			if set {
				c.problem(p.to(name), "goes with hostPort only")
			}
		}
		key := inside{cmp.Or(port.Protocol, ProtocolTCP), port.ContainerPort}
		if before, ok := listening[key]; ok && port.ContainerPort != 0 {
			c.problem(p, "the port %d/%s stands twice: also at ports[%d]", key.port, key.protocol, before)
		}
		listening[key] = i
	}
}

// published checks a port with a hostPort. all are those of this container so far.
func (c *checker) published(port Port, p place, network Network, all claims[int]) {
	c.port(p.to("hostPort"), *port.HostPort)
	if port.HostIP != "" {
		c.address(p.to("hostIP"), port.HostIP)
	}
	for j, network := range port.Allow {
		if _, err := ParseAllowed(network); err != nil {
			c.problem(p.to("allow", j), "want a network such as 10.0.0.0/8, not %s", quote(network))
		}
	}
	if other, shares := network.SharedWith(); shares {
		c.problem(p.to("hostPort"), "is published by the container whose network this is: write it at %s", quote(other))
		return
	}
	switch network {
	case NetworkNone:
		c.problem(p.to("hostPort"), "a container with network: none cannot be reached")
		return
	case NetworkHost:
		if *port.HostPort != port.ContainerPort {
			c.problem(p.to("hostPort"), "must be the containerPort %d or absent: with network: host the container listens on the server itself", port.ContainerPort)
		}
		for name, set := range map[string]bool{"hostIP": port.HostIP != "", "allow": port.Allow != nil} {
			if set {
				c.problem(p.to(name), "goes with network: bridge only: with host the container itself says where it listens and to whom")
			}
		}
	}
	h, ok := hostPortOf(port)
	if !ok {
		return
	}
	if _, taken := all.claim(h, 0); taken {
		c.problem(p.to("hostPort"), "the port %s is published twice", h)
		return
	}
	c.refer(p.to("hostPort"), reference{kind: refHostPort, hostPort: h})
}

func (c *checker) port(p place, n int64) {
	if n < 1 || n > 65535 {
		c.problem(p, "want a port from 1 to 65535, not %d", n)
	}
}

// ParseAllowed parses an entry of Port.Allow: a network, or the address of one that may connect.
func ParseAllowed(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	return prefix.Masked(), err
}
