package plan

import (
	"fmt"
	"net/netip"

	"reconciler/manifest"
	"reconciler/runtime"
)

func lowerNetwork(out *runtime.Spec, s manifest.Spec) (err error) {
	other, shares := s.Network.SharedWith()
	switch {
	case shares && other != "":
		out.Network = runtime.Network(runtime.NetworkContainerPrefix + other)
	case s.Network == manifest.NetworkNone:
		out.Network = runtime.NetworkNone
	case s.Network == manifest.NetworkHost:
		out.Network = runtime.NetworkHost
	case s.Network == manifest.NetworkBridge:
		out.Network = runtime.NetworkBridge
	default:
		return fmt.Errorf("spec.network: want bridge, host, none or container:NAME, not %q", s.Network)
	}
	if out.Network == runtime.NetworkBridge {
		if out.Ports, err = lowerPorts(s.Ports); err != nil {
			return err
		}
	}
	if s.DNS != nil {
		out.DNS = runtime.DNS{Search: s.DNS.Search, Options: s.DNS.Options}
		for i, a := range s.DNS.Nameservers {
			server, err := netip.ParseAddr(a)
			if err != nil {
				return fmt.Errorf("spec.dns.nameservers[%d]: %w", i, err)
			}
			out.DNS.Nameservers = append(out.DNS.Nameservers, server)
		}
	}
	out.ExtraHosts = s.ExtraHosts
	return nil
}

// lowerPorts leaves out the ports that are not published: their names are for probes.
func lowerPorts(ports []manifest.Port) ([]runtime.Port, error) {
	var out []runtime.Port
	for i, p := range ports {
		if p.HostPort == nil {
			continue
		}
		to := runtime.Port{Name: p.Name, Protocol: string(p.Protocol)}
		for _, number := range []struct {
			from int64
			to   *uint16
		}{{*p.HostPort, &to.HostPort}, {p.ContainerPort, &to.ContainerPort}} {
			if number.from < 1 || number.from > 1<<16-1 {
				return nil, fmt.Errorf("spec.ports[%d]: %d is no port", i, number.from)
			}
			*number.to = uint16(number.from)
		}
		if p.HostIP != "" {
			ip, err := netip.ParseAddr(p.HostIP)
			if err != nil {
				return nil, fmt.Errorf("spec.ports[%d].hostIP: %w", i, err)
			}
			to.HostIP = ip.Unmap()
		}
		for j, network := range p.Allow {
			prefix, err := manifest.ParseAllowed(network)
			if err != nil {
				return nil, fmt.Errorf("spec.ports[%d].allow[%d]: %w", i, j, err)
			}
			to.Allow = append(to.Allow, prefix)
		}
		out = append(out, to)
	}
	return out, nil
}
