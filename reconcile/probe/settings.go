package probe

import (
	"fmt"
	"reflect"
	"strconv"
	"time"

	"reconciler/manifest"
)

// kind is which of a container's probes is meant.
type kind int

// The kinds, the one that counts most first.
const (
	startup kind = iota
	liveness
	readiness
	kinds
)

// String returns the name of the manifest's field.
func (k kind) String() string {
	return [...]string{"startupProbe", "livenessProbe", "readinessProbe"}[k]
}

// action is one thing that is asked of a container or done in it: exactly one of the first three.
type action struct {
	command []string
	get     *manifest.HTTPGetAction
	socket  *manifest.TCPSocketAction
	port    uint16
}

// settings are what a probe is, with every default.
type settings struct {
	action
	delay, period, timeout time.Duration
	successes, failures    int // how many in a row count
	grace                  *time.Duration
}

func (s settings) equal(other settings) bool { return reflect.DeepEqual(s, other) }

// care is what a container's manifest says of its probes and hooks; nil: it has no such.
type care struct {
	probes             [kinds]*settings
	postStart, preStop *action
}

// probed reports whether there is anything to find out.
func (c care) probed() bool { return c.postStart != nil || c.probes != [kinds]*settings{} }

// careOf reads what origin, a runtime.Spec's, says. A port that cannot be told fails at every try, with the reason: no
// valid manifest has one.
func careOf(origin []byte) (care, error) {
	w, err := manifest.DecodeWorkload(origin)
	if err != nil {
		return care{}, fmt.Errorf("read the probes of a container: %w", err)
	}
	s := manifest.Defaulted(w.Spec)
	var c care
	for k, p := range map[kind]*manifest.Probe{startup: s.StartupProbe, liveness: s.LivenessProbe, readiness: s.ReadinessProbe} {
		if p != nil {
			c.probes[k] = settingsOf(*p, s.Ports)
		}
	}
	if l := s.Lifecycle; l != nil {
		c.postStart, c.preStop = handlerOf(l.PostStart, s.Ports), handlerOf(l.PreStop, s.Ports)
	}
	return c, nil
}

func settingsOf(p manifest.Probe, ports []manifest.Port) *settings {
	s := &settings{
		action: actionOf(p.Exec, p.HTTPGet, p.TCPSocket, ports), delay: seconds(p.InitialDelaySeconds),
		period: seconds(p.PeriodSeconds), timeout: seconds(p.TimeoutSeconds),
		successes: int(*p.SuccessThreshold), failures: int(*p.FailureThreshold),
	}
	if n := p.TerminationGracePeriodSeconds; n != nil {
		grace := seconds(n)
		s.grace = &grace
	}
	return s
}

// seconds is n seconds, or a century where that would be more.
func seconds(n *int64) time.Duration {
	const century = 100 * 365 * 24 * 60 * 60
	return time.Duration(min(*n, century)) * time.Second
}

func handlerOf(h *manifest.Handler, ports []manifest.Port) *action {
	if h == nil {
		return nil
	}
	a := actionOf(h.Exec, h.HTTPGet, nil, ports)
	return &a
}

func actionOf(exec *manifest.ExecAction, get *manifest.HTTPGetAction, socket *manifest.TCPSocketAction, ports []manifest.Port) action {
	switch {
	case exec != nil:
		return action{command: exec.Command}
	case get != nil:
		return action{get: get, port: portOf(get.Port, ports)}
	case socket != nil:
		return action{socket: socket, port: portOf(socket.Port, ports)}
	}
	return action{}
}

// portOf returns the number of a port that a manifest names.
func portOf(ref manifest.PortRef, ports []manifest.Port) uint16 {
	if n, err := strconv.ParseUint(string(ref), 10, 16); err == nil {
		return uint16(n)
	}
	for _, p := range ports {
		if p.Name == string(ref) {
			return uint16(p.ContainerPort)
		}
	}
	return 0
}
