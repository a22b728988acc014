package fake

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"reconciler/runtime"
)

// connect gives a container that starts its addresses, or those of the container whose network it shares, which must
// run. A port that another name publishes is refused, as the real thing does. The caller holds r.mu.
func (r *Runtime) connect(c *container) error {
	s := &c.status
	other, shares := strings.CutPrefix(string(s.Spec.Network), runtime.NetworkContainerPrefix)
	switch {
	case shares:
		name := runtime.Name{Namespace: s.Spec.Name.Namespace, Name: other}
		for _, o := range r.containers {
			if o.status.Spec.Name == name && o.status.State == runtime.StateRunning {
				s.Shares = &runtime.StartOf{ID: o.status.ID, Starts: o.status.Starts}
				s.IP, s.IPv6, s.MAC = o.status.IP, o.status.IPv6, o.status.MAC
				return nil
			}
		}
		e := failed(OpStart, s.Spec.Name, s.ID, fmt.Errorf("%s does not run", name))
		e.Reason = runtime.ReasonDependencyNotReady
		return e
	case s.Spec.Network == runtime.NetworkBridge:
		high, low := c.number>>8&0xff, c.number&0xff
		s.IP, s.MAC = fmt.Sprintf("10.77.%d.%d", high, low), fmt.Sprintf("02:00:0a:4d:%02x:%02x", high, low)
	}
	return r.publish(s.Spec, s.ID)
}

// publish refuses the ports of spec that a container of another name has. The caller holds r.mu.
func (r *Runtime) publish(spec runtime.Spec, id runtime.ID) error {
	for _, o := range r.containers {
		if o.status.Spec.Name == spec.Name || o.status.State == runtime.StateCreated {
			continue
		}
		for _, p := range spec.Ports {
			if slices.ContainsFunc(o.status.Spec.Ports, p.Collides) {
				return failed(OpStart, spec.Name, id, fmt.Errorf("%w: %s has %d/%s", errPortTaken, o.status.Spec.Name, p.HostPort, p.Protocol))
			}
		}
	}
	return nil
}

var errPortTaken = errors.New("port is taken")
