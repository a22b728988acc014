package plan

import (
	"fmt"
	"net/netip"
	"slices"

	"reconciler/manifest"
	"reconciler/runtime"
)

// ReasonPortConflict is the reason of a Hold for a port of this server that somebody has.
const ReasonPortConflict = "PortConflict"

// TakenPort is a port of this server that somebody else has: a program that listens, another instance.
type TakenPort struct {
	Protocol string     // TCP or UDP
	Address  netip.Addr // the zero one: every address of both families
	Port     uint16
	By       string // such as "a program that listens"
}

// WantsPorts reports whether a container of set is to be published where it is not yet: only then Compute looks at
// Facts.Taken.
func WantsPorts(set manifest.Set, observed []runtime.Status) bool {
	var here map[string]bool
	for _, w := range set.Workloads {
		if !slices.ContainsFunc(w.Spec.Ports, func(p manifest.Port) bool { return p.HostPort != nil }) {
			continue
		}
		if here == nil {
			here = make(map[string]bool, len(observed))
			for _, s := range observed {
				here[s.Spec.OriginDigest] = true
			}
		}
		if !here[w.Digest] {
			return true
		}
	}
	return false
}

// portKey is what two ports have in common that may collide.
type portKey struct {
	protocol string
	port     uint16
}

func keyOf(p runtime.Port) portKey { return portKey{p.Protocol, p.HostPort} }

// holder is who has a port.
type holder struct {
	port runtime.Port
	name manifest.Name
	id   runtime.ID // of the container; empty for one that is to come
}

// ports are those of this server that containers have.
type ports struct {
	holders map[portKey][]holder
	taken   map[portKey][]TakenPort
}

func (c *computation) newPorts() *ports {
	p := &ports{holders: map[portKey][]holder{}, taken: map[portKey][]TakenPort{}}
	for i := range c.in.Observed {
		s := &c.in.Observed[i]
		if w := c.byName[manifest.Name(s.Spec.Name)]; w != nil && s == w.failed {
			continue // it is only kept to be read
		}
		for _, port := range s.Spec.Ports {
			p.holders[keyOf(port)] = append(p.holders[keyOf(port)], holder{port: port, name: manifest.Name(s.Spec.Name), id: s.ID})
		}
	}
	for _, list := range p.holders { // whatever order they were observed in
		slices.SortFunc(list, func(a, b holder) int { return a.name.Compare(b.name) })
	}
	for _, t := range c.in.Facts.Taken {
		key := portKey{t.Protocol, t.Port}
		p.taken[key] = append(p.taken[key], t)
	}
	return p
}

// take notes the ports that w's step publishes.
func (p *ports) take(w *work) {
	for _, port := range w.step.Spec.Ports {
		p.holders[keyOf(port)] = append(p.holders[keyOf(port)], holder{port: port, name: w.name})
	}
}

// conflict says which port of w's step somebody has and does not give up; empty: none. Those that give one up before are
// waited for.
func (p *ports) conflict(pl *placement, w *work) string {
	for _, port := range w.step.Spec.Ports {
		for _, h := range slices.Clone(p.holders[keyOf(port)]) {
			switch {
			case h.name == w.name || !port.Collides(h.port):
			case slices.ContainsFunc(w.step.Remove, func(r Removal) bool { return r.ID == h.id }): // its former name
			case h.id == "":
				return fmt.Sprintf("wants port %s of this server, which is for %s", describePort(port), h.name.Short())
			case pl.givesUp(h, port):
				if !slices.Contains(w.step.After, h.name) {
					w.step.After = append(w.step.After, h.name)
				}
			case pl.visits(h):
				return fmt.Sprintf("wants port %s of this server, which %s has, who waits for %s in turn: take the port away from one of them in a commit before",
					describePort(port), h.name.Short(), w.name.Short())
			case pl.movesAway(h, port):
				return fmt.Sprintf("wants port %s of this server, which %s has until its new container has proved itself", describePort(port), h.name.Short())
			default:
				return fmt.Sprintf("wants port %s of this server, which %s has", describePort(port), h.name.Short())
			}
		}
		if by := p.foreign(w, port); by != "" {
			return fmt.Sprintf("wants port %s of this server, which %s has", describePort(port), by)
		}
	}
	return ""
}

// givesUp reports whether what has a port is about to lose it.
func (p *placement) givesUp(h holder, port runtime.Port) bool {
	w := p.c.byName[h.name]
	if w == nil || p.last || !slices.ContainsFunc(p.c.observed[h.name], func(s *runtime.Status) bool { return s.ID == h.id }) {
		return false // not ours
	}
	p.add(w)
	switch {
	case w.placed != visited: // it waits for that port in turn, or for something that is not there
		return false
	case w.step == nil:
		return false
	case w.step.Op == OpUpdate:
		return w.step.ID == h.id && !slices.ContainsFunc(w.step.Spec.Ports, port.Collides)
	case w.step.Op == OpCreate, w.step.Op == OpReplace, w.step.Op == OpRemove:
		return slices.ContainsFunc(w.step.Remove, func(r Removal) bool { return r.ID == h.id }) &&
			!slices.ContainsFunc(w.step.Spec.Ports, port.Collides)
	default:
		return false
	}
}

// visits reports whether what has a port is being looked at.
func (p *placement) visits(h holder) bool {
	w := p.c.byName[h.name]
	return w != nil && w.placed == visiting
}

// movesAway reports whether what has a port keeps it only for as long as an update that gives it up may be gone back from.
func (p *placement) movesAway(h holder, port runtime.Port) bool {
	w := p.c.byName[h.name]
	switch {
	case w == nil || w.keep == nil || w.keep.ID != h.id:
		return false
	case w.candidate != nil:
		return !slices.ContainsFunc(w.candidate.Spec.Ports, port.Collides)
	default:
		return w.step != nil && w.step.Op == OpReplace && !slices.ContainsFunc(w.step.Spec.Ports, port.Collides)
	}
}

// foreign returns who else has a port that w is to be published on and is not yet; empty: nobody.
func (p *ports) foreign(w *work, port runtime.Port) string {
	taken := p.taken[keyOf(port)]
	if len(taken) == 0 {
		return ""
	}
	for _, s := range append(slices.Clone(w.extra), w.keep, w.candidate) {
		switch {
		case s == nil || s.State != runtime.StateRunning:
		case s.Spec.Network == runtime.NetworkHost:
			return "" // what listens may be that one, which goes
		case slices.ContainsFunc(s.Spec.Ports, func(q runtime.Port) bool { return keyOf(q) == keyOf(port) && q.HostIP == port.HostIP }):
			return ""
		}
	}
	for _, t := range taken {
		if port.Collides(runtime.Port{Protocol: t.Protocol, HostPort: t.Port, HostIP: t.Address}) {
			return t.By
		}
	}
	return ""
}

func describePort(p runtime.Port) string {
	if !p.HostIP.IsValid() {
		return fmt.Sprintf("%d/%s", p.HostPort, p.Protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(p.HostIP, p.HostPort), p.Protocol)
}
